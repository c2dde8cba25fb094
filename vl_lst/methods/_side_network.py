"""Base class of methods whose model is a side network next to the frozen backbone."""

from typing import Any

from torch import nn

from vl_lst.methods import Method
from vl_lst.models.ladder.model import LadderModel
from vl_lst.models.vision_language_model import VisionLanguageModel

__all__ = ["SideNetworkMethod"]


class SideNetworkMethod(Method):
    """Method that attaches a `LadderModel`."""

    def trainable(self, model: VisionLanguageModel[Any]) -> dict[str, nn.Parameter]:
        """Return the visual embedding, the side network and the heads; never the backbone."""
        assert isinstance(model, LadderModel)
        return model.trainable()
