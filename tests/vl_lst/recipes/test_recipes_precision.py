"""Precisions that a recipe leaves to the device: what they become, and that a run keeps them."""

from pathlib import Path

import pytest
import yaml
from resolved_recipes import resolve, resolve_text

from vl_lst.methods import get_method, method_names
from vl_lst.recipes import (
    bundled_recipes,
    dump_recipe,
    load_recipe,
    parse_override,
    read_recipe_file,
    resolve_recipe,
    resolve_zero_shot_recipe,
)

PARITY = [name for name in bundled_recipes() if name.startswith(("demo", "glue-"))]


@pytest.fixture(params=[False, True], ids=["without-bf16", "native-bf16"])
def is_native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    found: bool = request.param
    monkeypatch.setattr("vl_lst.recipes.precision.native_bf16", lambda device: found)
    return found


@pytest.mark.parametrize("method", method_names())
def test_auto_is_what_the_device_computes_natively_and_the_method_can_train(
    method: str, is_native: bool
) -> None:
    recipe = resolve("lst", f"method.name={method}")
    found = (recipe.training.precision, recipe.backbone.precision)
    native = "bf16" if is_native else "fp32"
    if get_method(method).needs_quantized_backbone:
        assert found == (native, "nf4")
    else:
        assert found == (native, "fp32" if method == "full" else native)
    asked = ("training.precision=auto", "backbone.precision=auto")
    assert resolve("lst", f"method.name={method}", *asked) == recipe


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("training.precision=fp32", ("fp32", "fp32")),
        ("backbone.precision=fp32", ("fp32", "fp32")),
        ("training.precision=bf16", ("bf16", "bf16")),
    ],
)
def test_the_precision_that_is_left_to_the_device_fits_the_other(
    given: str, expected: tuple[str, str], is_native: bool
) -> None:
    """A recipe of an earlier version that asks for an exact backbone keeps exact arithmetic."""
    recipe = resolve("lst", given)
    assert (recipe.training.precision, recipe.backbone.precision) == expected


@pytest.mark.parametrize("name", ["lst-paper", *PARITY])
def test_recipes_that_reproduce_numbers_compute_the_same_on_every_device(
    name: str, is_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    recipe = (resolve_text if name.startswith("glue-") else resolve)(name)
    assert (recipe.training.precision, recipe.training.tf32) == ("fp32", False)
    assert recipe.backbone.precision in ("fp32", "nf4")


def test_tf32_is_on_where_it_exists(monkeypatch: pytest.MonkeyPatch, is_native: bool) -> None:
    assert resolve("lst").training.tf32 is False
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert resolve("lst").training.tf32 is True
    assert resolve("lst", "training.device=cpu").training.tf32 is False
    assert resolve("lst", "training.tf32=false").training.tf32 is False


def test_a_run_keeps_its_precisions_on_another_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vl_lst.recipes.precision.native_bf16", lambda device: True)
    started = resolve("lst")
    dump_recipe(started, tmp_path / "recipe.yaml")
    monkeypatch.setattr("vl_lst.recipes.precision.native_bf16", lambda device: False)
    assert load_recipe(tmp_path / "recipe.yaml") == started
    assert resolve("lst").training.precision == "fp32"
    given = [("task", "vqa"), ("data.root", "data"), ("features", ["train.h5"])]
    again = resolve_recipe(
        read_recipe_file("lst"), [*given, ("backbone.name", "demo")], running=started
    )
    assert again == started
    other = parse_override("training.precision=fp32")
    changed = resolve_recipe(started.model_dump(mode="json"), [other], running=started)
    assert changed.training.precision == "fp32"


def test_a_run_of_an_earlier_version_was_in_float32(tmp_path: Path, is_native: bool) -> None:
    file = tmp_path / "recipe.yaml"
    dump_recipe(resolve("lst"), file)
    fields = yaml.safe_load(file.read_text())
    del fields["backbone"]["precision"]
    for name in ("precision", "tf32", "compile"):
        del fields["training"][name]
    file.write_text(yaml.safe_dump(fields))
    former = load_recipe(file)
    assert (former.training.precision, former.backbone.precision) == ("fp32", "fp32")
    assert (former.training.tf32, former.training.compile) == (False, False)


def test_a_backbone_without_training_has_the_precision_of_the_device(is_native: bool) -> None:
    given = [("task", "rte"), ("data.root", "data"), ("backbone.name", "demo")]
    native = "bf16" if is_native else "fp32"
    recipe = resolve_zero_shot_recipe({}, given)
    assert (recipe.training.precision, recipe.backbone.precision) == (native, native)
    exact = resolve_zero_shot_recipe({}, [*given, ("backbone.precision", "fp32")])
    assert (exact.training.precision, exact.backbone.precision) == ("fp32", "fp32")
    # A run that is in a folder already.
    saved = recipe.model_dump(mode="json")
    del saved["training"]["tf32"]
    assert resolve_zero_shot_recipe(saved).training.tf32 is False
