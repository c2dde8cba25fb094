"""A frozen backbone, a visual embedding, a ladder side network and a head: one model.

B examples, U unique prompts, P unique (prompt, answer) pairs, T text tokens, S text and image
tokens, L answer tokens, D backbone width, R side width, V vocabulary, A answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vl_lst.backbones.backbone import BackboneCache, EncoderTaps, FrozenBackbone
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig, LadderConfig, VisualConfig
from vl_lst.models.ladder.rungs import RungBuilder
from vl_lst.models.ladder.side_network import LadderSideNetwork, SideCache
from vl_lst.models.vision_language_model import DecodingState, VisionLanguageModel

__all__ = ["EncodedExamples", "LadderDecoding", "LadderModel"]


@dataclass(frozen=True, slots=True)
class EncodedExamples:
    """Both encoders' view of a batch.

    Args:
        side_BSR: The side encoder's states.
        side_mask_BS: Which of them are not padding.
        taps: The backbone encoder's, of the unique prompts.
        prompt_index_B: Which prompt each example has.
    """

    side_BSR: Tensor
    side_mask_BS: Tensor
    taps: EncoderTaps
    prompt_index_B: Tensor

    def backbone_memory(self, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the backbone's decoder attends to, and its mask, for these examples (or all)."""
        index = self.prompt_index_B if rows is None else self.prompt_index_B.index_select(0, rows)
        return self.taps.final_UTD.index_select(0, index), self.taps.mask_UT.index_select(0, index)


class LadderDecoding(DecodingState):
    """The caches of both networks, and what their decoders attend to.

    Args:
        model: The model that generates.
        encoded: What it generates from, a row for each answer to come.
        capacity: Most tokens an answer can have, the start token included.
    """

    def __init__(self, model: "LadderModel", encoded: EncodedExamples, capacity: int) -> None:
        self._model = model
        self._side_BSR = encoded.side_BSR
        self._side_mask_BS = encoded.side_mask_BS
        self._memory_BTD, self._memory_mask_BT = encoded.backbone_memory()
        self._backbone_cache = BackboneCache()
        self._side_cache: SideCache = model.side.decoder.new_cache(encoded.side_BSR, capacity)

    def next_logits(self, tokens_B: Tensor) -> Tensor:
        model = self._model
        taps = model.backbone.decode(
            tokens_B[:, None],
            model.side.decoder.layers,
            encoder_states_PTD=self._memory_BTD,
            encoder_mask_PT=self._memory_mask_BT,
            cache=self._backbone_cache,
        )
        states_B1R = model.side.decoder(
            taps, None, self._side_BSR, self._side_mask_BS, self._side_cache
        )
        return model.logits(states_B1R)[:, 0]

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


class LadderModel(VisionLanguageModel[EncodedExamples]):
    """Ladder Side-Tuning of a frozen encoder-decoder for vision and language.

    Args:
        backbone: Runs without autograd; reads text only.
        visual: How image features become tokens of the side network.
        ladder: Settings of the side network.
        head: See `VisionLanguageModel.add_heads`.
        build_rungs: Builds the rungs and gates of each stack; by default those that `ladder`
            describes.
    """

    backbone: FrozenBackbone
    backbone_kind = FrozenBackbone

    def __init__(
        self,
        backbone: FrozenBackbone,
        *,
        visual: VisualConfig,
        ladder: LadderConfig,
        head: HeadConfig | Mapping[str, HeadConfig],
        build_rungs: RungBuilder | None = None,
    ) -> None:
        super().__init__(backbone, visual=visual)
        self.side = LadderSideNetwork(backbone, ladder, build_rungs)
        self.add_heads(head, width=self.side.shape.width)

    def trainable(self) -> dict[str, nn.Parameter]:
        """What trains, by name: everything but the backbone, and only what the heads use."""
        unused = () if self.generates else tuple(self.side.upsample.parameters())
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if not name.startswith("backbone.") and all(parameter is not other for other in unused)
        }

    def start_decoding(self, encoded: EncodedExamples, capacity: int) -> LadderDecoding:
        """Empty caches on both networks."""
        return LadderDecoding(self, encoded, capacity)

    def encode(self, batch: Batch) -> EncodedExamples:
        """Run both encoders."""
        taps = self.backbone.encode(batch.prompt_ids_UT, self.side.encoder.layers)
        image_tokens_BVD = self.visual(batch.features_BINF)
        side_BSR, mask_BS = self.side.encoder(taps, batch.prompt_index_B, image_tokens_BVD)
        return EncodedExamples(side_BSR, mask_BS, taps, batch.prompt_index_B)

    def decode(
        self,
        encoded: EncodedExamples,
        decoder_ids_BL: Tensor,
        pair_rows_P: Tensor | None,
        pair_index_B: Tensor | None,
    ) -> Tensor:
        """States [B, L, R] of the side decoder for known answers."""
        ids_PL = decoder_ids_BL if pair_rows_P is None else decoder_ids_BL[pair_rows_P]
        memory_PTD, memory_mask_PT = encoded.backbone_memory(pair_rows_P)
        taps = self.backbone.decode(
            ids_PL,
            self.side.decoder.layers,
            encoder_states_PTD=memory_PTD,
            encoder_mask_PT=memory_mask_PT,
        )
        states_BLR: Tensor = self.side.decoder(
            taps, pair_index_B, encoded.side_BSR, encoded.side_mask_BS
        )
        return states_BLR

    def vocabulary_states(self, states_BLR: Tensor) -> Tensor:
        """Side states at the backbone's width, scaled as its output layer expects: [B, L, D]."""
        widened: Tensor = self.side.upsample(states_BLR)
        return widened * self.backbone.vocabulary_scale

    def start_states(self, encoded: EncodedExamples) -> Tensor:
        """Side decoder states [B, R] at the start token; the backbone's part runs once a prompt."""
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
        return states_B1R[:, 0]

    def forward(self, batch: Batch, loss_average: str = "examples") -> Tensor:
        """Training loss of a batch; see `VisionLanguageModel.forward`."""
        if self.training and self.backbone.noisy:
            # Each example has noise of its own, though another has the same text.
            batch = batch.unshared()
        return super().forward(batch, loss_average)
