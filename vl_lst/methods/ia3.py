"""(IA)3 (Liu et al. 2022, arXiv 2205.05638): keys, values and inner activations are rescaled.

The LST paper has no (IA)3; this rescales what the authors of (IA)3 rescale in T5. Factors start at
one.
"""

from peft import IA3Config
from transformers.models.t5.modeling_t5 import T5DenseActDense, T5DenseGatedActDense

from vl_lst.methods._joint import JointOptions
from vl_lst.methods._peft import PeftMethod, attention_projections, inject
from vl_lst.models.joint import JointModel

__all__ = ["METHOD", "Rescaling"]


class Rescaling(PeftMethod[JointOptions]):
    """Frozen backbone with learned factors for keys, values and feed-forward activations."""

    def insert(self, model: JointModel, options: JointOptions) -> None:
        """Wrap k and v of every attention and wo of every feed-forward layer."""
        feed_forward = [
            f"{name}.wo"
            for name, module in model.backbone.model.named_modules()
            if isinstance(module, T5DenseActDense | T5DenseGatedActDense)
        ]
        attention = attention_projections(model, "k", "v")
        config = IA3Config(
            target_modules=attention + feed_forward, feedforward_modules=feed_forward
        )
        inject(model, config)


METHOD = Rescaling()
