"""Base class of methods that leave the backbone frozen and train what is next to it."""

from typing import Any

from torch import nn

from vl_lst.methods import Method
from vl_lst.models.frozen_backbone_model import FrozenBackboneModel
from vl_lst.models.vision_language_model import VisionLanguageModel

__all__ = ["FrozenBackboneMethod"]


class FrozenBackboneMethod(Method):
    """Method that attaches a `FrozenBackboneModel`."""

    def trainable(self, model: VisionLanguageModel[Any]) -> dict[str, nn.Parameter]:
        """Return the visual embedding, what the method adds and the heads; never the backbone."""
        assert isinstance(model, FrozenBackboneModel)
        return model.trainable()
