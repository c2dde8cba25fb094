"""`vl-lst train`: annotations and features in, a run directory out."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from tasks import Head
from vl_lst.choices import BackbonePrecision
from vl_lst.cli._choices import METHODS, TASKS, alternatives
from vl_lst.cli._console import QuietOption, notes, progress, results
from vl_lst.cli._kept_inputs import keep_inputs_of_recipe
from vl_lst.cli._outputs import JsonOption, binary_file, write_json_report
from vl_lst.cli._processes import one_message
from vl_lst.launch import read_launch

__all__ = ["train"]

DEFAULT_ENCODER = "RN101"


def train(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="RUN",
            help="Folder of the run.",
            callback=binary_file("a run", is_checked=False, holds_run=True),
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK[,TASK]...",
            help=f"The task, of {TASKS}; several are trained together.",
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with the official annotation files in vqa/, gqa/, nlvr2/, coco/.",
        ),
    ] = None,
    train_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Examples of your own to train on, in place of the official ones; of several "
            "tasks, --set data.train_file.TASK=FILE.jsonl.",
        ),
    ] = None,
    val_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Examples of your own to validate on; of several tasks, "
            "--set data.validation_file.TASK=FILE.jsonl.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of photographs, in place of --features: extracts into RUN/features.h5 "
            "before training.",
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help=f"Vision tower for --images, as `extract-features` takes it. Default: "
            f"{DEFAULT_ENCODER}; demo with that backbone."
        ),
    ] = None,
    features: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.h5", help="Feature file; several after another, or repeated."),
    ] = None,
    more_features: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE.h5]...", help="Further feature files.", show_default=False),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH|demo",
            help="Hugging Face name such as t5-base, a folder, or the one that comes along.",
        ),
    ] = None,
    backbone_precision: Annotated[
        str | None,
        typer.Option(
            metavar=alternatives(BackbonePrecision),
            help="How the frozen backbone is held; int8 and nf4 fit larger ones on the same GPU.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help=f"Transfer method, of {METHODS}. Default: lst."),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            metavar=alternatives(Head),
            help="Choose from a list of answers, or write; captions are always written.",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Recipe: a YAML file or the name of one that comes along. Default: the "
            "method's, or its smaller one with the backbone demo; the run's own with --resume.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a field of the recipe; may be repeated."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in RUN, exactly where it stopped."),
    ] = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a transfer method on a task, or on several together with a head for each.

    Killed at any moment, the same command with --resume goes on and ends with the same weights.

    Example: vl-lst train --task vqa --data-root data --features train.h5 val.h5 --backbone t5-base
    --method lst --out runs/vqa --set training.epochs=10

    Your own data: vl-lst train --task vqa --train-file train.jsonl --val-file val.jsonl --images
    photos --encoder demo --backbone demo --out runs/own
    """
    files = [*(features or []), *(more_features or [])]
    if images is not None and files:
        raise typer.BadParameter("give either --features or --images")
    if encoder is not None and images is None:
        raise typer.BadParameter("--encoder is for --images: give the folder of photographs too")
    launch = read_launch(os.environ)
    if images is not None and launch.num_processes > 1:
        raise typer.BadParameter(
            "--images works in one process: run `vl-lst extract-features` first, and give "
            "--features"
        )
    from vl_lst.cli._own_images import extracted_into_run, features_file
    from vl_lst.errors import CheckpointError
    from vl_lst.recipes import (
        default_recipe,
        parse_override,
        read_recipe_file,
        resolve_recipe,
    )
    from vl_lst.runs.directory import RunDirectory
    from vl_lst.runs.git import git_state
    from vl_lst.training.session import train as train_run

    checkout = None
    if images is not None:
        files = [features_file(out)]
    given: dict[str, Any] = {
        "task": task,
        "data.root": data_root and str(data_root),
        "data.train_file": train_file and str(train_file),
        "data.validation_file": val_file and str(val_file),
        "features": [str(file) for file in files] or None,
        "backbone.name": backbone,
        "backbone.precision": backbone_precision,
        "method.name": method,
        "head": head,
    }
    quiet = quiet or not launch.is_first
    with one_message(launch), notes(quiet=quiet), ExitStack() as stack:
        saved = RunDirectory(out).recipe_file
        changes = [*map(parse_override, settings or [])]
        named = {"method.name": method, "backbone.name": backbone} | dict(changes)
        fitting = default_recipe(named["method.name"], named["backbone.name"])
        base = recipe or (str(saved) if resume and saved.exists() else fitting)
        options = [(name, value) for name, value in given.items() if value is not None]
        if resume and not (saved.exists() or recipe or options or changes):
            raise CheckpointError(
                f"{out} holds no run to resume. Give the folder of one, or --task and the other "
                "options to start one there."
            )
        resolved = resolve_recipe(read_recipe_file(base), [*options, *changes])
        keep_inputs_of_recipe(resolved.model_dump(mode="json"))
        if images is not None:
            # Extraction may take hours, in which the code may change.
            checkout = git_state()
            tower = encoder or ("demo" if resolved.backbone.name == "demo" else DEFAULT_ENCODER)
            stack.enter_context(
                extracted_into_run(resolved, images, tower, out, resume=resume, quiet=quiet)
            )
        with progress(f"training {resolved.task}", quiet=quiet) as report:
            record = train_run(resolved, out, resume=resume, report=report, checkout=checkout)
    if not launch.is_first:
        return
    for name, scores in record.scores.items():
        for split, metrics in scores.items():
            numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
            text = ", ".join(f"{metric} {value:.4g}" for metric, value in numbers.items())
            results.print(f"{name} {split}: {text} (step {record.best_step})", markup=False)
    if len(record.scores) > 1:
        results.print(
            f"mean of the primary metrics in percent: {record.mean_score:.2f}", markup=False
        )
    results.print(f"run: {out}", markup=False)
    write_json_report(json_file, record.model_dump(mode="json"))
