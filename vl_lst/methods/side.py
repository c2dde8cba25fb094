"""Side-tuning: the ladder's side network without rungs, to measure what the rungs contribute.

It reads only the backbone's token embeddings and, to generate, the output layer; of images, what a
backbone that reads images is given.

U unique prompts, P unique (prompt, answer) pairs, N either of these, B examples, T text tokens,
L answer tokens, Q tokens of the side network, K layers, X rung width, D backbone width, R side
width.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor

from vl_lst.backbones.backbone import BackboneCache
from vl_lst.backbones.frozen import DecoderTaps, EncoderTaps, FrozenBackbone
from vl_lst.methods._frozen_backbone import FrozenBackboneMethod
from vl_lst.methods._random_start import RandomStart, draw_weights
from vl_lst.models.config import HeadConfig, LadderConfig, SideSettings, VisualConfig
from vl_lst.models.ladder.model import LadderModel
from vl_lst.models.ladder.rungs import Gates, LinearRungs, Rungs, StackSizes

__all__ = ["METHOD", "SideOptions", "SideTuning"]


class _EmbeddingBackbone(FrozenBackbone):
    """Backbone that only embeds its input; no block runs, since nothing reads block states."""

    @torch.no_grad()
    def encode(
        self, ids_UT: Tensor, layers: Sequence[int], images_UIMD: Tensor | None = None
    ) -> EncoderTaps:
        """Embed prompts, with zeros for the states of the blocks and of the final norm."""
        embedding_UTD, mask_UT = self.encoder_input(ids_UT, images_UIMD)
        embedding_UTD = self._scale(embedding_UTD)
        zeros_KUTD = _zeros(embedding_UTD, layers)
        return EncoderTaps(embedding_UTD, zeros_KUTD, zeros_KUTD[0], mask_UT)

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
        """Embed answers, with zeros as in `encode`."""
        embedding_PLD = self._scale(self.embed_answer(ids_PL))
        zeros_KPLD = _zeros(embedding_PLD, layers)
        return DecoderTaps(embedding_PLD, zeros_KPLD, zeros_KPLD[0])

    def _scale(self, embedding_NTD: Tensor) -> Tensor:
        """Return embeddings that are as large as image tokens.

        If the blocks are like the side network's, the embeddings are read as they are, as by the
        first block. In other backbones they are small, and a norm or a factor follows.
        """
        if self.family.matches_side_blocks:
            return embedding_NTD
        return F.rms_norm(embedding_NTD, embedding_NTD.shape[-1:], eps=self.epsilon)


def _zeros(embedding_NTD: Tensor, layers: Sequence[int]) -> Tensor:
    """Return zeros [K, N, T, D] that take no memory."""
    return embedding_NTD.new_zeros(()).expand(len(layers), *embedding_NTD.shape)


class _NoRungs(Rungs):
    """Rungs of width zero."""

    def forward(self, taps_KNTD: Tensor) -> Tensor:
        """Return an empty tensor [K, N, T, 0]."""
        return taps_KNTD[..., :0]


class _NoGates(Gates):
    """Gates that let the side network's own states pass unchanged."""

    def forward(self, layer: int, rung_BTX: Tensor, states_BQR: Tensor) -> Tensor:
        """Return the side network's own states."""
        return states_BQR


class SideOptions(SideSettings, RandomStart):
    """Options of side-tuning, which are in `SideSettings` and `RandomStart`."""


class SideTuning(FrozenBackboneMethod):
    """Side network that reads no layer of the backbone."""

    options: type[BaseModel] = SideOptions

    def attach(
        self,
        backbone: FrozenBackbone,
        options: BaseModel,
        *,
        visual: VisualConfig | None,
        heads: Mapping[str, HeadConfig],
    ) -> LadderModel:
        """Build a side network without rungs for `backbone`."""
        assert isinstance(options, SideOptions)
        model = LadderModel(
            _EmbeddingBackbone(backbone.model, backbone.family),
            visual=visual,
            # Without rungs, the embeddings need no common scale with them.
            ladder=LadderConfig(
                **options.model_dump(include=set(SideSettings.model_fields)), rungs="linear"
            ),
            head=heads,
            build_rungs=partial(self.build_rungs, options=options),
        )
        draw_weights(model, options)
        return model

    def build_rungs(self, sizes: StackSizes, options: BaseModel) -> tuple[Rungs, Gates]:
        """Build neither rungs nor gates."""
        # Advances the random generator as a ladder does, so that both methods start with the same
        # blocks at the same seed.
        LinearRungs(sizes)
        return _NoRungs(), _NoGates()


METHOD = SideTuning()
