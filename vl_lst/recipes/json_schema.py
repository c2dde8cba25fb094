"""JSON schema of recipe files, for editors.

It describes what a file may hold, which is more than a resolved recipe: `extends`, `auto`, and one
value for all tasks. Every field may be missing, since options set it or it has a default.
"""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema

from tasks import task_names
from vl_lst.bundled import bundled_recipes
from vl_lst.choices import ChosenArithmeticPrecision, ChosenBackbonePrecision
from vl_lst.methods import get_method, method_names
from vl_lst.recipes import precision
from vl_lst.recipes.descriptions import describe_fields, describe_section
from vl_lst.recipes.per_task import is_task_field
from vl_lst.recipes.reading import EXTENDS
from vl_lst.recipes.schema import Recipe
from vl_lst.recipes.validation import section_of

__all__ = ["recipe_schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]
NULL: Schema = {"type": "null"}
# Choices of a file that a resolved recipe no longer has.
CHOSEN: Mapping[str, object] = {
    ".".join(precision.BACKBONE): ChosenBackbonePrecision,
    ".".join(precision.ARITHMETIC): ChosenArithmeticPrecision,
}
# Left to the device if it is null.
DEVICE_FIELDS = (".".join(precision.TF32),)
# A file may also give one number per task.
EPOCHS = "training.epochs"


def recipe_schema() -> Schema:
    """Return the JSON schema of recipe files."""
    names = bundled_recipes()
    extends = {
        "enum": names,
        "description": "Bundled recipe whose fields apply where this file sets none.",
    }
    document = _section_schema(Recipe, ())
    return {
        "$schema": DIALECT,
        "title": "Recipe of vl-lst",
        "description": describe_section(Recipe),
        "type": "object",
        "additionalProperties": False,
        "properties": {EXTENDS: extends, **document["properties"]},
    }


def _section_schema(model: type[BaseModel], parents: tuple[str, ...]) -> Schema:
    generated, meanings = _properties(model), describe_fields(model)
    properties = {}
    for name, field in model.model_fields.items():
        path = (*parents, name)
        schema = _field_schema(path, field, generated[name])
        properties[name] = {**schema, "description": meanings.get(name, "")}
    section: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    if parents == ("method",):
        properties["name"] = {**properties["name"], "enum": method_names()}
        section["required"] = ["name"]
        section["allOf"] = [_options_of(name) for name in method_names()]
    return section


def _properties(model: type[BaseModel]) -> Mapping[str, Schema]:
    """Return what pydantic knows of each field; sections are references."""
    (_, definitions) = models_json_schema([(model, "validation")], ref_template="{model}")
    found: Mapping[str, Schema] = definitions["$defs"][model.__name__]["properties"]
    # Titles would repeat the names.
    return {
        name: {key: value for key, value in schema.items() if key != "title"}
        for name, schema in found.items()
    }


def _field_schema(path: tuple[str, ...], field: FieldInfo, generated: Schema) -> Schema:
    key = ".".join(path)
    section = section_of(field)
    if section is not None:
        nested = _section_schema(section, path)
        return {"anyOf": [nested, NULL]} if not field.is_required() else nested
    if key == "task":
        names = {"enum": task_names()}
        several = {"type": "string", "pattern": ","}
        return {"anyOf": [names, several, {"type": "array", "items": names}]}
    if key in CHOSEN:
        return {"enum": [*get_args(CHOSEN[key]), None]}
    if key in DEVICE_FIELDS:
        return {"type": ["boolean", "null"]}
    if is_task_field(key):
        value = generated["additionalProperties"]
        choices = value.get("anyOf", [value])
        return {"anyOf": [*choices, _per_task(value), *([NULL] if NULL not in choices else [])]}
    if key == EPOCHS:
        number, *_ = generated["anyOf"]
        return {**generated, "anyOf": [*generated["anyOf"], _per_task(number)]}
    if key == "method.options":
        return {"type": ["object", "null"]}
    return generated


def _per_task(value: Schema) -> Schema:
    names = {"enum": task_names()}
    return {"type": "object", "propertyNames": names, "additionalProperties": value}


def _options_of(method: str) -> Schema:
    """Return the condition under which `options` are those of a method."""
    model = get_method(method).options
    generated, meanings = _properties(model), describe_fields(model)
    options = {
        name: {**schema, "description": meanings.get(name, "")}
        for name, schema in generated.items()
    }
    return {
        "if": {"properties": {"name": {"const": method}}},
        "then": {
            "properties": {
                "options": {
                    "description": describe_section(model),
                    "type": ["object", "null"],
                    "additionalProperties": False,
                    "properties": options,
                }
            }
        },
    }
