"""Pretrained backbone of any family.

B examples, U unique encoder inputs, P unique (input, answer) pairs, I images, M tokens per image, T
tokens that the encoder reads, L answer tokens, D width of a stack, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vl_lst.backbones.decoding import (
    BackboneCache,
    beam_attention,
    cache_argument,
    can_replace_attention,
)
from vl_lst.backbones.families import family_of
from vl_lst.backbones.family import Family
from vl_lst.backbones.layers import BlockSizes, OutputLayer
from vl_lst.errors import ModelError

__all__ = ["IGNORED", "Backbone", "BackboneCache", "Sublayer", "SublayerKind"]

# Label of positions without a loss.
IGNORED = -100

SublayerKind = Literal["self_attention", "cross_attention", "feed_forward"]


@dataclass(frozen=True, slots=True)
class Sublayer:
    """Attention or feed-forward layer, whose output a block adds to its residual stream.

    Args:
        module: Module with that output, or with a tuple that begins with it.
        reader: Module that reads the residual stream, which is its input: the norm before the
            sublayer, or the sublayer's first linear layer.
        kind: What it is.
        width: Width of the output.
    """

    module: nn.Module
    reader: nn.Module
    kind: SublayerKind
    width: int


class Backbone(nn.Module):
    """A stock Hugging Face model and its properties.

    Args:
        model: Encoder-decoder, or encoder, of a known type.
        family: Family of the model. Default: that of its type. A language model that was taken
            from a model that reads images has the family of that model.

    Raises:
        ModelError: The model is of an unknown type, or in float16.
    """

    def __init__(self, model: PreTrainedModel, family: Family | None = None) -> None:
        super().__init__()
        if not isinstance(model, PreTrainedModel):
            raise ModelError(
                f"a {type(self).__name__} was given a {type(model).__name__}: expected a Hugging "
                "Face encoder-decoder or encoder; load_backbone(NAME) loads one by name"
            )
        self.family = family or family_of(model)
        if model.dtype == torch.float16:
            raise ModelError(
                "the backbone is in float16, in which activations of models that were trained in "
                "bfloat16 or float32 overflow to infinity; load it in bfloat16 or float32"
            )
        self.model: Any = model
        self.linear_layers = tuple(self.family.linear_layers(model))
        """Linear layers of the pretrained model but the output layer, not those that a method
        inserts later."""
        self._beams_share_memory = False

    @property
    def config(self) -> Any:
        """Configuration of the Hugging Face model."""
        return self.model.config

    @property
    def model_type(self) -> str:
        """Type of the Hugging Face model, for messages."""
        return str(self.config.model_type)

    @property
    def has_decoder(self) -> bool:
        """Whether the backbone can generate text."""
        return self.family.has_decoder

    @property
    def reads_images(self) -> bool:
        """Whether the encoder reads image tokens of the model's own image encoder."""
        return self.family.reads_images

    @property
    def tokens_per_image(self) -> int:
        """Number of tokens that the encoder reads of each image, if it reads images."""
        return self.family.tokens_per_image(self.config)

    def set_dropout(self, probability: float) -> None:
        """Set the probability of every dropout; it applies in training mode."""
        self.family.set_dropout(self.model, probability)

    @property
    def encoder_sizes(self) -> BlockSizes:
        """Sizes of the encoder."""
        return self.family.encoder_sizes(self.config)

    @property
    def decoder_sizes(self) -> BlockSizes:
        """Sizes of the decoder."""
        self._require_decoder()
        return self.family.decoder_sizes(self.config)

    @property
    def width(self) -> int:
        """Width of the encoder's residual stream."""
        return self.encoder_sizes.width

    @property
    def output_width(self) -> int:
        """Width of the states that heads read: the decoder's, or without one the encoder's."""
        return self.decoder_sizes.width if self.has_decoder else self.width

    @property
    def epsilon(self) -> float:
        """Epsilon of the encoder's norms."""
        return self.encoder_sizes.epsilon

    @property
    def encoder_depth(self) -> int:
        """Number of encoder blocks."""
        return self.encoder_sizes.depth

    @property
    def decoder_depth(self) -> int:
        """Number of decoder blocks."""
        return self.decoder_sizes.depth if self.has_decoder else 0

    @property
    def relative_positions(self) -> tuple[int, int]:
        """Buckets and maximum distance of the side network's relative positions."""
        return self.family.relative_positions(self.config)

    @property
    def max_positions(self) -> int | None:
        """Maximum number of tokens of the encoder or decoder; `None` if unlimited."""
        return self.family.max_positions(self.config)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.family.vocabulary_size(self.config)

    @property
    def pad_token_id(self) -> int:
        """Token id for padding."""
        return self.family.pad_token_id(self.config)

    @property
    def eos_token_id(self) -> int:
        """Token id that ends an answer of beam search."""
        self._require_decoder()
        return self.family.eos_token_id(self.config)

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Token ids that end a generated text, `eos_token_id` first."""
        return self.family.end_token_ids(self.config)

    @property
    def start_token_id(self) -> int:
        """Token id that starts the decoder."""
        self._require_decoder()
        return self.family.start_token_id(self.model)

    @property
    def forced_bos_token_id(self) -> int | None:
        """Token id that every answer begins with, after the start token; `None` without one."""
        self._require_decoder()
        return self.family.forced_bos_token_id(self.model)

    @property
    def forced_eos_token_id(self) -> int | None:
        """Token id that ends an answer of the maximum length; `None` cuts it off."""
        self._require_decoder()
        return self.family.forced_eos_token_id(self.model)

    @property
    def vocabulary_weight(self) -> Tensor:
        """Weight [V, D] of the output layer; the embedding table if the two are tied."""
        return self._output_layer().weight_VW

    @property
    def vocabulary_bias(self) -> Tensor | None:
        """Bias [V] of the output layer, of the model or added by a method."""
        return self._output_layer().bias_V

    @property
    def vocabulary_scale(self) -> float:
        """Factor for states before the output layer."""
        return self._output_layer().scale

    @property
    def vocabulary_softcap(self) -> float | None:
        """Bound of the logits, `bound * tanh(logits / bound)`; `None` without one."""
        return self._output_layer().softcap

    def stacks(self) -> Mapping[str, tuple[nn.Module, Sequence[nn.Module]]]:
        """Return the module and the blocks of `encoder` and, if there is one, `decoder`."""
        stacks = {"encoder": (self.family.encoder(self.model), self._encoder_blocks())}
        if self.has_decoder:
            stacks["decoder"] = (self.family.decoder(self.model), self._decoder_blocks())
        return stacks

    def sublayers(self) -> list[Sublayer]:
        """Return the attentions and feed-forward layers, in the order of the model's modules."""
        found: dict[str, tuple[nn.Module, SublayerKind, int]] = {}

        def add(name: str, reader: str, kind: SublayerKind, output: str) -> None:
            module = self.model.get_submodule
            found[name] = (module(reader), kind, int(module(output).out_features))

        for attention in self.family.attentions(self.model):
            kind: SublayerKind = "cross_attention" if attention.is_cross else "self_attention"
            # Not the queries of self-attention: where positions are relative, that layer may read
            # positions too.
            reader = attention.norm or (attention.query if attention.is_cross else attention.value)
            add(attention.sublayer, reader, kind, attention.output)
        for layers in self.family.feed_forwards(self.model):
            add(layers.sublayer, layers.norm or layers.inner[0], "feed_forward", layers.output)
        return [
            Sublayer(module, *found[name])
            for name, module in self.model.named_modules()
            if name in found
        ]

    def embed(self, ids_BT: Tensor) -> Tensor:
        """Return the token embeddings [B, T, D] of a text, as the encoder takes them."""
        return self.family.embed(self.model, ids_BT)

    def embed_answer(self, ids_BL: Tensor) -> Tensor:
        """Return the token embeddings [B, L, D] of an answer, as the decoder takes them."""
        return self.family.embed_answer(self.model, ids_BL)

    def learned_input(self, tokens: Tensor, embedding_BTD: Tensor) -> Tensor:
        """Return learned tokens [..., D] as the encoder takes them next to token embeddings."""
        scale = self.family.input_scale(self.config)
        # Dividing by 1 would change the layout of gradients, and so how their sums are rounded.
        return (tokens if scale == 1 else tokens / scale).to(embedding_BTD.dtype)

    def shift_right(self, labels_BL: Tensor) -> Tensor:
        """Return the decoder inputs for labels: start token first, padding instead of `IGNORED`."""
        shifted_BL = labels_BL.roll(1, dims=1)
        shifted_BL = shifted_BL.masked_fill(shifted_BL == IGNORED, self.pad_token_id)
        shifted_BL[:, 0] = self.start_token_id
        return shifted_BL

    def new_cache(self) -> BackboneCache:
        """Return an empty cache of the decoder; within `decoding`, beams share encoder states."""
        self._require_decoder()
        entries = self.family.new_cache(self.model)
        return BackboneCache(entries, shares_memory=self._beams_share_memory)

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Decode faster within the context, in which each call reads one token per row.

        A cache from within the context must not be used outside.
        """
        self._require_decoder()
        decoder = self.family.decoder(self.model)
        is_replaced = can_replace_attention(decoder)
        before = self._beams_share_memory
        self._beams_share_memory = is_replaced and not self.family.merges_attention
        try:
            with beam_attention(decoder) if is_replaced else nullcontext():
                yield
        finally:
            self._beams_share_memory = before

    def encoder_input(
        self, ids_UT: Tensor, images_UIMD: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what the encoder reads, and its mask, which is False for padding.

        Args:
            ids_UT: Token ids, padded with `pad_token_id`.
            images_UIMD: Tokens of each text's images, for a backbone that reads images; `None`
                reads the text alone.

        Raises:
            ModelError: The tokens of images have another width than the encoder.
        """
        if images_UIMD is None:
            return self.embed(ids_UT), ids_UT != self.pad_token_id
        if images_UIMD.shape[-1] != self.width:
            raise ModelError(
                f"the tokens of images have {images_UIMD.shape[-1]} channels: expected those of "
                f"the backbone's own image encoder, which have {self.width}"
            )
        return self.family.join_images(self.model, images_UIMD, ids_UT)

    def run_encoder(self, embedding_UTD: Tensor, mask_UT: Tensor) -> Tensor:
        """Return the output [U, T, D] of the encoder.

        Args:
            embedding_UTD: Token embeddings, of text and of images.
            mask_UT: False for padding.

        Raises:
            ModelError: There are more tokens than positions.
        """
        self._require_positions(embedding_UTD.shape[1], "its encoder")
        encoder = self.family.encoder(self.model)
        states_UTD: Tensor = encoder(
            inputs_embeds=embedding_UTD, attention_mask=mask_UT.long()
        ).last_hidden_state
        return states_UTD

    def run_decoder(
        self,
        embedding_PLD: Tensor,
        encoder_states_PTD: Tensor,
        encoder_mask_PT: Tensor,
        cache: BackboneCache | None,
    ) -> Tensor:
        """Return the output [P, L, D] of the decoder; see `vl_lst.backbones.frozen`."""
        self._require_decoder()
        past = 0 if cache is None else cache.entries.get_seq_length()
        self._require_positions(past + embedding_PLD.shape[1], "its decoder")
        decoder = self.family.decoder(self.model)
        mask = encoder_mask_PT.long()
        if cache is not None and cache.shares_memory:
            # The stock model leaves a mask of four dimensions as it is: it neither expands it to
            # all rows nor asks the device whether there is padding at all.
            mask = encoder_mask_PT[:, None, None]
        states_PLD: Tensor = decoder(
            inputs_embeds=embedding_PLD,
            encoder_hidden_states=encoder_states_PTD,
            encoder_attention_mask=mask,
            use_cache=cache is not None,
            **{cache_argument(type(decoder).forward): None if cache is None else cache.entries},
        ).last_hidden_state
        return states_PLD

    def _output_layer(self) -> OutputLayer:
        self._require_decoder()
        return self.family.output_layer(self.model)

    def _require_decoder(self) -> None:
        if not self.has_decoder:
            raise ModelError(
                f"a backbone of type {self.model_type} has an encoder only, so it cannot generate "
                "text: expected an encoder-decoder, or a classification head"
            )

    def _require_positions(self, tokens: int, reader: str) -> None:
        limit = self.max_positions
        if limit is not None and tokens > limit:
            raise ModelError(
                f"the backbone has positions for {limit} tokens, and {reader} was given {tokens}: "
                "shorten prompts (data.max_prompt_tokens) or answers (generation.max_length), or "
                "pass fewer image tokens (visual.pooled_grid)"
            )

    def _encoder_blocks(self) -> Sequence[nn.Module]:
        return self.family.encoder_blocks(self.model)

    def _decoder_blocks(self) -> Sequence[nn.Module]:
        return self.family.decoder_blocks(self.model)
