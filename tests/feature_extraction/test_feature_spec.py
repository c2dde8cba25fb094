import dataclasses
import json
import pickle

import pytest

from feature_extraction.errors import StoreError
from feature_extraction.spec import FeatureSpec, grid_side, package_versions

SPEC = FeatureSpec(
    encoder="RN101",
    weights="openai",
    architecture_sha256="a" * 64,
    weights_sha256="b" * 64,
    quick_gelu=True,
    image_size=224,
    resize="squash",
    background=(255, 255, 255),
    exact_pixels=4194304,
    layer="grid",
    grid=(7, 7),
    channels=2048,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    precision="fp32",
    packages=package_versions(),
)


def test_json_round_trip_is_canonical() -> None:
    text = SPEC.to_json()
    again = FeatureSpec.from_json(text)
    assert again == SPEC
    assert again.to_json() == text
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert pickle.loads(pickle.dumps(SPEC)) == SPEC


def test_names_and_package_versions_are_not_in_the_digest() -> None:
    renamed = dataclasses.replace(SPEC, encoder="mine", weights="file:x", packages={"torch": "0"})
    assert renamed.digest == SPEC.digest
    assert SPEC.differences(renamed) == []


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("image_size", 288, "image_size: found 224, expected 288"),
        ("weights_sha256", "c" * 64, "weights_sha256: found bbbbbbbbbbbb…, expected cccccccccccc…"),
        ("precision", "bf16", "precision: found fp32, expected bf16"),
        ("resize", "letterbox", "resize: found squash, expected letterbox"),
    ],
)
def test_fields_that_determine_the_values_change_the_digest_and_are_named(
    field: str, value: object, line: str
) -> None:
    other = dataclasses.replace(SPEC, **{field: value})
    assert other.digest != SPEC.digest
    assert SPEC.differences(other) == [line]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"version":1', '"version":2', "version 2"),
        ('"version":1', '"version":3', "version 3"),
        ('"version":1', '"version":4', "its version is 4"),
        ('"version":1', '"version":true', "its version is True"),
        ('"version":1', '"crops":2,"version":1', "version 1"),
        ('"version":1', '"crops":9,"version":2', "crops"),
        ('"version":1', '"projection_sha256":"","version":2', "version 2"),
        ('"version":1', '"projection_sha256":"","version":3', "projection_sha256"),
        ('"version":1', '"versions":1', "its version is None"),
        ('"channels":2048', '"channels":0', "channels"),
        ('"channels":2048,', "", "channels"),
        ('"layer":"grid"', '"layer":"last"', "layer"),
        ('"version":1', '"version":1,"extra":0', "extra"),
        ("}", "", "JSON"),
        ("{", "[" * 100_000, "JSON"),
    ],
)
def test_an_invalid_spec_is_refused_naming_the_field(old: str, new: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        FeatureSpec.from_json(SPEC.to_json().replace(old, new))


def test_a_spec_without_crops_is_written_as_version_1() -> None:
    """Older stores and checkpoints stay usable, and older programs can read new stores."""
    spec = dataclasses.replace(SPEC, packages={})
    fields = json.loads(spec.to_json())
    assert fields["version"] == 1
    assert "crops" not in fields
    assert spec.digest == "caadee1baa413fd68a4785b04231c491fa7851b6cdbe2ecde1d6a1dabdd48779"
    assert FeatureSpec.from_json(spec.to_json()).crops == 1


def test_crops_change_the_digest_and_are_written_as_version_2() -> None:
    cropped = dataclasses.replace(SPEC, crops=3)
    fields = json.loads(cropped.to_json())
    assert (fields["version"], fields["crops"]) == (2, 3)
    assert FeatureSpec.from_json(cropped.to_json()) == cropped
    assert cropped.digest != SPEC.digest
    assert SPEC.differences(cropped) == ["crops: found 1, expected 3"]
    assert cropped.differences(SPEC) == ["crops: found 3, expected 1"]
    assert (cropped.squares, cropped.tokens) == (10, 10 * 49)
    assert (SPEC.squares, SPEC.tokens) == (1, 49)
    assert pickle.loads(pickle.dumps(cropped)) == cropped


@pytest.mark.parametrize("crops", [1, 2])
def test_a_projection_changes_the_digest_and_is_written_as_version_3(crops: int) -> None:
    """The projection tells whether a language model belongs to the features."""
    settings = {"layer": "language", "grid": (1, 32), "crops": crops}
    tokens = dataclasses.replace(SPEC, **settings, projection_sha256="c" * 64)
    other = dataclasses.replace(tokens, projection_sha256="d" * 64)
    fields = json.loads(tokens.to_json())
    assert (fields["version"], fields["projection_sha256"]) == (3, "c" * 64)
    assert ("crops" in fields) == (crops > 1)
    assert FeatureSpec.from_json(tokens.to_json()) == tokens
    assert tokens.digest != other.digest
    line = "projection_sha256: found cccccccccccc…, expected dddddddddddd…"
    assert tokens.differences(other) == [line]
    assert tokens.tokens == 32 * tokens.squares
    assert pickle.loads(pickle.dumps(tokens)) == tokens


@pytest.mark.parametrize(
    ("tokens", "grids", "side"),
    [(49, 1, 7), (1, 1, 1), (50, 1, None), (10 * 49, 10, 7), (98, 1, None), (99, 2, None)],
)
def test_the_side_of_square_grids(tokens: int, grids: int, side: int | None) -> None:
    assert grid_side(tokens, grids) == side
