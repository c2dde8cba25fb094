"""Rows of `vl-lst list`, from docstrings, comments and tables of the code."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from feature_extraction.encoders.table import ENCODERS, TABLE_IMAGE_SIZE
from tasks import SUITES, get_task, task_names
from vl_lst.bundled import BACKBONE_FOLDERS, ENCODER_FOLDERS, bundled_recipes, recipe_path
from vl_lst.choices import describe_modules

__all__ = ["CATALOGUES"]

Row = dict[str, Any]
# Not inside a number or a file name.
CLAUSE_END = re.compile(r"(?<=[\w)`]{2})[.:](?: |$)")
# Rows, and lines below them.
Catalogue = tuple[Sequence[Row], Sequence[str]]


def _methods() -> Catalogue:
    described = describe_modules("vl_lst.methods")
    rows = [{"method": name, "description": text} for name, text in described.items()]
    return rows, ["docs/methods/README.md compares them; `vl-lst profile` measures their cost."]


def _tasks() -> Catalogue:
    described = describe_modules("tasks")
    rows: list[Row] = []
    for name in task_names():
        task = get_task(name)
        rows.append(
            {
                "task": name,
                "description": described[name],
                "images": task.images_per_example,
                "heads": task.heads,
                "metric": task.primary_metric,
                "splits": tuple(task.splits),
            }
        )
    suites = [f"{name} is a suite of {', '.join(tasks)}." for name, tasks in SUITES.items()]
    return rows, suites


def _recipes() -> Catalogue:
    import yaml

    texts = {name: recipe_path(name).read_text(encoding="utf-8") for name in bundled_recipes()}
    fields = {name: yaml.safe_load(text) for name, text in texts.items()}

    def method_of(name: str) -> str:
        own: Mapping[str, str] | None = fields[name].get("method")
        return own["name"] if own else method_of(fields[name]["extends"])

    rows: list[Row] = []
    for name, text in texts.items():
        extended, method = fields[name].get("extends"), method_of(name)
        described = _first_clause(text) or f"{extended} with the method {method}"
        rows.append(
            {"recipe": name, "method": method, "extends": extended, "description": described}
        )
    return rows, ["`vl-lst recipe show NAME` prints one with a comment for each field."]


def _first_clause(text: str) -> str:
    """Return the comment at the start of a file, up to its first period or colon."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    comment = " ".join(line.removeprefix("#").strip() for line in lines)
    return CLAUSE_END.split(comment)[0]


def _backbones() -> Catalogue:
    from vl_lst.backbones.families import describe_families
    from vl_lst.backbones.published import PUBLISHED

    bundled = [
        {"family": name, "description": "bundled, for trying things out", "model_types": ()}
        for name in BACKBONE_FOLDERS
    ]
    rows: list[Row] = [
        {
            "family": name,
            "description": description,
            "model_types": types,
            "models": tuple(
                each for each, config in PUBLISHED.items() if config["model_type"] in types
            ),
        }
        for name, description, types in describe_families()
    ]
    rows = [{**row, "models": (row["family"],)} for row in bundled] + rows
    return rows, [
        "Any model of these types can be used; those that are named need no download for "
        "`vl-lst profile --dry-run`."
    ]


def _encoders() -> Catalogue:
    rows: list[Row] = [
        {
            "encoder": name,
            "model": row.model,
            "weights": row.weights,
            f"grid_at_{TABLE_IMAGE_SIZE}": "x".join(map(str, row.grid)),
            "channels": row.channels,
            "pooled_channels": row.pooled_channels,
        }
        for name, row in ENCODERS.items()
    ]
    bundled = " and ".join(ENCODER_FOLDERS)
    return rows, [
        f"Bundled: {bundled}. Also any other model of open_clip by its name, timm:NAME, "
        "hf:OWNER/NAME, or a folder."
    ]


CATALOGUES: Mapping[str, Callable[[], Catalogue]] = {
    "methods": _methods,
    "tasks": _tasks,
    "recipes": _recipes,
    "backbones": _backbones,
    "encoders": _encoders,
}
