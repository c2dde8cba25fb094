"""What lmms-eval reads at its start: the name of the adapter, found by an entry point.

A module of its own, because lmms-eval loads it for every model, also for others than ours.
"""

from lmms_eval.models.registry_v2 import ModelManifest

__all__ = ["manifest"]


def manifest() -> ModelManifest:
    """Return the registration of `--model vl_lst`."""
    return ModelManifest(
        model_id="vl_lst", simple_class_path="vl_lst.plugins.lmms_eval.LmmsEvalModel"
    )
