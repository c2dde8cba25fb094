"""Ladder Side-Tuning model: frozen backbone, visual embedding, ladder side network and heads.

B examples, U unique prompts, P unique (prompt, answer) pairs, N either of these, T tokens that the
backbone's encoder reads, S tokens that the side encoder reads, L answer tokens, D backbone width, R
side width (that of the states that heads read, which is D with `merge_last`), V vocabulary, A
answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vl_lst.backbones.frozen import EncoderTaps, FrozenBackbone
from vl_lst.errors import ModelError
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig, LadderConfig, VisualConfig
from vl_lst.models.ladder.rungs import RungBuilder
from vl_lst.models.ladder.side_network import LadderSideNetwork, SideCache, SideDecoder
from vl_lst.models.vision_language_model import DecodingState, VisionLanguageModel

__all__ = ["LadderDecoding", "LadderEncoding", "LadderModel"]


@dataclass(frozen=True, slots=True)
class LadderEncoding:
    """States of both encoders.

    Args:
        side_BSR: States of the side encoder.
        side_mask_BS: False for padding.
        taps: States of the backbone's encoder for the unique prompts.
        prompt_index_B: Index of each example's prompt.
    """

    side_BSR: Tensor
    side_mask_BS: Tensor
    taps: EncoderTaps
    prompt_index_B: Tensor

    def backbone_memory(self, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the states to which the backbone's decoder attends, and their mask.

        Args:
            rows: Examples; `None` means all.
        """
        index = self.prompt_index_B if rows is None else self.prompt_index_B.index_select(0, rows)
        return self.taps.final_UTD.index_select(0, index), self.taps.mask_UT.index_select(0, index)


class LadderDecoding(DecodingState):
    """Caches of both decoders, and the encoder states to which they attend.

    Args:
        model: Model that generates.
        encoded: Encoder states, one row per answer.
        capacity: Maximum number of tokens per answer, including the start token.
    """

    def __init__(self, model: "LadderModel", encoded: LadderEncoding, capacity: int) -> None:
        self._model = model
        self._side_BSR = encoded.side_BSR
        self._side_mask_BS = encoded.side_mask_BS
        self._memory_BTD, self._memory_mask_BT = encoded.backbone_memory()
        self._backbone_cache = model.backbone.new_cache()
        self._decoder = model.side_decoder
        self._side_cache: SideCache = self._decoder.new_cache(encoded.side_BSR, capacity)

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


class LadderModel(VisionLanguageModel[LadderEncoding]):
    """Ladder Side-Tuning of a frozen backbone for vision and language.

    Without a visual embedding, the backbone reads the images, if there are any. With one, it reads
    the text only, and image tokens enter the side network.

    Args:
        backbone: Frozen backbone.
        visual: See `VisionLanguageModel`.
        ladder: Settings of the side network.
        head: See `VisionLanguageModel.add_heads`.
        build_rungs: Function that builds the rungs and gates of each stack. Default: those that
            `ladder` describes.

    Raises:
        ModelError: The settings do not fit the backbone.
    """

    backbone: FrozenBackbone
    backbone_kind = FrozenBackbone

    def __init__(
        self,
        backbone: FrozenBackbone,
        *,
        visual: VisualConfig | None,
        ladder: LadderConfig,
        head: HeadConfig | Mapping[str, HeadConfig],
        build_rungs: RungBuilder | None = None,
    ) -> None:
        super().__init__(backbone, visual=visual)
        if visual is None and ladder.image_rungs != "pass":
            raise ModelError(
                f"image_rungs is {ladder.image_rungs}, which changes the tokens of a visual "
                "embedding, and the model has none: expected pass"
            )
        self.side = LadderSideNetwork(backbone, ladder, build_rungs)
        self.add_heads(head, width=self.side.output_width)

    @property
    def side_decoder(self) -> SideDecoder:
        """Side decoder, which a model with a generation head has."""
        assert self.side.decoder is not None
        return self.side.decoder

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by name: all outside the backbone that the heads use."""
        is_used = self.generates or self.side.last_gate is not None
        upsample = None if is_used else self.side.upsample
        unused = () if upsample is None else tuple(upsample.parameters())
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if not name.startswith("backbone.") and all(parameter is not other for other in unused)
        }

    def start_decoding(self, encoded: LadderEncoding, capacity: int) -> LadderDecoding:
        """Return a state with empty caches of both decoders."""
        return LadderDecoding(self, encoded, capacity)

    def encode(self, batch: Batch) -> LadderEncoding:
        """Run both encoders."""
        self.require_image_reader(batch)
        features_BINF = batch.features_BINF
        image_tokens_BVD = None
        if features_BINF is not None and self.visual is not None:
            image_tokens_BVD = self.visual(features_BINF)
        taps = self.backbone.encode(
            batch.prompt_ids_UT, self.side.encoder.layers, self.images_of_prompts(batch)
        )
        side_BSR, mask_BS = self.side.encoder(taps, batch.prompt_index_B, image_tokens_BVD)
        return LadderEncoding(side_BSR, mask_BS, taps, batch.prompt_index_B)

    def decode(
        self,
        encoded: LadderEncoding,
        decoder_ids_BL: Tensor,
        pair_rows_P: Tensor | None,
        pair_index_B: Tensor | None,
    ) -> Tensor:
        """Return the states [B, L, R] that the output layer reads for given answers."""
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

    def vocabulary_states(self, states_BLR: Tensor) -> Tensor:
        """Return the states at the backbone's width [B, L, D], scaled for its output layer."""
        is_wide = self.side.last_gate is not None
        widened_BLD = states_BLR if is_wide else self.side.widen(states_BLR)
        return widened_BLD * self.backbone.vocabulary_scale

    def start_states(self, encoded: LadderEncoding) -> Tensor:
        """Return the states [B, R] that a head which does not generate reads.

        These are the side decoder's at the start token, or without a decoder the side encoder's at
        the first token; with `merge_last`, they are mixed with the backbone's at the same token.
        """
        if self.side.decoder is None:
            side_B1R, final_U1D = encoded.side_BSR[:, :1], encoded.taps.final_UTD[:, :1]
            return self.side.merge(side_B1R, final_U1D, encoded.prompt_index_B)[:, 0]
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

    def forward(self, batch: Batch, loss_average: str = "examples") -> Tensor:
        """Return the training loss of a batch; see `VisionLanguageModel.forward`."""
        if self.training and self.backbone.has_dropout:
            # Examples with equal texts need different dropout masks.
            batch = batch.unshare()
        return super().forward(batch, loss_average)
