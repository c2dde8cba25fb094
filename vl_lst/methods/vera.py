"""VeRA (Kopiczko et al. 2023, arXiv 2310.11454): LoRA with shared random projections."""

from peft import VeraConfig
from pydantic import Field

from vl_lst.methods._joint import JointOptions
from vl_lst.methods._peft import PeftMethod, inject, query_value_layers
from vl_lst.models.joint import JointModel

__all__ = ["METHOD", "VectorAdaptation", "VeraOptions"]


class VeraOptions(JointOptions):
    """Options of VeRA, in which a weight W becomes `W + diag(v) B diag(d) A`.

    A and B are random, frozen and the same for all layers; smaller layers use a part of them. The
    vectors v and d train; v starts at zero.

    Args:
        rank: Number of rows of A, columns of B, and numbers in d.
        initial_scale: Initial value of all numbers in d; 0.1 in the paper.
        projection_seed: Seed for A and B. A run needs the same one whenever it is loaded.
    """

    rank: int = Field(256, ge=1, le=16_384)
    initial_scale: float = Field(0.1, gt=0, le=1e3)
    projection_seed: int = Field(0, ge=0, lt=2**63)


class VectorAdaptation(PeftMethod[VeraOptions]):
    """Frozen backbone with trainable scales of random updates of its q and v projections."""

    options = VeraOptions

    def insert(self, model: JointModel, options: VeraOptions) -> None:
        """Wrap the queries and values of every attention."""
        config = VeraConfig(
            r=options.rank,
            d_initial=options.initial_scale,
            projection_prng_key=options.projection_seed,
            vera_dropout=options.dropout,
            target_modules=query_value_layers(model),
        )
        inject(model, config)


METHOD = VectorAdaptation()
