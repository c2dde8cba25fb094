"""The pages of methods say what the code does."""

import pytest

from tools.method_reference import INDEX, PAGES, documented_methods, page_with_options
from vl_lst.methods import get_method

HEADINGS = ("## What it computes", "## Options", "## Memory", "## When to use it", "## When not to")


def test_every_method_with_a_recipe_has_a_page() -> None:
    """`docs/adding_a_method.md` says what such a page needs."""
    missing = [name for name in documented_methods() if not (PAGES / f"{name}.md").exists()]
    assert missing == []
    assert {"lst", "full", "vl-pet"} <= set(documented_methods())


@pytest.mark.parametrize("name", documented_methods())
def test_options_are_those_of_the_code(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    hint = "run `python -m tools.method_reference`"
    assert page_with_options(text, name) == text, hint
    assert [
        field for field in get_method(name).options.model_fields if f"`{field}`" not in text
    ] == []


@pytest.mark.parametrize("name", documented_methods())
def test_pages_are_complete(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert [heading for heading in HEADINGS if heading not in text] == []
    assert f"--method {name}" in text
    assert f"]({name}.md)" in INDEX.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", documented_methods())
def test_memory_is_the_same_on_all_pages(name: str) -> None:
    """All tables come from one call of `vl-lst profile`."""
    rows = [
        line
        for line in INDEX.read_text(encoding="utf-8").splitlines()
        if line.startswith((f"| `{name}` | ", f"| `{name}` ("))
    ]
    assert len(rows) == 1
    assert rows[0] in (PAGES / f"{name}.md").read_text(encoding="utf-8").splitlines()


def test_a_changed_default_is_noticed() -> None:
    text = (PAGES / "lora.md").read_text(encoding="utf-8")
    changed = text.replace("| `rank` | `150` |", "| `rank` | `8` |")
    assert changed != text
    assert page_with_options(changed, "lora") == text


def test_a_page_without_marks_is_an_error() -> None:
    with pytest.raises(ValueError, match="options: start"):
        page_with_options("# LoRA", "lora")
