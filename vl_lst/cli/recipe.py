"""`vl-lst recipe`: show, check and describe recipes."""

from pathlib import Path
from typing import Annotated

import typer

from vl_lst.cli._choices import complete_recipe_name
from vl_lst.cli._console import QuietOption, announce_imports, results
from vl_lst.cli._group import CommandGroup
from vl_lst.cli._outputs import (
    STANDARD_OUTPUT,
    JsonOption,
    report_file,
    write_json_report,
)
from vl_lst.cli._recipe_options import SettingsOption

__all__ = ["check", "recipe", "schema", "show"]

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE|NAME",
        help="YAML file, or name of a bundled recipe such as lst; `vl-lst list recipes` lists "
        "them.",
        autocompletion=complete_recipe_name,
    ),
]

recipe = typer.Typer(
    name="recipe",
    cls=CommandGroup,
    help="Show, check and describe recipes, the settings of runs.\n\n"
    "Example: vl-lst recipe show lst",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@recipe.command()
def show(
    name: NameArgument,
    settings: SettingsOption = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Print a recipe with all its fields, their defaults, and a comment for each.

    What is printed is a recipe file, which resolves to the same settings. Fields that only a run
    can fill in, such as its data, and those that depend on the task are comments until they are
    set.

    Example: vl-lst recipe show lst --set task=vqa --set optimizer.lr=1e-3 > mine.yaml
    """
    announce_imports(quiet=quiet)
    from vl_lst.recipes import complete_recipe, parse_override, read_recipe_file
    from vl_lst.recipes.writing import commented_yaml

    overrides = [parse_override(setting) for setting in settings or []]
    found = complete_recipe(read_recipe_file(name), overrides)
    results.print(commented_yaml(found), end="", markup=False)
    write_json_report(json_file, {"fields": found.fields, "missing": found.missing})


@recipe.command()
def check(
    name: NameArgument,
    settings: SettingsOption = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Check the fields of a recipe, without its data, and list what a run must be given.

    The exit code is 0 if every field exists and is in its range, 1 otherwise.

    Example: vl-lst recipe check mine.yaml
    """
    announce_imports(quiet=quiet)
    from vl_lst.recipes import complete_recipe, parse_override, read_recipe_file

    overrides = [parse_override(setting) for setting in settings or []]
    found = complete_recipe(read_recipe_file(name), overrides)
    results.print(f"{name}: valid", markup=False)
    for field, option in found.missing.items():
        results.print(f"  {field} is not set; a run also needs {option}", markup=False)
    write_json_report(json_file, {"recipe": name, "valid": True, "missing": found.missing})


@recipe.command()
def schema(
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write the schema to this file instead of printing it.",
            callback=report_file,
        ),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Print the JSON schema of recipe files, with which editors complete and check them.

    For the YAML language server, begin a recipe with the line
    "# yaml-language-server: $schema=recipe.schema.json".

    Example: vl-lst recipe schema --json recipe.schema.json
    """
    announce_imports(quiet=quiet)
    from vl_lst.recipes.json_schema import recipe_schema

    write_json_report(json_file or STANDARD_OUTPUT, recipe_schema())
