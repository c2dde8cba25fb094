"""Write what the code knows of recipes into the files that repeat it.

    python -m tools.recipe_reference

The JSON schema in the package, and the tables of fields in `docs/recipes.md`.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from eval.outputs import json_bytes
from tasks import get_task
from vl_lst.choices import AUTO
from vl_lst.recipes import Recipe
from vl_lst.recipes.descriptions import describe_fields, describe_section
from vl_lst.recipes.json_schema import CHOSEN, DEVICE_FIELDS, recipe_schema
from vl_lst.recipes.per_task import BATCH_SIZE, DEFAULTS
from vl_lst.recipes.validation import section_of

__all__ = ["DOCUMENT", "SCHEMA", "document_with_tables", "main"]

REPOSITORY = Path(__file__).resolve().parent.parent
SCHEMA = REPOSITORY / "vl_lst" / "recipes" / "recipe.schema.json"
DOCUMENT = REPOSITORY / "docs" / "recipes.md"
START, END = "<!-- fields: start -->\n", "<!-- fields: end -->\n"


def document_with_tables(text: str) -> str:
    """Return the text of the document with up-to-date tables between its two marks.

    Args:
        text: Text of `docs/recipes.md`.
    """
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    tables = "\n".join(_tables(Recipe, ()))
    return f"{before}{START}\n{tables}\n{END}{after}"


def _tables(model: type[BaseModel], parents: tuple[str, ...]) -> Iterator[str]:
    """Yield the lines of a table of a section, then those of the sections in it."""
    meanings = describe_fields(model)
    yield from (f"### `{'.'.join(parents)}`" if parents else "### At the top level", "")
    yield from (f"{describe_section(model)}", "")
    yield from ("| field | default | meaning |", "|---|---|---|")
    for name in model.model_fields:
        meaning = meanings[name].replace("|", "\\|")
        yield f"| `{name}` | {_default(model, (*parents, name))} | {meaning} |"
    yield ""
    for name, field in model.model_fields.items():
        if (section := section_of(field)) is not None:
            yield from _tables(section, (*parents, name))


def _default(model: type[BaseModel], path: tuple[str, ...]) -> str:
    field, key = model.model_fields[path[-1]], ".".join(path)
    if section_of(field) is not None and field.default is not None:
        return "see below"
    if key in DEFAULTS:
        return "the task's" if DEFAULTS[key](get_task("vqa")) is not None else "`null`"
    if key == BATCH_SIZE:
        return "the task's"
    if key in DEVICE_FIELDS:
        return "the device's"
    if key in CHOSEN:
        return f"`{AUTO}`"
    if key == "method.options":
        return "the method's"
    if field.is_required():
        return "none"
    return f"`{json.dumps(field.default)}`"


def main() -> None:
    """Write both files."""
    SCHEMA.write_bytes(json_bytes(recipe_schema()))
    DOCUMENT.write_text(
        document_with_tables(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
