"""`vl-lst train`: annotations and features in, a run directory out."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks import SUITES
from vl_lst.bundled import DEMO
from vl_lst.cli._choices import SUITE_NAMES, TASKS, complete_encoder, complete_task
from vl_lst.cli._console import QuietOption, announce_imports, notes, progress, results
from vl_lst.cli._distributed import report_error_once
from vl_lst.cli._features import DEFAULT_ENCODER, DEMO_ENCODER
from vl_lst.cli._input_protection import protect_recipe_inputs
from vl_lst.cli._outputs import JsonOption, binary_file, write_json_report
from vl_lst.cli._recipe_options import (
    BackboneOption,
    BackbonePrecisionOption,
    BatchSizeOption,
    DataRootOption,
    DeviceOption,
    EpochsOption,
    FeaturesOption,
    HeadOption,
    LearningRateOption,
    MethodOption,
    MoreFeaturesArgument,
    PrecisionOption,
    RecipeOption,
    SeedOption,
    SettingsOption,
    StatesOption,
    StepsOption,
    TrainFileOption,
    ValidationFileOption,
    data_option,
    features_option,
    option_changes,
    refuse_settings_given_twice,
)
from vl_lst.cli._run_recipe import resolve_run_recipe
from vl_lst.cli._suite_scores import refuse_options_of_one_task
from vl_lst.launch import Launch, read_launch
from vl_lst.slurm import adopt_slurm_step

if TYPE_CHECKING:
    from eval.run_files import RunRecord
    from vl_lst.recipes import Recipe

__all__ = ["train"]


def train(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="RUN",
            help="Run directory.",
            callback=binary_file("a run", is_checked=False, holds_run=True),
        ),
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in RUN from its last checkpoint.")
    ] = False,
    task: Annotated[
        str | None,
        data_option(
            metavar="TASK[,TASK]...",
            help=f"Task, one of {TASKS}. Several are trained together. All tasks of a suite "
            f"({SUITE_NAMES}) are trained one by one, in RUN/TASK.",
            autocompletion=complete_task,
        ),
    ] = None,
    data_root: DataRootOption = None,
    train_file: TrainFileOption = None,
    val_file: ValidationFileOption = None,
    features: FeaturesOption = None,
    more_features: MoreFeaturesArgument = None,
    images: Annotated[
        Path | None,
        features_option(
            metavar="DIR",
            help="Folder of photographs, instead of --features: extract features into "
            "RUN/features.h5 before training.",
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        features_option(
            metavar="NAME",
            help="Image encoder for --images, as for `vl-lst extract-features`. Default: "
            "that of a backbone that reads images; `demo` with the backbone `demo`; else "
            f"{DEFAULT_ENCODER}.",
            autocompletion=complete_encoder,
        ),
    ] = None,
    states: StatesOption = None,
    backbone: BackboneOption = None,
    backbone_precision: BackbonePrecisionOption = None,
    method: MethodOption = None,
    head: HeadOption = None,
    recipe: RecipeOption = None,
    settings: SettingsOption = None,
    epochs: EpochsOption = None,
    steps: StepsOption = None,
    lr: LearningRateOption = None,
    batch_size: BatchSizeOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a transfer method on one task, or on several tasks with one head each.

    Training can be interrupted at any point. Run the same command with --resume to continue; the
    final weights are identical to those of an uninterrupted run.

    Example: vl-lst train --task vqa --data-root data --features train.h5 val.h5 --backbone t5-base
    --method lst --out runs/vqa --epochs 10 --seed 1

    Text alone: vl-lst train --task rte --data-root data --backbone t5-base --out runs/rte

    All tasks of a suite: vl-lst train --task glue --data-root data --backbone t5-base --method lst
    --out runs/glue

    On states of the backbone in a file: vl-lst train --task vqa --data-root data --features
    train.h5 val.h5 --backbone t5-base --states states.h5 --out runs/vqa

    Your own data: vl-lst train --task vqa --train-file train.jsonl --val-file val.jsonl --images
    photos --encoder demo --backbone demo --out runs/own
    """
    files = [*(features or []), *(more_features or [])]
    adopt_slurm_step(os.environ)
    launch = read_launch(os.environ)
    _refuse_image_conflicts(files, images, encoder, launch)
    suite = task if task in SUITES else None
    if suite is not None:
        refuse_options_of_one_task(
            suite,
            {
                "--features": files,
                "--images": images,
                "--train-file": train_file,
                "--val-file": val_file,
                "--states": states,
            },
        )
    quiet = quiet or not launch.is_first
    announce_imports(quiet=quiet)
    from vl_lst.cli._run_features import extracted_into_run, features_file
    from vl_lst.recipes import parse_override
    from vl_lst.runs.git import git_state
    from vl_lst.training.session import train as train_run

    checkout = None
    if images is not None:
        files = [features_file(out)]
    options: dict[str, object] = {
        "--task": None if suite is not None else task,
        "--data-root": data_root,
        "--train-file": train_file,
        "--val-file": val_file,
        "--features" if images is None else "--images": files,
        "--states": states,
        "--backbone": backbone,
        "--backbone-precision": backbone_precision,
        "--method": method,
        "--head": head,
        "--epochs": epochs,
        "--steps": steps,
        "--lr": lr,
        "--batch-size": batch_size,
        "--seed": seed,
        "--device": device,
        "--precision": precision,
    }
    with report_error_once(launch), notes(quiet=quiet), ExitStack() as stack:
        overrides = [parse_override(setting) for setting in settings or []]
        refuse_settings_given_twice(options, overrides)
        changes = [*option_changes(options), *overrides]
        if suite is not None:
            from vl_lst.cli._suite_training import train_suite

            train_suite(
                suite,
                out,
                recipe=recipe,
                changes=changes,
                resume=resume,
                json_file=json_file,
                quiet=quiet,
            )
            return
        resolved = resolve_run_recipe(out, recipe, changes, resume=resume)
        protect_recipe_inputs(resolved.model_dump(mode="json"))
        if images is not None:
            # The code may change during an extraction of hours.
            checkout = git_state()
            chosen = encoder or _default_encoder(resolved)
            stack.enter_context(
                extracted_into_run(resolved, images, chosen, out, resume=resume, quiet=quiet)
            )
        with progress(f"training {resolved.task}", quiet=quiet) as report:
            record = train_run(resolved, out, resume=resume, report=report, checkout=checkout)
    if launch.is_first:
        _print_scores(record)
        results.print(f"run: {out}", markup=False)
        write_json_report(json_file, record.model_dump(mode="json"))


