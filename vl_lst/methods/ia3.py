"""(IA)3 (Liu et al. 2022, arXiv 2205.05638): keys, values and inner activations are rescaled.

The LST paper has no (IA)3; this rescales what the authors of (IA)3 rescale. Factors start at one.
"""

from peft import IA3Config

from vl_lst.methods._joint import JointOptions
from vl_lst.methods._peft import PeftMethod, inject
from vl_lst.models.joint import JointModel

__all__ = ["METHOD", "Rescaling"]


class Rescaling(PeftMethod[JointOptions]):
    """Frozen backbone with learned factors for keys, values and feed-forward activations."""

    def insert(self, model: JointModel, options: JointOptions) -> None:
        """Wrap keys and values of every attention, and the output of every feed-forward layer."""
        backbone_model, family = model.backbone.model, model.backbone.family
        feed_forward = [layers.output for layers in family.feed_forwards(backbone_model)]
        attention = [
            name
            for layers in family.attentions(backbone_model)
            for name in (layers.key, layers.value)
        ]
        config = IA3Config(
            target_modules=attention + feed_forward, feedforward_modules=feed_forward
        )
        inject(model, config)


METHOD = Rescaling()
