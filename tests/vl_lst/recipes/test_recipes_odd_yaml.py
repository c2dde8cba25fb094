"""Odd recipes and overrides cause one message, never a traceback."""

import os
from pathlib import Path
from typing import Any

import pytest
from resolved_recipes import resolve

from eval.errors import InputError
from vl_lst.errors import RecipeError
from vl_lst.methods import get_method, method_names
from vl_lst.recipes import read_recipe_file

LAUGHS = "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(9))
REFUSED = {
    "? [a, b]\n: 1": "a key must be a string, found seq",
    "? {a: 1}\n: 1": "a key must be a string, found map",
    "!!binary aGk=: 1": "a key must be a string, found binary",
    "null: 1": "a key must be a string, found null",
    "1: 2": "a key must be a string, found int '1'",
    "true: 1": "a key must be a string, found bool",
    "<<: {a: 1}": "a key must be a string, found merge",
    "a: !!int ''": "'' cannot be read as int",
    "a: !!int '-'": "cannot be read as int",
    "a: !!float ''": "'' cannot be read as float",
    "a: !!bool perhaps": "'perhaps' cannot be read as bool",
    "a: " + "9" * 5000: "cannot be read as int",
    "a: 0x" + "f" * 5000: "is out of range",
    "a: " + ":".join(["9"] * 2000): "is out of range",
    "a: 1e999": "is out of range",
    "a: .inf": "is out of range",
    "a: .nan": "is out of range",
    "a: !!timestamp nonsense": "timestamp 'nonsense' is not allowed",
    "a: !!binary aGk=": "binary 'aGk=' is not allowed",
    "a: !!set {x}": "set is not allowed",
    "a: !!omap [x: 1]": "omap is not allowed",
    "a: !own x": "is not allowed",
    "a: !!map ''": "expected a mapping node",
    'a: "\\ud800"': "is not valid Unicode",
    "a: \0": "special characters are not allowed",
    "a: 1\n---\nb: 2": "another document",
    "\ta: 1": "cannot start any token",
    "a: 1\n'a': 2": "'a' occurs twice",
    LAUGHS: "an alias",
    "[" * 2000: "recursion",
    "": "found nothing",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text)[:30])
def test_odd_yaml_is_refused_with_the_name_of_its_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(text.encode())
    with pytest.raises(RecipeError) as caught:
        read_recipe_file(path)
    assert str(caught.value).startswith(str(path))
    assert REFUSED[text] in str(caught.value)


def test_dates_are_strings(tmp_path: Path) -> None:
    path = tmp_path / "dates.yaml"
    path.write_text("2014-01-01: 2015-02-03\n")
    assert read_recipe_file(path) == {"2014-01-01": "2015-02-03"}


def test_a_byte_order_mark_is_skipped_and_utf_16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("extends: lora\n", encoding="utf-8-sig")
    assert read_recipe_file(path)["method"]["name"] == "lora"
    path.write_text("extends: lora\n", encoding="utf-16")
    with pytest.raises(RecipeError, match="is UTF-16 text; expected a recipe"):
        read_recipe_file(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "is a named pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device"),
        (Path.mkdir, "is a folder"),
    ],
)
def test_special_files_are_refused(make: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match=message):
        read_recipe_file(tmp_path / "recipe.yaml")


def test_a_recipe_may_be_a_shell_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"extends: lora\n")
    os.close(writer)
    try:
        assert read_recipe_file(f"/dev/fd/{reader}")["method"]["name"] == "lora"
    finally:
        os.close(reader)


def numbers(fields: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name, value in fields.items():
        if isinstance(value, dict):
            found += numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append(prefix + name)
    return found


@pytest.mark.parametrize("field", numbers(resolve("lst").model_dump(mode="json")))
def test_every_number_has_an_upper_limit(field: str) -> None:
    for value in (10**20, 10**400, "1e299", -(10**20)):
        with pytest.raises(RecipeError, match=field.rpartition(".")[2]):
            resolve("lst", f"{field}={value}")


@pytest.mark.parametrize("name", method_names())
def test_every_number_in_a_method_s_options_has_an_upper_limit(name: str) -> None:
    for option in numbers(get_method(name).options().model_dump(mode="json")):
        with pytest.raises(RecipeError, match=option):
            resolve("lst", f"method.name={name}", f"method.options.{option}={10**20}")


@pytest.mark.parametrize("field", ["steps", "epochs", "checkpoint_every_steps"])
def test_numbers_whose_default_is_null_have_an_upper_limit(field: str) -> None:
    with pytest.raises(RecipeError, match=rf"training\.{field}: found 100000000000000000000"):
        resolve("lst", f"training.{field}={10**20}")


@pytest.mark.parametrize(
    "fields",
    [
        "task",
        "data.root",
        "data.train_file data.validation_file",
        "data.answer_list",
        "features",
        "backbone.name",
        "method.name",
        "method.options",
        "head",
    ],
)
@pytest.mark.parametrize("value", ['""', '" "', r'"a\0b"', '[""]'])
def test_blank_and_invalid_names_are_refused(fields: str, value: str) -> None:
    with pytest.raises((RecipeError, InputError)):
        resolve("lst", *(f"{field}={value}" for field in fields.split()))


def test_a_blank_name_is_reported_as_such() -> None:
    with pytest.raises(RecipeError, match=r'data.root: found ""; expected a name, not a blank'):
        resolve("lst", "data.root=''")
    with pytest.raises(RecipeError, match=r"features.0: found .*without null characters"):
        resolve("lst", r'features=["a\0b"]')
