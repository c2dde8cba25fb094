"""Options that set fields of a recipe, for the commands that train and prepare training."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.recipe_fields import is_within
from tasks import Head
from vl_lst.choices import ChosenArithmeticPrecision, ChosenBackbonePrecision, DeviceName
from vl_lst.cli._choices import (
    METHODS,
    complete_backbone,
    complete_method,
    complete_recipe_name,
)
from vl_lst.errors import RecipeError
from vl_lst.option_names import FIELD_OF_OPTION

__all__ = [
    "BackboneOption",
    "BackbonePrecisionOption",
    "BatchSizeOption",
    "DataRootOption",
    "DeviceOption",
    "EpochsOption",
    "FeaturesOption",
    "HeadOption",
    "LearningRateOption",
    "MethodOption",
    "MoreFeaturesArgument",
    "PrecisionOption",
    "RecipeOption",
    "SeedOption",
    "SettingsOption",
    "StatesOption",
    "StepsOption",
    "TrainFileOption",
    "ValidationFileOption",
    "data_option",
    "features_option",
    "model_option",
    "option_changes",
    "refuse_settings_given_twice",
]

data_option = partial(typer.Option, rich_help_panel="Data")
features_option = partial(typer.Option, rich_help_panel="Image features")
model_option = partial(typer.Option, rich_help_panel="Model and settings")
training_option = partial(typer.Option, rich_help_panel="Training")

DataRootOption = Annotated[
    Path | None,
    data_option(
        metavar="DIR",
        help="Folder with the official annotation files in vqa/, gqa/, nlvr2/, coco/, glue/.",
    ),
]
TrainFileOption = Annotated[
    Path | None,
    data_option(
        metavar="FILE.jsonl",
        help="Your own training examples, instead of --data-root. With several tasks: --set "
        "data.train_file.TASK=FILE.jsonl.",
    ),
]
ValidationFileOption = Annotated[
    Path | None,
    data_option(
        metavar="FILE.jsonl",
        help="Your own validation examples. With several tasks: --set "
        "data.validation_file.TASK=FILE.jsonl.",
    ),
]
FeaturesOption = Annotated[
    list[Path] | None,
    features_option(metavar="FILE.h5", help="Feature file. Pass several, or repeat the option."),
]
MoreFeaturesArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FILE.h5", help="More feature files.", show_default=False),
]
StatesOption = Annotated[
    Path | None,
    model_option(
        metavar="FILE.h5",
        help="File of the backbone's states, made by `vl-lst extract-states` with the same "
        "settings: training then needs neither time nor memory for the backbone.",
    ),
]
BackboneOption = Annotated[
    str | None,
    model_option(
        metavar="NAME|PATH|demo",
        help="Hugging Face model ID such as t5-base, a local directory, or `demo` (bundled).",
        autocompletion=complete_backbone,
    ),
]
BackbonePrecisionOption = Annotated[
    ChosenBackbonePrecision | None,
    model_option(
        help="Precision of the frozen backbone's weights; `auto` is bf16 where the device "
        "computes it natively, else fp32. int8 and nf4 fit larger backbones on the same GPU. "
        "There is no fp16, in which backbones overflow. Default: the recipe's, mostly auto."
    ),
]
MethodOption = Annotated[
    str | None,
    model_option(
        metavar="METHOD",
        help=f"Transfer method, one of {METHODS}. Default: lst.",
        autocompletion=complete_method,
    ),
]
HeadOption = Annotated[
    Head | None,
    model_option(
        help="`classify` picks from an answer list; `generate` writes free text; `regress` "
        "answers with a number (stsb). Captions always use `generate`."
    ),
]
RecipeOption = Annotated[
    str | None,
    model_option(
        metavar="FILE|NAME",
        help="YAML file, or name of a bundled recipe such as lst-paper. Default: the method's "
        "recipe (a smaller one for the backbone `demo`); with --resume, the run's own.",
        autocompletion=complete_recipe_name,
    ),
]
SettingsOption = Annotated[
    list[str] | None,
    model_option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a field of the recipe, such as optimizer.lr=1e-3; may be repeated.",
    ),
]
SeedOption = Annotated[
    int | None,
    training_option(
        help="Seed for initial weights, example order, answer sampling and dropout. Default: 0."
    ),
]
EpochsOption = Annotated[
    int | None,
    training_option(help="Passes over the training examples, instead of the recipe's or --steps."),
]
StepsOption = Annotated[
    int | None, training_option(help="Optimizer steps, instead of the recipe's or --epochs.")
]
LearningRateOption = Annotated[
    float | None, training_option("--lr", metavar="RATE", help="Peak learning rate.")
]
BatchSizeOption = Annotated[
    int | None, training_option(help="Examples per step, over all processes.")
]
DeviceOption = Annotated[
    DeviceName | None, training_option(help="Device to train on. Default: auto.")
]
PrecisionOption = Annotated[
    ChosenArithmeticPrecision | None,
    training_option(
        help="Precision of computation; `auto` is bf16 where the device computes it natively, else "
        "fp32. Default: the recipe's, mostly auto."
    ),
]


def option_changes(options: Mapping[str, object]) -> list[tuple[str, Any]]:
    """Return the fields of a recipe that options set, as (path, value) pairs.

    Args:
        options: Values of options by name, such as `{"--seed": 1}`; `None` or an empty list if not
            given.
    """
    return [(FIELD_OF_OPTION[name], _plain(value)) for name, value in _given(options).items()]


def refuse_settings_given_twice(
    options: Mapping[str, object],
    settings: Iterable[tuple[str, Any]],
    *,
    others: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Refuse options whose field, or a section with it, `--set` sets too.

    A setting for one task, such as `head.rte`, may refine an option for all tasks.

    Args:
        options: See `option_changes`.
        settings: (path of a field, value) pairs of `--set`.
        others: Paths of the fields and sections that other given options set, by name of the
            option; `--set` must set nothing in these sections.

    Raises:
        RecipeError: Both set a field.
    """
    fields = {option: [FIELD_OF_OPTION[option]] for option in _given(options)}
    others = others or {}
    twice = [
        f"{option} and --set {path}"
        for path, _ in settings
        for option, names in {**fields, **others}.items()
        if any(is_within(name, [path]) for name in names)
        or (option in others and is_within(path, names))
    ]
    if twice:
        raise RecipeError(
            f"found {', '.join(twice)}, which set the same field: expected one of the two"
        )


def _given(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if value not in (None, [])}


def _plain(value: object) -> object:
    """Return the value of an option as a recipe file holds it."""
    if isinstance(value, list):
        return list(map(_plain, value))
    return str(value) if isinstance(value, Path) else value
