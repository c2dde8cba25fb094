"""Pretrained encoder-decoder; frozen, it runs without autograd and its blocks can be tapped.

B examples, U unique prompts, P unique (prompt, answer) pairs, N either of these, T text tokens,
L answer tokens, D backbone width, K tapped blocks, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from vl_lst.errors import ModelError

__all__ = ["IGNORED", "Backbone", "BackboneCache", "DecoderTaps", "EncoderTaps", "FrozenBackbone"]

# Label of positions without a loss.
IGNORED = -100


@dataclass(frozen=True, slots=True)
class EncoderTaps:
    """Encoder states for the side network; none requires grad.

    Args:
        embedding_UTD: Token embeddings.
        blocks_KUTD: Residual stream after each tapped block, before any norm.
        final_UTD: Output after the final norm, to which the backbone's decoder attends.
        mask_UT: False for padding.
    """

    embedding_UTD: Tensor
    blocks_KUTD: Tensor
    final_UTD: Tensor
    mask_UT: Tensor


@dataclass(frozen=True, slots=True)
class DecoderTaps:
    """Decoder states for the side network; none requires grad.

    Args:
        embedding_PLD: Token embeddings.
        blocks_KPLD: Residual stream after each tapped block, before any norm.
        final_PLD: Output after the final norm; unused by the side network.
    """

    embedding_PLD: Tensor
    blocks_KPLD: Tensor
    final_PLD: Tensor


class BackboneCache:
    """Keys and values of the backbone's decoder during generation."""

    def __init__(self) -> None:
        self.entries = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may occur several times."""
        self.reorder(rows)
        self.entries.cross_attention_cache.batch_select_indices(rows)

    def reorder(self, rows: Tensor) -> None:
        """Do the same as `select` if every row stays within its example, as in beam search."""
        self.entries.self_attention_cache.batch_select_indices(rows)


class Backbone(nn.Module):
    """A stock Hugging Face T5 and its properties.

    Args:
        model: Any `T5ForConditionalGeneration` (v1.0, v1.1, Flan).

    Raises:
        ModelError: The model is of another type, or in float16, in which T5 overflows.
    """

    def __init__(self, model: T5ForConditionalGeneration) -> None:
        super().__init__()
        if not isinstance(model, T5ForConditionalGeneration):
            raise ModelError(
                f"a {type(self).__name__} was given a {type(model).__name__}: expected a "
                "T5ForConditionalGeneration; load_backbone(NAME) loads one by name"
            )
        if model.dtype == torch.float16:
            raise ModelError(
                "the backbone is in float16, in which T5's activations overflow to infinity "
                "(it was trained in bfloat16); load it in bfloat16 or float32"
            )
        self.model = model
        self.config: Any = model.config

    def set_dropout(self, probability: float) -> None:
        """Set the probability of every dropout; it applies in training mode."""
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = probability
            elif isinstance(module, T5Attention):  # passes the number to its attention kernel
                module.dropout = probability

    @property
    def width(self) -> int:
        """D, the width of the residual stream."""
        return int(self.config.d_model)

    @property
    def encoder_depth(self) -> int:
        """Number of encoder blocks."""
        return int(self.config.num_layers)

    @property
    def decoder_depth(self) -> int:
        """Number of decoder blocks."""
        return int(self.config.num_decoder_layers)

    @property
    def pad_token_id(self) -> int:
        """Token id for padding."""
        return int(self.config.pad_token_id)

    @property
    def eos_token_id(self) -> int:
        """Token id that ends a text."""
        return int(self.config.eos_token_id)

    @property
    def start_token_id(self) -> int:
        """Token id that starts the decoder; T5's is its padding token."""
        for source in (self.model.generation_config, self.config):
            chosen = getattr(source, "decoder_start_token_id", None)
            if chosen is not None:
                return int(chosen)
        return self.pad_token_id

    @property
    def vocabulary_weight(self) -> Tensor:
        """Weight [V, D] of the output layer; the embedding table if the two are tied."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    @property
    def vocabulary_bias(self) -> Tensor | None:
        """Bias [V] of the output layer, which only a method can add; T5 has none."""
        bias: Tensor | None = self.model.get_output_embeddings().bias
        return bias

    @property
    def vocabulary_scale(self) -> float:
        """Factor for states before the output layer: d_model**-0.5 for T5 v1.0, 1 for v1.1."""
        scaled = getattr(self.config, "scale_decoder_outputs", self.config.tie_word_embeddings)
        return float(self.config.d_model**-0.5) if scaled else 1.0

    def shift_right(self, labels_BL: Tensor) -> Tensor:
        """Return the decoder inputs for labels: start token first, padding instead of `IGNORED`."""
        shifted_BL = labels_BL.roll(1, dims=1)
        shifted_BL = shifted_BL.masked_fill(shifted_BL == IGNORED, self.pad_token_id)
        shifted_BL[:, 0] = self.start_token_id
        return shifted_BL


class FrozenBackbone(Backbone):
    """Backbone that never trains and is invisible to autograd.

    It uses the model's public interface and forward hooks on its blocks. It never sees the image,
    and dropout is off unless `enable_dropout` is called, so its states depend on the text alone.

    Args:
        model: See `Backbone`.
    """

    def __init__(self, model: T5ForConditionalGeneration) -> None:
        super().__init__(model)
        model.eval().requires_grad_(False)
        self.has_dropout = False

    def train(self, mode: bool = True) -> "FrozenBackbone":
        """Set the mode if dropout is enabled; otherwise the backbone stays in evaluation mode."""
        if self.has_dropout:
            self.model.train(mode)
        return self

    def enable_dropout(self, probability: float) -> None:
        """Apply dropout in the frozen backbone in training mode, as the reference does.

        Args:
            probability: Dropout probability; 0 keeps the backbone deterministic.
        """
        self.has_dropout = probability > 0
        self.set_dropout(probability)

    @torch.no_grad()
    def encode(self, ids_UT: Tensor, layers: Sequence[int]) -> EncoderTaps:
        """Run the encoder on text.

        Args:
            ids_UT: Token ids, padded with `pad_token_id`.
            layers: Blocks to tap, ascending and counted from 0.
        """
        mask_UT = ids_UT != self.pad_token_id
        encoder = self.model.get_encoder()
        embedding_UTD = self.model.get_input_embeddings()(ids_UT)
        with _record(encoder.block, layers, embedding_UTD) as blocks_KUTD:
            final_UTD = encoder(
                inputs_embeds=embedding_UTD, attention_mask=mask_UT.long()
            ).last_hidden_state
        _forbid_grad(embedding_UTD, blocks_KUTD, final_UTD)
        return EncoderTaps(embedding_UTD, blocks_KUTD, final_UTD, mask_UT)

    @torch.no_grad()
    def decode(
        self,
        ids_PL: Tensor,
        layers: Sequence[int],
        *,
        encoder_states_PTD: Tensor,
        encoder_mask_PT: Tensor,
        cache: BackboneCache | None = None,
    ) -> DecoderTaps:
        """Run the decoder on answer tokens; with a cache, on the new tokens only.

        Args:
            ids_PL: Decoder input ids, which start with the start token.
            layers: Blocks to tap, ascending and counted from 0.
            encoder_states_PTD: `EncoderTaps.final_UTD`, one row per row of `ids_PL`.
            encoder_mask_PT: `EncoderTaps.mask_UT`, likewise.
            cache: Keys and values of earlier tokens; extended by those of `ids_PL`.
        """
        decoder = self.model.get_decoder()
        embedding_PLD = self.model.get_input_embeddings()(ids_PL)
        with _record(decoder.block, layers, embedding_PLD) as blocks_KPLD:
            final_PLD = decoder(
                inputs_embeds=embedding_PLD,
                encoder_hidden_states=encoder_states_PTD,
                encoder_attention_mask=encoder_mask_PT.long(),
                past_key_values=None if cache is None else cache.entries,
                use_cache=cache is not None,
            ).last_hidden_state
        _forbid_grad(embedding_PLD, blocks_KPLD, final_PLD)
        return DecoderTaps(embedding_PLD, blocks_KPLD, final_PLD)


@contextmanager
def _record(blocks: nn.ModuleList, layers: Sequence[int], like_NTD: Tensor) -> Iterator[Tensor]:
    """Yield a tensor [K, N, T, D] that receives the outputs of the blocks in `layers`."""
    states_KNTD = like_NTD.new_empty((len(layers), *like_NTD.shape))

    def write_to(row: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            states_KNTD[row].copy_(output[0] if isinstance(output, tuple) else output)

        return hook

    handles = [
        blocks[layer].register_forward_hook(write_to(row)) for row, layer in enumerate(layers)
    ]
    try:
        yield states_KNTD
    finally:
        for handle in handles:
            handle.remove()


def _forbid_grad(*states: Tensor) -> None:
    if any(tensor.requires_grad for tensor in states):
        raise RuntimeError(
            "a state of the frozen backbone requires grad: expected none, since it never trains"
        )
