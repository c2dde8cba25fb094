"""SHERL: a mixture of early features passes the backbone's last block (arXiv 2407.07523).

B examples, U unique prompts, T tokens that the backbone's encoder reads, V tokens of a visual
embedding, S = V + T, L answer tokens, D backbone width; R, the width of the states that heads read,
is the decoder's, or without one D.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vl_lst.backbones.backbone import BackboneCache
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.frozen_backbone_model import FrozenBackboneModel
from vl_lst.models.sherl.stack import MixedStack
from vl_lst.models.tapped_layers import require_decoder_for
from vl_lst.models.vision_language_model import CachedDecoding

__all__ = ["SherlDecoding", "SherlEncoding", "SherlModel"]


@dataclass(frozen=True, slots=True)
class SherlEncoding:
    """Encoder states of examples.

    Args:
        memory_BSD: Mixed states, after the tokens of a visual embedding if there are any, to which
            the last block of the decoder attends. Without a decoder, the final states [B, T, D] of
            the text, which heads read.
        memory_mask_BS: False for padding.
        frozen: Output [B, T, D] of the frozen encoder, to which the other blocks of the decoder
            attend, and its mask [B, T]; `None` without a decoder.
    """

    memory_BSD: Tensor
    memory_mask_BS: Tensor
    frozen: tuple[Tensor, Tensor] | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "SherlEncoding":
        """Return the states of other rows, which `change` makes of each part."""
        frozen = None if self.frozen is None else (change(self.frozen[0]), change(self.frozen[1]))
        return SherlEncoding(change(self.memory_BSD), change(self.memory_mask_BS), frozen)


class SherlDecoding(CachedDecoding["SherlModel", SherlEncoding]):
    """Decoding that runs the decoder with mixed states for its last block."""

    def next_logits(self, tokens_B: Tensor) -> Tensor:
        states_B1R = self._model.run_decoder(self._encoded, tokens_B[:, None], self._cache)
        return self._model.logits(states_B1R)[:, 0]


class SherlModel(FrozenBackboneModel[SherlEncoding]):
    """Frozen backbone whose last block reads a mixture of earlier states.

    Gradients pass through the last block of the decoder, or without a decoder of the encoder, and
    through no other. Tokens of a visual embedding have no states in the backbone; they stand next
    to the mixed states that the last block reads. The frozen encoder runs once for equal prompts;
    the decoder does not, since its last block reads each example's own image.

    Args:
        backbone: Frozen backbone.
        visual: See `VisionLanguageModel`.
        head: See `VisionLanguageModel.add_heads`.
        reduction: Ratio of a stack's width to that of its codes.
        encoder_layers: Blocks of the encoder that are read; `None` means all.
        decoder_layers: Blocks of the decoder that are read, of those before the last.
        score_bias: See `FeatureMixture`.
        dropout: Dropout probability of what is added.
        recompute: Whether the mixtures and the last block save only their inputs for the backward
            pass.

    Raises:
        ModelError: The settings do not fit the backbone.
    """

    def __init__(
        self,
        backbone: FrozenBackbone,
        *,
        visual: VisualConfig | None,
        head: HeadConfig | Mapping[str, HeadConfig],
        reduction: int,
        encoder_layers: Sequence[int] | None,
        decoder_layers: Sequence[int] | None,
        score_bias: float,
        dropout: float,
        recompute: bool,
    ) -> None:
        super().__init__(backbone, visual=visual)
        require_decoder_for(decoder_layers, backbone)
        self.recompute = recompute
        self.dropout = nn.Dropout(dropout)
        build = partial(
            MixedStack,
            reduction=reduction,
            score_bias=score_bias,
            dropout=dropout,
            recompute=recompute,
        )
        has_decoder = backbone.has_decoder
        self.encoder = build(
            backbone.encoder_sizes, "encoder", encoder_layers, is_before_last=not has_decoder
        )
        self.decoder = (
            build(backbone.decoder_sizes, "decoder", decoder_layers, is_before_last=True)
            if has_decoder
            else None
        )
        self.add_heads(head, width=backbone.output_width)

    def encode(self, batch: Batch) -> SherlEncoding:
        """Run the encoder once for each unique prompt, and mix its states."""
        self.require_image_reader(batch)
        if self.decoder is None:
            return self._encode_through_last(batch)
        ids_UT, index_B = batch.prompt_ids_UT, batch.prompt_index_B
        taps = self.backbone.encode(ids_UT, self.encoder.tapped, self.images_of_prompts(batch))
        mixed_UTD = self.encoder.normalise(self.encoder(taps.embedding_UTD, taps.blocks_KUTD))
        mask_BT = taps.mask_UT.index_select(0, index_B)
        memory_BSD, memory_mask_BS = self._join(batch, mixed_UTD.index_select(0, index_B), mask_BT)
        return SherlEncoding(
            self.dropout(memory_BSD),
            memory_mask_BS,
            (taps.final_UTD.index_select(0, index_B), mask_BT),
        )

    def _encode_through_last(self, batch: Batch) -> SherlEncoding:
        """Let the last block of an encoder without a decoder read the mixed states."""
        index_B = batch.prompt_index_B
        paused, mask_UT = self.backbone.encode_to_last(
            batch.prompt_ids_UT, self.encoder.tapped, self.images_of_prompts(batch)
        )
        mixed_UTD = self.encoder(paused.embedding_NTD, paused.blocks_KNTD)
        mask_BT = mask_UT.index_select(0, index_B)
        joined_BSD, mask_BS = self._join(batch, mixed_UTD.index_select(0, index_B), mask_BT)
        states_BSD = paused.finish_encoder(joined_BSD, mask_BS, recompute=self.recompute)
        # Heads read the text, whose states have read the image.
        states_BTD = self.encoder.normalise(states_BSD[:, -mask_BT.shape[1] :])
        return SherlEncoding(self.dropout(states_BTD), mask_BT)

    def _join(self, batch: Batch, states_BTD: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Put the tokens of a visual embedding, normalised, before the states of the text.

        Before it, so that their distance to the text does not depend on its padding.
        """
        if self.visual is None or batch.features_BINF is None:
            return states_BTD, mask_BT
        image_BVD = self.visual(batch.features_BINF)
        image_BVD = F.rms_norm(image_BVD, image_BVD.shape[-1:], eps=self.backbone.epsilon)
        mask_BS = F.pad(mask_BT, (image_BVD.shape[1], 0), value=True)
        return torch.cat((image_BVD.to(states_BTD.dtype), states_BTD), 1), mask_BS

    def decode(
        self,
        encoded: SherlEncoding,
        decoder_ids_BL: Tensor,
        pair_rows_P: Tensor | None = None,
        pair_index_B: Tensor | None = None,
    ) -> Tensor:
        """Return the decoder states [B, L, R] for given answers; the pair arguments are unused."""
        return self.run_decoder(encoded, decoder_ids_BL)

    def run_decoder(
        self, encoded: SherlEncoding, ids_BL: Tensor, cache: BackboneCache | None = None
    ) -> Tensor:
        """Return the decoder states [B, L, R]; with a cache, those of the new tokens."""
        assert self.decoder is not None
        assert encoded.frozen is not None
        frozen_BTD, frozen_mask_BT = encoded.frozen
        paused = self.backbone.decode_to_last(
            ids_BL,
            self.decoder.tapped,
            encoder_states_PTD=frozen_BTD,
            encoder_mask_PT=frozen_mask_BT,
            cache=cache,
        )
        states_BLR = paused.finish_decoder(
            self.decoder(paused.embedding_NTD, paused.blocks_KNTD),
            encoded.memory_BSD,
            encoded.memory_mask_BS,
            recompute=self.recompute,
        )
        final_BLR: Tensor = self.dropout(self.decoder.normalise(states_BLR))
        return final_BLR

    def start_states(self, encoded: SherlEncoding) -> Tensor:
        """Return the states [B, R] that a head which does not generate reads.

        These are the decoder's at the start token, or without a decoder the encoder's at the first
        token of the text.
        """
        if self.decoder is None:
            return encoded.memory_BSD[:, 0]
        rows, start = len(encoded.memory_BSD), self.backbone.start_token_id
        ids_B1 = torch.full((rows, 1), start, device=encoded.memory_BSD.device)
        return self.run_decoder(encoded, ids_B1)[:, 0]

    def start_decoding(self, encoded: SherlEncoding, capacity: int) -> SherlDecoding:
        """Return a state with an empty cache, which grows without limit."""
        return SherlDecoding(self, encoded)
