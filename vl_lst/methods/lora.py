"""LoRA (Hu et al. 2021, arXiv 2106.09685) on the queries and values of every attention."""

from peft import LoraConfig
from pydantic import Field

from vl_lst.methods._joint import JointOptions
from vl_lst.methods._peft import PeftMethod, inject
from vl_lst.models.joint import JointModel

__all__ = ["METHOD", "LoraOptions", "LowRankAdaptation"]


class LoraOptions(JointOptions):
    """Options of LoRA, in which a weight W becomes `W + (alpha / r) B A`.

    A is initialised randomly and B with zeros, as published.

    Args:
        rank: r, the rank of B A.
        alpha: Scale of B A.
    """

    rank: int = Field(150, ge=1, le=16_384)
    alpha: float = Field(32, gt=0, le=1e6)


class LowRankAdaptation(PeftMethod[LoraOptions]):
    """Frozen backbone with trainable low-rank updates of its q and v projections.

    Args:
        decomposed: Whether to split weights into magnitude and direction and train the magnitudes
            too (DoRA).
    """

    options = LoraOptions

    def __init__(self, *, decomposed: bool = False) -> None:
        self._decomposed = decomposed

    def insert(self, model: JointModel, options: LoraOptions) -> None:
        """Wrap the queries and values of every attention."""
        backbone = model.backbone
        config = LoraConfig(
            r=options.rank,
            # Annotated as an integer, but peft only divides it by the rank.
            lora_alpha=options.alpha,  # type: ignore[arg-type]
            lora_dropout=options.dropout,
            use_dora=self._decomposed,
            target_modules=[
                name
                for attention in backbone.family.attentions(backbone.model)
                for name in (attention.query, attention.value)
            ],
        )
        inject(model, config)


METHOD = LowRankAdaptation()
