"""What reads the images of a recipe's model: a visual embedding, or the backbone itself."""

from pathlib import Path

from feature_extraction.errors import StoreError
from feature_extraction.spec import FeatureSpec, Layer
from tasks import get_task
from vl_lst.backbones.loading import LoadedBackbone
from vl_lst.backbones.random_weights import backbone_config
from vl_lst.bundled import BACKBONE_FOLDERS
from vl_lst.errors import RecipeError
from vl_lst.models.config import VisualConfig
from vl_lst.recipes.schema import Recipe, VisualSection

__all__ = ["LANGUAGE", "encoder_name", "own_encoder", "require_own_features", "visual_config"]

LANGUAGE: Layer = "language"
# Checkpoints of every task have embeddings for at least two images per example.
MIN_IMAGE_POSITIONS = 2
EMBEDDING = "visual.embedding"
# Reasons why a model has no visual embedding.
BACKBONE_READS = "the backbone reads the images"
NO_IMAGES = "the examples have no images"
# Values besides the default with which a section asks for no visual embedding.
UNUSED = {"embedding": ("none",)}


def visual_config(
    recipe: Recipe, loaded: LoadedBackbone, spec: FeatureSpec | None
) -> VisualConfig | None:
    """Return the settings of the visual embedding.

    Args:
        recipe: Recipe of the run.
        loaded: Its backbone.
        spec: Spec of the features that the model will read; `None` if no task has images.

    Returns:
        The settings; `None` if the backbone reads the images, or if there are none.

    Raises:
        RecipeError: The recipe's visual section does not fit the backbone.
        StoreError: The backbone reads images, and the features are not of its own image encoder.
        ModelError: The visual embedding cannot pool the features.
    """
    if spec is None:
        _require_defaults(recipe.visual, NO_IMAGES)
        return None
    name = recipe.backbone.name
    reads_images = loaded.backbone.reads_images
    if recipe.visual.embedding == "none" and not reads_images:
        raise RecipeError(
            f"{EMBEDDING}: found none; the backbone {name} reads text alone, so expected learned, "
            "or a backbone that reads images"
        )
    if reads_images and recipe.visual.embedding != "learned":
        _require_defaults(recipe.visual, BACKBONE_READS)
        require_own_features(loaded, name, spec)
        return None
    return VisualConfig(
        channels=spec.channels,
        tokens=spec.tokens,
        grids=spec.squares,
        pooled_grid=recipe.visual.pooled_grid,
        max_images=max(MIN_IMAGE_POSITIONS, *map(_images_per_example, recipe.tasks)),
        image_order_std=recipe.visual.image_order_std,
    )


def require_own_features(loaded: LoadedBackbone, name: str, spec: FeatureSpec) -> None:
    """Refuse features that a backbone that reads images cannot read.

    Args:
        loaded: The backbone.
        name: Its name.
        spec: Spec of the features.

    Raises:
        StoreError: The features are not of the backbone's own image encoder.
    """
    found = (spec.layer, spec.tokens, spec.channels, spec.projection_sha256)
    tokens, width = loaded.backbone.tokens_per_image, loaded.backbone.width
    expected = (LANGUAGE, tokens, width, loaded.projection_sha256)
    if found != expected:
        raise StoreError(
            f"the backbone {name} reads images, and the features are not of its own image encoder: "
            f"found {spec.encoder} with {_describe(*found)}; expected {_describe(*expected)}. "
            f"Extract them with `vl-lst extract-features --images DIR --out FILE.h5 --encoder "
            f"{encoder_name(name)} --layer {LANGUAGE}`, or train a model with {EMBEDDING}=learned"
        )


def _require_defaults(section: VisualSection, reason: str) -> None:
    """Refuse settings of a visual embedding that the model does not have, for a reason."""
    for field, value in section.model_dump().items():
        default = VisualSection.model_fields[field].default
        if value not in (None, default, *UNUSED.get(field, ())):
            other = "" if reason == NO_IMAGES else f", or set {EMBEDDING} to learned"
            raise RecipeError(
                f"visual.{field}: found {value}; {reason}, so nothing uses it. Leave it at its "
                f"default ({'null' if default is None else default}){other}"
            )


def _describe(layer: str, tokens: int, channels: int, projection: str | None) -> str:
    hash_ = "" if projection is None else f", projection {projection[:12]}"
    return f"the layer {layer}, {tokens} tokens of {channels} channels{hash_}"


def encoder_name(backbone: str) -> str:
    """Return the name with which `vl-lst extract-features` finds a backbone's image encoder."""
    is_known = backbone in BACKBONE_FOLDERS or Path(backbone).is_dir()
    return backbone if is_known else f"hf:{backbone}"


def own_encoder(recipe: Recipe) -> str | None:
    """Return the image encoder whose tokens a recipe's backbone reads, by its name.

    Args:
        recipe: Recipe of a run.

    Returns:
        The name; `None` if a visual embedding reads the images.

    Raises:
        ModelError: There is no such backbone, or it is of no known family.
    """
    name = recipe.backbone.name
    if recipe.visual.embedding == "learned" or not backbone_config(name)[1].reads_images:
        return None
    return encoder_name(name)


def _images_per_example(task: str) -> int:
    return get_task(task).images_per_example
