"""Every field of a recipe and every option of a method is read by the package.

A field that nothing reads would promise something that the package does not do.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from vl_lst.methods import get_method, method_names
from vl_lst.recipes import Recipe

PACKAGE = Path(__file__).resolve().parents[3] / "vl_lst"
ROOMS = ("training", "generation", "data", "runs", "recipes")
# Validators read fields too, and do nothing that a field promises.
SCHEMA = PACKAGE / "recipes" / "schema.py"
# Names of variables for whole sections, and where they are used.
VARIABLES = {
    "data": ("data", "data"),
    "training": ("training", "training"),
    "optimizer": ("training", "settings"),
    "optimizer.projection": ("training", "settings.projection"),
    "generation": ("generation", "settings"),
}
# Fields that other code reads through a property of their section.
PROPERTIES = {"data.root": "data.folder", "task": "tasks"}
# Fields that are read by a name in a string, and where.
READ_BY_NAME = {
    # The recipe of a finished run is read as a dictionary, since it may be of an older version.
    "data.prompt_prefix": "task_settings.py",
    "data.prompt_suffix": "task_settings.py",
    # Optimizers of torch read their settings from groups, which are dictionaries.
    "optimizer.projection.rank": "training/projected_adamw.py",
    "optimizer.projection.update_proj_gap": "training/projected_adamw.py",
    "optimizer.projection.scale": "training/projected_adamw.py",
    "optimizer.projection.scale_type": "training/projected_adamw.py",
}


def fields(model: type[BaseModel]) -> Iterator[str]:
    """Yield the fields of a recipe by their dotted names, also of sections that may be absent."""
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        sections = [
            kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        for section in sections:
            yield from (f"{name}.{inner}" for inner in fields(section))
        if not sections:
            yield name


def syntax(paths: Iterable[Path]) -> Iterator[ast.AST]:
    """Yield the nodes of the code in files, which has no comments."""
    for path in paths:
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def reads(paths: Iterable[Path]) -> set[str]:
    """Return the expressions in files that read an attribute, such as `self.recipe.task`."""
    return {
        ast.unparse(node)
        for node in syntax(paths)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def has_read(expressions: set[str], place: str) -> bool:
    """Return whether an expression is `place`, or ends with it, as `self._recipe.task` does."""
    return any(re.search(rf"(^|[._]){re.escape(place)}$", each) for each in expressions)


@pytest.fixture(scope="module")
def reads_by_room() -> dict[str, set[str]]:
    return {
        room: reads(path for path in sorted((PACKAGE / room).glob("*.py")) if path != SCHEMA)
        for room in ROOMS
    }


@pytest.mark.parametrize("name", [*fields(Recipe)])
def test_the_package_reads_every_field(reads_by_room: dict[str, set[str]], name: str) -> None:
    if name in READ_BY_NAME:
        nodes = syntax([PACKAGE / READ_BY_NAME[name]])
        texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
        assert {name, name.rpartition(".")[2]} & texts
        return
    section, _, field = PROPERTIES.get(name, name).rpartition(".")
    place = ".".join(filter(None, ("recipe", section, field)))
    room, variable = VARIABLES.get(section, ("", ""))
    assert any(has_read(each, place) for each in reads_by_room.values()) or (
        room and has_read(reads_by_room[room], f"{variable}.{field}")
    )


@pytest.mark.parametrize("name", method_names())
def test_the_package_reads_every_option_of_a_method(name: str) -> None:
    methods = PACKAGE / "methods"
    # Methods share code in private files; DoRA and side-tuning have the options of others.
    shared = [*methods.glob("_*.py"), methods / "lst.py", methods / "lora.py"]
    files = [*(PACKAGE / "models").rglob("*.py"), *shared, methods / f"{name.replace('-', '_')}.py"]
    found = reads(files)
    for option in get_method(name).options.model_fields:
        places = (f"{variable}.{option}" for variable in ("config", "options", "settings"))
        assert any(has_read(found, place) for place in places), option
