"""Write what the code knows of methods into the pages in `docs/methods/`.

    vl-lst profile --backbone t5-base --dry-run --methods all --recompute both --json cost.json
    python -m tools.method_reference cost.json

The options of each method with their defaults and, if the output of the first command is given, the
memory that each method takes.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from tools._marked_tables import replace_marked
from vl_lst.bundled import bundled_recipes, recipe_path
from vl_lst.methods import get_method, method_names
from vl_lst.recipes.descriptions import describe_fields

__all__ = ["INDEX", "PAGES", "documented_methods", "main", "page_with_options"]

PAGES = Path(__file__).resolve().parent.parent / "docs" / "methods"
INDEX = PAGES / "README.md"
LADDER, REFERENCE = "lst", "full"
# Beside every method.
RIVALS = (LADDER, "lora", REFERENCE)
MEBIBYTE = 2**20
# Order of the table of all methods.
ORDER = (LADDER, "xladder", "qst", "unipt", "sherl", "side", REFERENCE, "bitfit", "lora", "qlora")


def documented_methods() -> list[str]:
    """Return the methods that have a recipe of their name, and therefore a page."""
    return [name for name in method_names() if name in bundled_recipes()]


def page_with_options(text: str, name: str) -> str:
    """Return a method's page with an up-to-date table of its options.

    Args:
        text: Text of the page.
        name: Name of the method.
    """
    return replace_marked(text, "options", _option_rows(name))


def _option_rows(name: str) -> Iterator[str]:
    options = get_method(name).options
    recipe = yaml.safe_load(recipe_path(name).read_text(encoding="utf-8"))
    chosen: Mapping[str, Any] = recipe["method"].get("options", {})
    meanings = describe_fields(options)
    yield from ("| option | default | meaning |", "|---|---|---|")
    for field in _own_fields_first(options):
        default = _as_yaml(options.model_fields[field].default)
        in_recipe = _as_yaml(chosen[field]) if field in chosen else default
        if in_recipe not in (default, f"{default}.0"):
            default += f"; in the recipe {in_recipe}"
        meaning = meanings[field].replace("|", "\\|")
        yield f"| `{field}` | {default} | {meaning} |"


def _own_fields_first(options: type[BaseModel]) -> list[str]:
    """Return the fields of a class before those that it inherits."""
    inherited = {field for base in options.__mro__[1:] for field in _fields(base)}
    return sorted(options.model_fields, key=lambda field: field in inherited)


def _fields(base: type) -> Iterable[str]:
    return base.model_fields if issubclass(base, BaseModel) else ()


def _as_yaml(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{json.dumps(value)}`".replace('"', "")


def _memory_rows(costs: Mapping[str, Mapping[bool, Any]], names: Iterable[str]) -> Iterator[str]:
    """Yield a table with one row per method.

    Args:
        costs: Measurements by method, and by whether blocks are recomputed.
        names: Methods to show.
    """
    yield (
        "| method | trainable parameters | % of all | checkpoint | saved for backward "
        "| the same, recomputed | sum | sum, recomputed |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for name in names:
        kept, again = costs[name][False], costs[name][True]
        precision = kept["backbone_precision"]
        label = f"`{name}`" if precision == "fp32" else f"`{name}` ({precision})"
        cells = [
            f"{kept['trainable']:,}",
            f"{kept['trainable_percent']:.2f}",
            *(
                f"{number / MEBIBYTE:,.1f}"
                for number in (
                    kept["checkpoint_bytes"],
                    kept["saved_bytes"]["total"],
                    again["saved_bytes"]["total"],
                    kept["training_bytes"],
                    again["training_bytes"],
                )
            ),
        ]
        yield f"| {label} | {' | '.join(cells)} |"


def main(arguments: list[str]) -> None:
    """Write the pages of all methods, and the table of all methods."""
    costs: dict[str, dict[bool, Any]] = {}
    for path in arguments:
        for row in json.loads(Path(path).read_text(encoding="utf-8"))["methods"]:
            costs.setdefault(row["method"], {})[row["recompute"]] = row
    for name in documented_methods():
        page = PAGES / f"{name}.md"
        text = page_with_options(page.read_text(encoding="utf-8"), name)
        if costs:
            shown = dict.fromkeys((name, *RIVALS))
            text = replace_marked(text, "memory", _memory_rows(costs, shown))
        page.write_text(text, encoding="utf-8")
    if costs:
        names = dict.fromkeys((*ORDER, *sorted(costs)))
        text = replace_marked(
            INDEX.read_text(encoding="utf-8"), "memory", _memory_rows(costs, names)
        )
        INDEX.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
