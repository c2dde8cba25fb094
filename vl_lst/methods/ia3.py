"""(IA)3 (Liu et al. 2022, arXiv 2205.05638): keys, values and inner activations are rescaled.

The paper this package follows has no (IA)3; what is rescaled is as its own authors do in T5. The
scales begin at one.
"""

from peft import IA3Config
from transformers.models.t5.modeling_t5 import T5DenseActDense, T5DenseGatedActDense

from vl_lst.methods._joint import JointOptions
from vl_lst.methods._peft import PeftMethod, attention_projections, inject
from vl_lst.models.joint import JointModel

__all__ = ["METHOD", "Rescaling"]


class Rescaling(PeftMethod[JointOptions]):
    """One factor a channel is learned for keys, values and feed-forward layers."""

    def insert(self, model: JointModel, options: JointOptions) -> None:
        """Wrap k and v of every attention, and the second layer of every feed-forward one."""
        feed_forward = [
            f"{place}.wo"
            for place, module in model.backbone.model.named_modules()
            if isinstance(module, T5DenseActDense | T5DenseGatedActDense)
        ]
        attention = attention_projections(model, "k", "v")
        config = IA3Config(
            target_modules=attention + feed_forward, feedforward_modules=feed_forward
        )
        inject(model, config)


METHOD = Rescaling()
