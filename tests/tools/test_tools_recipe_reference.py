"""Files that repeat what the code knows of recipes are up to date."""

import json

from tools.recipe_reference import DOCUMENT, SCHEMA, document_with_tables
from vl_lst.recipes.json_schema import recipe_schema

ADVICE = "run `python -m tools.recipe_reference`"


def test_the_schema_in_the_package_is_up_to_date() -> None:
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == recipe_schema(), ADVICE


def test_the_tables_in_the_document_are_up_to_date() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == document_with_tables(text), ADVICE
    assert "| `weight_decay` | `0.01` | Decoupled weight decay. |" in text


def test_the_check_of_the_tables_can_fail() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert document_with_tables(text.replace("| `0.01` |", "| `0.02` |")) == text
