"""Models of a side network next to a frozen backbone, from the batch to the states of its heads.

B examples, U unique prompts, P unique (prompt, answer) pairs, N either of these, T tokens that the
backbone's encoder reads, S tokens that the side encoder reads, L answer tokens, D backbone width, R
width of the side network's states, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from vl_lst.backbones.frozen import DecoderTaps, EncoderTaps
from vl_lst.models.batch import Batch
from vl_lst.models.frozen_backbone_model import FrozenBackboneModel
from vl_lst.models.vision_language_model import DecodingState

__all__ = [
    "SideDecoderCache",
    "SideDecoderStack",
    "SideDecoding",
    "SideEncoding",
    "SideModel",
    "SideNetwork",
    "SideStack",
]


class SideStack(Protocol):
    """Part of a side network next to a stack of the backbone.

    A side encoder is called with the `EncoderTaps` of the unique prompts, the index of each
    example's prompt, and the image tokens of the visual embedding, if there is one. It returns the
    states [B, S, R], those of the backbone's tokens first, and their mask [B, S].
    """

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks of the backbone that it reads, ascending and counted from 0."""

    def __call__(self, *inputs: Any) -> Any:
        """Run the stack."""


class SideDecoderStack(SideStack, Protocol):
    """Part of a side network next to the backbone's decoder.

    It is called with the `DecoderTaps` of the unique pairs, the index of each example's pair
    (`None` if every example is its own pair), the states of the side encoder and their mask, and
    while generating a cache, which it extends. It returns the states [B, L, R].
    """

    def new_cache(self, memory_BSR: Tensor, capacity: int) -> "SideDecoderCache":
        """Return an empty cache for `capacity` tokens per row of the side encoder's states."""


class SideDecoderCache(Protocol):
    """What a side decoder keeps of earlier tokens."""

    def select(self, rows: Tensor) -> None:
        """See `DecodingState`."""

    def reorder(self, rows: Tensor) -> None:
        """See `DecodingState`."""


class SideNetwork(Protocol):
    """What a `SideModel` needs of its side network."""

    @property
    def encoder(self) -> SideStack:
        """Side encoder."""

    @property
    def decoder(self) -> SideDecoderStack | None:
        """Side decoder; `None` next to a backbone without a decoder."""

    def merge(self, states_BLR: Tensor, final_NLD: Tensor, index_B: Tensor | None = None) -> Tensor:
        """Return the states that heads read.

        Args:
            states_BLR: Final states of the side network.
            final_NLD: Final states of the backbone for unique texts.
            index_B: Index of each example's text; `None` if every example is its own text.
        """


