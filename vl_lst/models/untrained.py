"""Model that is nothing but its backbone, which answers as it was pretrained."""

from collections.abc import Iterable

from transformers import PreTrainedModel

from vl_lst.backbones.family import Family
from vl_lst.errors import ModelError
from vl_lst.models.config import HeadConfig
from vl_lst.models.joint import JointBackbone, JointModel

__all__ = ["UntrainedModel"]


class UntrainedModel(JointModel):
    """Backbone without a visual embedding, which reads the text, and the images if it can.

    Args:
        model: Hugging Face model; it is frozen.
        family: See `Backbone`.
        tasks: Names of the tasks that it answers.

    Raises:
        ModelError: The model has no decoder.
    """

    def __init__(
        self, model: PreTrainedModel, *, family: Family | None = None, tasks: Iterable[str]
    ) -> None:
        backbone = JointBackbone(model, dropout=0.0, family=family)
        if not backbone.has_decoder:
            raise ModelError(
                f"a backbone of type {backbone.model_type} has an encoder only, so it cannot "
                "answer without training: expected an encoder-decoder"
            )
        heads = {task: HeadConfig(kind="generate") for task in tasks}
        super().__init__(backbone, visual=None, head=heads)
        self.eval().requires_grad_(False)
