"""The settings of the states that a run of a recipe reads."""

from feature_extraction.spec import FeatureSpec
from vl_lst.backbones.loading import DTYPES as BACKBONE_DTYPES
from vl_lst.backbones.states.spec import (
    DTYPES,
    STATE_DTYPES,
    OutputSpec,
    StateSpec,
    state_packages,
)
from vl_lst.choices import StatePrecision
from vl_lst.models.side_model import SideModel
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel
from vl_lst.recipes.stored_states import kept_states

__all__ = ["state_spec"]

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def state_spec(
    recipe: Recipe,
    built: BuiltModel,
    precision: StatePrecision | None,
    features: FeatureSpec | None,
) -> StateSpec:
    """Return the settings of the states that a model reads in training.

    Args:
        recipe: Recipe of the run.
        built: Its model, with the backbone in memory.
        precision: Type of the stored states. Default: that of the backbone's activations.
        features: Spec of the features that the backbone reads; `None` if it reads text alone.
    """
    model = built.model
    assert isinstance(model, SideModel), "methods that read states alone attach one"
    encoder, decoder = kept_states(model)
    output = None
    if model.generates:
        weight_VD = model.backbone.vocabulary_weight
        output = OutputSpec(
            vocabulary_size=weight_VD.shape[0],
            width=weight_VD.shape[1],
            dtype=DTYPE_NAMES[weight_VD.dtype],
            has_bias=model.backbone.vocabulary_bias is not None,
        )
    return StateSpec(
        backbone=recipe.backbone.name,
        weights_sha256=built.fingerprint,
        precision=recipe.backbone.precision,
        vocabulary=recipe.backbone.vocabulary,
        tokenizer_sha256=built.tokenizer.vocabulary_sha256,
        encoder=encoder,
        decoder=decoder,
        dtype=DTYPE_NAMES[BACKBONE_DTYPES[recipe.backbone.precision]]
        if precision is None
        else STATE_DTYPES[precision],
        output=output,
        features_sha256=None if features is None else features.digest,
        weights_bf16_sha256=built.fingerprint_bf16,
        packages=state_packages(),
    )
