"""`visual.embedding`: a visual embedding, or a backbone that reads the images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_image_reader import write_image_reader
from tiny_run import TinyWorld

from feature_extraction.errors import StoreError
from feature_extraction.spec import FeatureSpec
from feature_extraction.store import open_features
from vl_lst.backbones.loading import load_backbone
from vl_lst.errors import RecipeError
from vl_lst.models.config import VisualConfig
from vl_lst.recipes import Recipe, resolve_recipe
from vl_lst.recipes.building import build_model
from vl_lst.recipes.visual import visual_config


def spec_of(world: TinyWorld) -> FeatureSpec:
    return open_features(world.train_features).spec


def resolved(recipe: Recipe, spec: FeatureSpec) -> VisualConfig | None:
    return visual_config(recipe, load_backbone(recipe.backbone.name), spec)


def test_the_backbone_decides_by_default(world: TinyWorld, reader_world: TinyWorld) -> None:
    assert world.recipe().visual.embedding is None
    assert resolved(world.recipe(), spec_of(world)) is not None
    for embedding in (None, "none"):
        recipe = reader_world.recipe(visual__embedding=embedding)
        assert resolved(recipe, spec_of(reader_world)) is None


def test_a_resolved_recipe_with_the_default_grid_is_read_again(reader_world: TinyWorld) -> None:
    recipe = reader_world.recipe(visual__embedding="none", visual__pooled_grid=6)
    again = resolve_recipe(recipe.model_dump(mode="json"))
    assert again == recipe
    assert resolved(again, spec_of(reader_world)) is None


def test_a_visual_embedding_reads_any_features(world: TinyWorld, reader_world: TinyWorld) -> None:
    """Next to a backbone that reads images, for comparison, and tokens of another model."""
    learned = reader_world.recipe(visual__embedding="learned")
    for spec in (spec_of(reader_world), spec_of(world)):
        for recipe in (learned, world.recipe()):
            config = resolved(recipe, spec)
            assert config is not None
            assert (config.tokens, config.channels) == (spec.tokens, spec.channels)


def test_a_learned_embedding_leaves_the_text_to_the_backbone(reader_world: TinyWorld) -> None:
    recipe = reader_world.recipe(visual__embedding="learned", head="generate")
    built = build_model(recipe, spec_of(reader_world), {"vqa": None})
    assert not built.model.backbone_reads_images
    assert any(name.startswith("visual.") for name in built.trainable)
    built = build_model(reader_world.recipe(head="generate"), spec_of(reader_world), {"vqa": None})
    assert built.model.backbone_reads_images
    assert not any(name.startswith(("visual.", "backbone.")) for name in built.trainable)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visual__pooled_grid": 3}, "visual.pooled_grid: found 3; the backbone reads the images"),
        ({"visual__image_order_std": 1.0}, r"image_order_std: found 1.0; .*its default \(0.02\)"),
    ],
)
def test_settings_that_nothing_uses_are_refused(
    reader_world: TinyWorld, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        resolved(reader_world.recipe(**changes), spec_of(reader_world))


def test_a_backbone_that_reads_text_alone_needs_an_embedding(world: TinyWorld) -> None:
    with pytest.raises(RecipeError, match=r"visual.embedding: found none; .* expected learned"):
        resolved(world.recipe(visual__embedding="none"), spec_of(world))


def test_features_of_another_encoder_are_refused(
    world: TinyWorld, reader_world: TinyWorld, tmp_path: Path
) -> None:
    recipe, own = reader_world.recipe(), spec_of(reader_world)
    other = write_image_reader(tmp_path / "other", num_layers=2)
    wrong = {
        r"found .* the layer grid, 4 tokens of 256 channels; expected": spec_of(world),
        "the layer language, 6 tokens": replace(own, grid=(1, 6)),
        "5 tokens of 8 channels": replace(own, channels=8),
        "projection 000000000000; expected": replace(own, projection_sha256="0" * 64),
    }
    for message, spec in wrong.items():
        with pytest.raises(StoreError, match=message) as caught:
            resolved(recipe, spec)
        text = str(caught.value)
        assert f"--encoder {reader_world.backbone} --layer language" in text
        assert f"projection {str(own.projection_sha256)[:12]}. Extract" in text
    # Another language model with the same projection reads the same features.
    assert resolved(reader_world.recipe(backbone__name=str(other)), own) is None


def test_the_command_names_the_model_id_of_a_published_backbone(
    world: TinyWorld, reader_world: TinyWorld
) -> None:
    from vl_lst.recipes.visual import require_own_features

    loaded = load_backbone(reader_world.backbone)
    with pytest.raises(StoreError, match="--encoder hf:Salesforce/blip2-flan-t5-xl --layer"):
        require_own_features(loaded, "Salesforce/blip2-flan-t5-xl", spec_of(world))