@dataclass(frozen=True, slots=True)
class SideEncoding:
    """States of both encoders.

    Args:
        side_BSR: States of the side encoder.
        side_mask_BS: False for padding.
        taps: States of the backbone's encoder for the unique prompts.
        prompt_index_B: Index of each example's prompt.
        decoder_taps: States of the backbone's decoder for the unique pairs, or for the start token
            after each prompt, if they were read from a file.
    """

    side_BSR: Tensor
    side_mask_BS: Tensor
    taps: EncoderTaps
    prompt_index_B: Tensor
    decoder_taps: DecoderTaps | None = None

    def backbone_memory(self, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the states to which the backbone's decoder attends, and their mask.

        Args:
            rows: Examples; `None` means all.
        """
        index = self.prompt_index_B if rows is None else self.prompt_index_B.index_select(0, rows)
        return self.taps.final_UTD.index_select(0, index), self.taps.mask_UT.index_select(0, index)


class SideDecoding(DecodingState):
    """Caches of both decoders, and the encoder states to which they attend.

    Args:
        model: Model that generates.
        encoded: Encoder states, one row per answer.
        capacity: Maximum number of tokens per answer, including the start token.
    """

    def __init__(self, model: "SideModel", encoded: SideEncoding, capacity: int) -> None:
        self._model = model
        self._side_BSR = encoded.side_BSR
        self._side_mask_BS = encoded.side_mask_BS
        self._memory_BTD, self._memory_mask_BT = encoded.backbone_memory()
        self._backbone_cache = model.backbone.new_cache()
        self._decoder = model.side_decoder
        self._side_cache = self._decoder.new_cache(encoded.side_BSR, capacity)

    def next_logits(self, tokens_B: Tensor) -> Tensor:
        model = self._model
        taps = model.backbone.decode(
            tokens_B[:, None],
            self._decoder.layers,
            encoder_states_PTD=self._memory_BTD,
            encoder_mask_PT=self._memory_mask_BT,
            cache=self._backbone_cache,
        )
        states_B1R = self._decoder(taps, None, self._side_BSR, self._side_mask_BS, self._side_cache)
        return model.logits(model.side.merge(states_B1R, taps.final_PLD))[:, 0]

    def select(self, rows: Tensor) -> None:
        self._side_BSR = self._side_BSR.index_select(0, rows)
        self._side_mask_BS = self._side_mask_BS.index_select(0, rows)
        self._memory_BTD = self._memory_BTD.index_select(0, rows)
        self._memory_mask_BT = self._memory_mask_BT.index_select(0, rows)
        self._backbone_cache.select(rows)
        self._side_cache.select(rows)

    def reorder(self, rows: Tensor) -> None:
        self._backbone_cache.reorder(rows)
        self._side_cache.reorder(rows)


class SideModel(FrozenBackboneModel[SideEncoding]):
    """Frozen backbone, a side network that reads its states, and heads.

    Without a visual embedding, the backbone reads the images, if there are any. With one, it reads
    the text only, and image tokens enter the side network. Subclasses set `side` and call
    `add_heads`.
    """

    side: SideNetwork

    @property
    def reads_final_states(self) -> bool:
        """Whether heads read the final states of the backbone too."""
        return False

    @property
    def side_decoder(self) -> SideDecoderStack:
        """Side decoder, which a model with a generation head has."""
        assert self.side.decoder is not None
        return self.side.decoder

    def start_decoding(self, encoded: SideEncoding, capacity: int) -> SideDecoding:
        """Return a state with empty caches of both decoders."""
        return SideDecoding(self, encoded, capacity)

    def encode(self, batch: Batch) -> SideEncoding:
        """Run both encoders."""
        self.require_image_reader(batch)
        image_tokens_BVD = None
        if batch.features_BINF is not None and self.visual is not None:
            image_tokens_BVD = self.visual(batch.features_BINF)
        decoder_taps = None
        if batch.states is not None:
            taps, decoder_taps = batch.states.encoder_taps(), batch.states.decoder_taps()
        else:
            taps = self.backbone.encode(
                batch.prompt_ids_UT, self.side.encoder.layers, self.images_of_prompts(batch)
            )
        side_BSR, mask_BS = self.side.encoder(taps, batch.prompt_index_B, image_tokens_BVD)
        return SideEncoding(side_BSR, mask_BS, taps, batch.prompt_index_B, decoder_taps)

    def decode(
        self,
        encoded: SideEncoding,
        decoder_ids_BL: Tensor,
        pair_rows_P: Tensor | None,
        pair_index_B: Tensor | None,
    ) -> Tensor:
        """Return the states [B, L, R] that the output layer reads for given answers."""
        taps = encoded.decoder_taps
        if taps is None:
            ids_PL = decoder_ids_BL if pair_rows_P is None else decoder_ids_BL[pair_rows_P]
            memory_PTD, memory_mask_PT = encoded.backbone_memory(pair_rows_P)
            taps = self.backbone.decode(
                ids_PL,
                self.side_decoder.layers,
                encoder_states_PTD=memory_PTD,
                encoder_mask_PT=memory_mask_PT,
            )
        states_BLR: Tensor = self.side_decoder(
            taps, pair_index_B, encoded.side_BSR, encoded.side_mask_BS
        )
        return self.side.merge(states_BLR, taps.final_PLD, pair_index_B)

    def start_states(self, encoded: SideEncoding) -> Tensor:
        """Return the states [B, R] that a head which does not generate reads.

        These are the side decoder's at the start token, or without a decoder the side encoder's at
        the first token; a network may mix them with the backbone's at the same token.
        """
        if self.side.decoder is None:
            side_B1R, final_U1D = encoded.side_BSR[:, :1], encoded.taps.final_UTD[:, :1]
            return self.side.merge(side_B1R, final_U1D, encoded.prompt_index_B)[:, 0]
        taps = encoded.decoder_taps
        if taps is None:
            prompts = encoded.taps.final_UTD.shape[0]
            device = encoded.prompt_index_B.device
            start = self.backbone.start_token_id
            taps = self.backbone.decode(
                torch.full((prompts, 1), start, device=device),
                self.side.decoder.layers,
                encoder_states_PTD=encoded.taps.final_UTD,
                encoder_mask_PT=encoded.taps.mask_UT,
            )
        states_B1R: Tensor = self.side.decoder(
            taps, encoded.prompt_index_B, encoded.side_BSR, encoded.side_mask_BS
        )
        return self.side.merge(states_B1R, taps.final_PLD, encoded.prompt_index_B)[:, 0]
