"""BitFit (Ben Zaken et al. 2021, arXiv 2106.10199): only biases train.

As in the LST paper's code, this adds biases of zeros to every linear layer, every norm, the output
layer and the norms of the visual embedding; see `add_biases`.
"""

from collections.abc import Iterator

from pydantic import BaseModel
from torch import nn

from vl_lst.errors import ModelError
from vl_lst.methods._biases import add_biases, added_biases, biased_layers
from vl_lst.methods._joint import JointMethod, JointOptions
from vl_lst.models.joint import JointModel

__all__ = ["METHOD", "BitFit", "BitFitOptions"]


class BitFitOptions(JointOptions):
    """Options of BitFit.

    Args:
        final_norms: Whether the norms after the last block of a stack get a bias too. In the
            paper's code, they do for images and not for language tasks.
    """

    final_norms: bool = True


class BitFit(JointMethod[BitFitOptions]):
    """Frozen backbone with a trainable bias in every layer."""

    options: type[BaseModel] = BitFitOptions

    def insert(self, model: JointModel, options: BitFitOptions) -> None:
        """Add a bias of zeros to every layer."""
        backbone = model.backbone
        if not options.final_norms and not any(backbone.family.final_norms(backbone.model)):
            raise ModelError(
                f"final_norms is false, and a backbone of type {backbone.model_type} has no norm "
                "after the last block of a stack: expected true"
            )
        add_biases(model, biased_layers(model, final_norms=options.final_norms))

    def tuned(self, model: JointModel) -> Iterator[nn.Parameter]:
        """Yield the added biases."""
        return added_biases(model)


METHOD = BitFit()
