"""Frozen backbone: it runs without autograd, and its blocks can be tapped.

Its last block alone can be run with gradients for its inputs; see `PausedStack`.

B examples, U unique encoder inputs, P unique (input, answer) pairs, N either of these, I images, M
tokens per image, T tokens that the encoder reads, L answer tokens, D width of a stack, K tapped
blocks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vl_lst.backbones.backbone import Backbone, BackboneCache
from vl_lst.backbones.family import Family
from vl_lst.backbones.paused import PausedStack, call_of

__all__ = ["DecoderTaps", "EncoderTaps", "FrozenBackbone"]


@dataclass(frozen=True, slots=True)
class EncoderTaps:
    """Encoder states for the side network; none requires grad.

    Args:
        embedding_UTD: Input of the first block. With dropout in the backbone, before dropout if
            blocks are like the side network's, as in the reference.
        blocks_KUTD: Residual stream after each tapped block, before any final norm.
        final_UTD: Output of the encoder, to which the backbone's decoder attends.
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
        embedding_PLD: See `EncoderTaps`.
        blocks_KPLD: Residual stream after each tapped block, before any final norm.
        final_PLD: Output of the decoder, which only heads may read.
    """

    embedding_PLD: Tensor
    blocks_KPLD: Tensor
    final_PLD: Tensor


class FrozenBackbone(Backbone):
    """Backbone that never trains and is invisible to autograd.

    It uses the model's public interface and forward hooks on its blocks. Dropout is off unless
    `enable_dropout` is called, so its states depend on what the encoder reads alone: the text, or
    the images and the text.

    Args:
        model: See `Backbone`.
        family: See `Backbone`.
    """

    def __init__(self, model: PreTrainedModel, family: Family | None = None) -> None:
        super().__init__(model, family)
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
    def encode(
        self, ids_UT: Tensor, layers: Sequence[int], images_UIMD: Tensor | None = None
    ) -> EncoderTaps:
        """Run the encoder.

        Args:
            ids_UT: Token ids, padded with `pad_token_id`.
            layers: Blocks to tap, ascending and counted from 0.
            images_UIMD: See `encoder_input`.
        """
        embedding_UTD, mask_UT = self.encoder_input(ids_UT, images_UIMD)
        with self._record(self._encoder_blocks(), layers, embedding_UTD) as recorded:
            final_UTD = self.run_encoder(embedding_UTD, mask_UT)
        _forbid_grad(recorded.embedding_NTD, recorded.blocks_KNTD, final_UTD)
        return EncoderTaps(recorded.embedding_NTD, recorded.blocks_KNTD, final_UTD, mask_UT)

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
        embedding_PLD = self.embed_answer(ids_PL)
        with self._record(self._decoder_blocks(), layers, embedding_PLD) as recorded:
            final_PLD = self.run_decoder(embedding_PLD, encoder_states_PTD, encoder_mask_PT, cache)
        _forbid_grad(recorded.embedding_NTD, recorded.blocks_KNTD, final_PLD)
        return DecoderTaps(recorded.embedding_NTD, recorded.blocks_KNTD, final_PLD)

    @torch.no_grad()
    def encode_to_last(
        self, ids_UT: Tensor, layers: Sequence[int], images_UIMD: Tensor | None = None
    ) -> tuple[PausedStack, Tensor]:
        """Run the encoder up to its last block.

        Args:
            ids_UT: See `encode`.
            layers: Blocks to tap before the last, ascending and counted from 0.
            images_UIMD: See `encode`.

        Returns:
            The encoder, and a mask [U, T], False for padding.
        """
        embedding_UTD, mask_UT = self.encoder_input(ids_UT, images_UIMD)
        paused = self._pause(
            self._encoder_blocks(),
            layers,
            embedding_UTD,
            lambda: self.run_encoder(embedding_UTD, mask_UT),
        )
        return paused, mask_UT

    @torch.no_grad()
    def decode_to_last(
        self,
        ids_PL: Tensor,
        layers: Sequence[int],
        *,
        encoder_states_PTD: Tensor,
        encoder_mask_PT: Tensor,
        cache: BackboneCache | None = None,
    ) -> PausedStack:
        """Run the decoder up to its last block; see `decode` for the arguments.

        The cache is extended by the last block too, when it runs.
        """
        embedding_PLD = self.embed_answer(ids_PL)
        return self._pause(
            self._decoder_blocks(),
            layers,
            embedding_PLD,
            lambda: self.run_decoder(embedding_PLD, encoder_states_PTD, encoder_mask_PT, cache),
        )

    def _pause(
        self,
        blocks: Sequence[nn.Module],
        layers: Sequence[int],
        embedding_NTD: Tensor,
        run: Callable[[], object],
    ) -> PausedStack:
        with self._record(blocks, layers, embedding_NTD) as recorded:
            last = call_of(blocks[-1], run)
        _forbid_grad(recorded.embedding_NTD, recorded.blocks_KNTD)
        return PausedStack(
            recorded.embedding_NTD, recorded.blocks_KNTD, self.model, self.family, last
        )

    @contextmanager
    def _record(
        self, blocks: Sequence[nn.Module], layers: Sequence[int], embedding_NTD: Tensor
    ) -> Iterator["_Recorded"]:
        """Yield states that receive the input of the first block and the outputs of `layers`."""
        recorded = _Recorded(
            embedding_NTD, embedding_NTD.new_empty((len(layers), *embedding_NTD.shape))
        )

        def keep_input(_module: nn.Module, inputs: Any, named: Mapping[str, Any]) -> None:
            recorded.embedding_NTD = inputs[0] if inputs else named["hidden_states"]

        handles = [
            blocks[layer].register_forward_hook(recorded.writer(row))
            for row, layer in enumerate(layers)
        ]
        if not (self.has_dropout and self.family.matches_side_blocks):
            handles.append(blocks[0].register_forward_pre_hook(keep_input, with_kwargs=True))
        try:
            yield recorded
        finally:
            for handle in handles:
                handle.remove()


class _Recorded:
    """States of one stack: the input of its first block, and the outputs of K blocks."""

    def __init__(self, embedding_NTD: Tensor, blocks_KNTD: Tensor) -> None:
        self.embedding_NTD = embedding_NTD
        self.blocks_KNTD = blocks_KNTD

    def writer(self, row: int) -> Callable[[nn.Module, Any, Any], None]:
        """Return a forward hook that copies a block's output."""

        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self.blocks_KNTD[row].copy_(output[0] if isinstance(output, tuple) else output)

        return hook


def _forbid_grad(*states: Tensor) -> None:
    if any(tensor.requires_grad for tensor in states):
        raise RuntimeError(
            "a state of the frozen backbone requires grad: expected none, since it never trains"
        )