def _refuse_image_conflicts(
    features: Sequence[Path], images: Path | None, encoder: str | None, launch: Launch
) -> None:
    """Refuse `--images` with feature files or in several processes, and `--encoder` without it.

    Raises:
        BadParameter: The options do not go together.
    """
    if images is not None and features:
        raise typer.BadParameter("found both --features and --images: leave one out")
    if encoder is not None and images is None:
        raise typer.BadParameter("--encoder requires --images, the folder of photographs")
    if images is not None and launch.num_processes > 1:
        raise typer.BadParameter(
            "--images works in one process only: run `vl-lst extract-features` first and give "
            "--features"
        )


def _default_encoder(recipe: "Recipe") -> str:
    """Return the name of the image encoder for `--images`.

    Raises:
        ModelError: There is no such backbone.
    """
    from vl_lst.recipes.visual import own_encoder

    if recipe.backbone.name == DEMO:
        return DEMO_ENCODER
    return own_encoder(recipe) or DEFAULT_ENCODER


def _print_scores(record: "RunRecord") -> None:
    for name, splits in record.scores.items():
        for split, metrics in splits.items():
            numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
            text = ", ".join(f"{metric} {value:.4g}" for metric, value in numbers.items())
            results.print(f"{name} {split}: {text} (step {record.best_step})", markup=False)
    if len(record.scores) > 1:
        results.print(
            f"mean of the primary metrics in percent: {record.mean_score:.2f}", markup=False
        )
