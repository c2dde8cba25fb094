"""Base class of models whose backbone stays frozen.

U unique prompts, I images, M tokens per image, D width of an image token.
"""

from typing import TypeVar

from torch import Tensor, nn

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.errors import ModelError
from vl_lst.models.batch import Batch
from vl_lst.models.vision_language_model import VisionLanguageModel

__all__ = ["FrozenBackboneModel"]

Encoded = TypeVar("Encoded")


class FrozenBackboneModel(VisionLanguageModel[Encoded]):
    """Frozen backbone, and what is next to it: all of this trains.

    Equal texts of a batch share the states of the backbone.
    """

    backbone: FrozenBackbone
    backbone_kind = FrozenBackbone

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by name: all outside the backbone."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if not name.startswith("backbone.")
        }

    def images_of_prompts(self, batch: Batch) -> Tensor | None:
        """Return the images [U, I, M, D] of the unique prompts, if the backbone reads them.

        Raises:
            ModelError: The batch does not tell which image belongs to which prompt.
        """
        if batch.features_BINF is None or self.visual is not None:
            return None
        if batch.prompt_rows_U is None:
            raise ModelError(
                "the backbone reads images, and the batch does not tell which image belongs to "
                "which prompt: expected prompt_rows_U"
            )
        return batch.features_BINF.index_select(0, batch.prompt_rows_U)

    def forward(self, batch: Batch, loss_average: str = "examples") -> Tensor:
        """Return the training loss of a batch; see `VisionLanguageModel.forward`."""
        if self.training and self.backbone.has_dropout:
            # Examples with equal texts need different dropout masks.
            batch = batch.unshare()
        return super().forward(batch, loss_average)
