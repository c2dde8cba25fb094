"""Probing: only the heads train, and the visual embedding, if there is one.

The backbone stays as it was pretrained, so the score shows what its states tell a head without any
tuning. Of text alone, it needs no gradients; with a visual embedding, they pass through it.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field
from torch import nn

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.methods import Method
from vl_lst.methods._joint import JointOptions
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.joint import JointBackbone, JointModel
from vl_lst.models.vision_language_model import VisionLanguageModel

__all__ = ["METHOD", "ProbeOptions", "Probing"]


class ProbeOptions(JointOptions):
    """Options of probing.

    Args:
        dropout: Dropout probability in the frozen backbone while training.
    """

    dropout: float = Field(0.0, ge=0, lt=1)


class Probing(Method):
    """Heads on a frozen backbone that reads image tokens after the text."""

    options: type[BaseModel] = ProbeOptions

    def attach(
        self,
        backbone: FrozenBackbone,
        options: BaseModel,
        *,
        visual: VisualConfig | None,
        heads: Mapping[str, HeadConfig],
    ) -> JointModel:
        """Build a model whose encoder reads image tokens, and change nothing of it."""
        assert isinstance(options, ProbeOptions)
        joint = JointBackbone(
            backbone.model,
            dropout=options.dropout,
            recompute=options.recompute is not False,
            family=backbone.family,
        )
        return JointModel(joint, visual=visual, head=heads)

    def trains(self, head: HeadConfig, *, visual: VisualConfig | None) -> bool:
        """Return whether there is a head or a visual embedding to train.

        A head that generates is the backbone's output layer, which stays frozen.
        """
        return visual is not None or head.kind != "generate"

    def trainable(self, model: VisionLanguageModel[Any]) -> dict[str, nn.Parameter]:
        """Return the visual embedding and the heads."""
        chosen = {id(parameter) for part in model.own_parameters() for parameter in part}
        return {name: p for name, p in model.named_parameters() if id(p) in chosen}


METHOD = Probing()
