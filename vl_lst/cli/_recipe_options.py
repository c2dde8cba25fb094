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

__all__ = [
    "OPTION_OF_FIELD",
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
    "recipe_changes",
    "refuse_settings_given_twice",
    "short_changes",
]

data_option = partial(typer.Option, rich_help_panel="Data")
features_option = partial(typer.Option, rich_help_panel="Image features")
model_option = partial(typer.Option, rich_help_panel="Model and settings")
training_option = partial(typer.Option, rich_help_panel="Training")

# The recipe field that each option of the panel "Training" is short for.
SHORT_OPTIONS: Mapping[str, str] = {
    "--seed": "training.seed",
    "--epochs": "training.epochs",
    "--steps": "training.steps",
    "--lr": "optimizer.lr",
    "--batch-size": "training.batch_size",
    "--device": "training.device",
    "--precision": "training.precision",
}

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


# The option of `vl-lst train` that sets a field.
OPTION_OF_FIELD = {
    "task": "--task",
    "data.root": "--data-root",
    "data.train_file": "--train-file",
    "data.validation_file": "--val-file",
    "features": "--features",
    "backbone.name": "--backbone",
    "backbone.precision": "--backbone-precision",
    "method.name": "--method",
    "head": "--head",
    "states": "--states",
}


def recipe_changes(
    *,
    task: str | None,
    data_root: Path | None,
    train_file: Path | None,
    validation_file: Path | None,
    features: Sequence[Path],
    backbone: str | None,
    backbone_precision: str | None,
    method: str | None,
    head: str | None,
    states: Path | None = None,
) -> list[tuple[str, Any]]:
    """Return the fields of a recipe that options set, as (path, value) pairs."""
    given: dict[str, Any] = {
        "task": task,
        "data.root": data_root and str(data_root),
        "data.train_file": train_file and str(train_file),
        "data.validation_file": validation_file and str(validation_file),
        "features": [str(file) for file in features] or None,
        "backbone.name": backbone,
        "backbone.precision": backbone_precision,
        "method.name": method,
        "head": head,
        "states": states and str(states),
    }
    return [(name, value) for name, value in given.items() if value is not None]


def short_changes(options: Mapping[str, object]) -> list[tuple[str, Any]]:
    """Return the fields of a recipe that short options set, as (path, value) pairs.

    Args:
        options: Values of options by name, such as `{"--seed": 1}`; `None` if not given.
    """
    return [(SHORT_OPTIONS[name], value) for name, value in options.items() if value is not None]


def refuse_settings_given_twice(
    options: Mapping[str, object], settings: Iterable[tuple[str, Any]]
) -> None:
    """Refuse short options whose field, or a section with it, `--set` sets too.

    Args:
        options: See `short_changes`.
        settings: (path of a field, value) pairs of `--set`.

    Raises:
        RecipeError: Both set a field.
    """
    given = {SHORT_OPTIONS[name]: name for name, value in options.items() if value is not None}
    twice = [
        f"{option} and --set {path}"
        for path, _ in settings
        for field, option in given.items()
        if is_within(field, [path])
    ]
    if twice:
        raise RecipeError(
            f"found {', '.join(twice)}, which set the same field: expected one of the two"
        )
