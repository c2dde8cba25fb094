"""Full fine-tuning: every weight of the backbone trains."""

from collections.abc import Iterable

import torch
from torch import nn

from vl_lst.errors import ModelError
from vl_lst.methods._joint import JointMethod, JointOptions
from vl_lst.models.joint import JointModel

__all__ = ["METHOD", "FullFineTuning"]


class FullFineTuning(JointMethod[JointOptions]):
    """Method that trains the whole backbone, including its embedding and output layer."""

    trains_backbone_weights = True

    def insert(self, model: JointModel, options: JointOptions) -> None:
        """Insert nothing; refuse a backbone that is not float32."""
        dtypes = {parameter.dtype for parameter in model.backbone.parameters()}
        if dtypes != {torch.float32}:
            found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            raise ModelError(
                f"full fine-tuning trains the backbone's weights, which are {found} here; expected "
                "float32, since lower precisions round small updates to zero: set "
                "backbone.precision to fp32 (training.precision may be bf16)"
            )

    def tuned(self, model: JointModel) -> Iterable[nn.Parameter]:
        """Return all parameters of the backbone."""
        return model.backbone.parameters()


METHOD = FullFineTuning()
