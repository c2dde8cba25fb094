"""Options that set fields of a recipe: they exist, and messages name them."""

from pathlib import Path
from typing import get_type_hints

import pytest
from typer.main import get_command

from vl_lst.cli import COMMANDS, build_app
from vl_lst.option_names import FIELD_OF_OPTION, OPTION_OF_FIELD, advice
from vl_lst.recipes import Recipe

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", OPTION_OF_FIELD)
def test_every_field_exists(path: str) -> None:
    kind = Recipe
    *sections, field = path.split(".")
    for section in sections:
        kind = get_type_hints(kind)[section]
    assert field in get_type_hints(kind)


def test_every_option_is_one_of_train() -> None:
    train = get_command(build_app(COMMANDS)).commands["train"]
    assert FIELD_OF_OPTION.keys() <= {name for each in train.params for name in each.opts}


def test_the_table_of_options_in_the_documents_is_complete() -> None:
    text = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")
    table = text.split("## Options and `--set`")[1].split("\n## ")[0]
    missing = [
        word for pair in OPTION_OF_FIELD.items() for word in pair if f"`{word}`" not in table
    ]
    assert not missing


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("data.root", "--data-root"),
        ("backbone", "--backbone"),
        ("optimizer.lr", "--lr or --set optimizer.lr=..."),
        ("optimizer", "--lr or --set optimizer.lr=..."),
        ("optimizer.eps", "--set optimizer.eps=..."),
    ],
)
def test_the_option_that_sets_a_field_is_named(path: str, expected: str) -> None:
    assert advice(path) == expected
