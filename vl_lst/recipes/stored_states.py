"""Recipes whose backbone's states are read from a file: what the file must hold."""

import hashlib

from feature_extraction.errors import StoreError
from feature_extraction.spec import FeatureSpec
from vl_lst.backbones.states.reader import StateReader
from vl_lst.backbones.states.spec import StackSpec
from vl_lst.models.side_model import SideModel
from vl_lst.recipes.schema import Recipe

__all__ = [
    "kept_states",
    "open_states",
    "require_kept_states",
    "states_sha256",
]


def kept_states(model: SideModel) -> tuple[StackSpec, StackSpec | None]:
    """Return the states of the encoder and of the decoder that a model reads in training."""
    backbone, side = model.backbone, model.side
    has_final, has_decoder = model.reads_final_states, side.decoder is not None
    encoder = StackSpec(
        layers=side.encoder.layers, width=backbone.width, has_final=has_final and not has_decoder
    )
    if side.decoder is None:
        return encoder, None
    decoder = StackSpec(
        layers=side.decoder.layers, width=backbone.decoder_sizes.width, has_final=has_final
    )
    return encoder, decoder


def open_states(recipe: Recipe, features: FeatureSpec | None) -> StateReader:
    """Open the file of states of a recipe.

    Args:
        recipe: Recipe with such a file.
        features: Spec of the run's image features, if there are any.

    Raises:
        StoreError: The file is damaged, or its states were computed with other settings.
    """
    assert recipe.states is not None
    reader = StateReader(recipe.states)
    spec = reader.spec
    problems = [
        f"{name}: found {found or 'null'}, expected {expected or 'null'}"
        for name, found, expected in (
            ("backbone.precision", spec.precision, recipe.backbone.precision),
            ("backbone.vocabulary", spec.vocabulary, recipe.backbone.vocabulary),
        )
        if found != expected
    ]
    if spec.features_sha256 is not None:
        expected = None if features is None else features.digest
        if spec.features_sha256 != expected:
            found = spec.features_sha256[:12]
            problems.append(f"features: found {found}, expected {(expected or 'none')[:12]}")
        if recipe.data.blind:
            problems.append("data.blind: found states of images, expected none, since it is true")
    if problems:
        raise StoreError(
            f"the states in {recipe.states} were computed with other settings than those of the "
            f"recipe ({'; '.join(problems)}). Extract them again with `vl-lst extract-states`, or "
            "change the recipe's settings to theirs."
        )
    return reader


def require_kept_states(reader: StateReader, model: SideModel) -> None:
    """Refuse a file without states that a model reads.

    Raises:
        StoreError: Layers, final states or the output layer are missing.
    """
    problems = []
    for name, needed, found in zip(
        ("encoder", "decoder"),
        kept_states(model),
        (reader.spec.encoder, reader.spec.decoder),
        strict=True,
    ):
        if needed is None:
            continue
        layers = () if found is None else found.layers
        if missing := sorted(set(needed.layers) - set(layers)):
            problems.append(f"layers {missing} of the {name} (it has {list(layers)})")
        if needed.has_final and not (found is not None and found.has_final):
            problems.append(f"the final states of the {name}")
    if model.generates and reader.spec.output is None:
        problems.append("the output layer, which a head that generates needs")
    if problems:
        raise StoreError(
            f"the states in {reader.path} lack {'; '.join(problems)}. Extract them with the "
            "method, its options and the heads of this recipe, or train with those of the file."
        )


def states_sha256(reader: StateReader) -> str:
    """Return a digest of which states a file holds, and of which texts."""
    return hashlib.sha256(f"{reader.spec.digest}\n{reader.texts_sha256}".encode()).hexdigest()
