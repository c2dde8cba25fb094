"""`vl-lst evaluate`: predict a split with a trained run, or without training, and score it."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks import SUITES, Task
from vl_lst.choices import ChosenArithmeticPrecision, ChosenBackbonePrecision, DeviceName
from vl_lst.cli._choices import SUITE_NAMES, complete_task
from vl_lst.cli._console import QuietOption, announce_imports, notes, progress, results, status
from vl_lst.cli._input_protection import protect_recipe_inputs
from vl_lst.cli._outputs import JsonOption, binary_file, write_json_report
from vl_lst.cli._recipe_options import (
    MoreFeaturesArgument,
    option_changes,
    refuse_settings_given_twice,
)
from vl_lst.cli._suite_scores import refuse_options_of_one_task
from vl_lst.option_names import FIELD_OF_OPTION

if TYPE_CHECKING:
    from vl_lst.run import Run

__all__ = ["evaluate"]

BEST = "best"
zero_shot_option = partial(typer.Option, rich_help_panel="Without training")


def evaluate(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Run directory written by `vl-lst train`, or a run on the Hugging Face Hub: "
            "OWNER/NAME or OWNER/NAME@REVISION. With --zero-shot, a directory to write.",
            callback=binary_file("a run", is_checked=False, may_be_input=True, holds_run=True),
        ),
    ],
    more_features: MoreFeaturesArgument = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT",
            help="Split to predict, such as val2014, or `train` or `val` if the run was trained on "
            "your own files.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl", help="Another file of your own examples, instead of --split."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="Task to predict, if the run was trained on several. With a suite "
            f"({SUITE_NAMES}), RUN is a folder with one run per task.",
            autocompletion=complete_task,
        ),
    ] = None,
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="best|last|best-TASK",
            help="Checkpoint with the best validation score (averaged over the tasks), the last "
            "one, or the best for one of several tasks.",
        ),
    ] = BEST,
    data_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with the official annotation files. Default: that of training.",
        ),
    ] = None,
    features: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.h5",
            help="Feature file. Pass several, or repeat the option. Default: as in training.",
        ),
    ] = None,
    forgetting: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.txt|demo",
            help="Text like that of the backbone's pretraining, one document per line, to measure "
            "what training made the backbone forget; `demo` is that of the bundled backbones. "
            "With or without --split.",
        ),
    ] = None,
    zero_shot: Annotated[
        bool,
        zero_shot_option(
            "--zero-shot",
            help="Evaluate a pretrained backbone as it is. Results are written to RUN, or added to "
            "those of such a run.",
        ),
    ] = False,
    backbone: Annotated[
        str | None,
        zero_shot_option(
            metavar="NAME|PATH|demo",
            help="Hugging Face model ID, a local directory, or `demo` (bundled). One that reads "
            "images also needs --features with the tokens of its own image encoder.",
        ),
    ] = None,
    backbone_precision: Annotated[
        ChosenBackbonePrecision | None,
        zero_shot_option(
            help="Precision of the backbone's weights. Default: auto, which is bf16 where the "
            "device computes it natively, else fp32."
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        zero_shot_option(
            metavar="TEXT",
            help='Prompt, in which "{}" stands for the question or statement; without it for '
            'captions. Default: the task\'s, such as "Question: {} Short answer:".',
        ),
    ] = None,
    device: Annotated[
        DeviceName | None, zero_shot_option(help="Device to run on. Default: auto.")
    ] = None,
    precision: Annotated[
        ChosenArithmeticPrecision | None,
        zero_shot_option(
            help="Precision of computation. Default: auto, as for --backbone-precision."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        zero_shot_option(
            "--set",
            metavar="KEY=VALUE",
            help="Set another field of the recipe, such as generation.beams=5; may be repeated.",
        ),
    ] = None,
    submission: Annotated[
        bool,
        typer.Option(
            "--submission",
            help="Also write the file that the public test server accepts to RUN/submission.",
        ),
    ] = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Predict a split with a trained run, or without training, and score it.

    Scores are those of the official evaluator.

    Predictions are written to RUN/predictions in the task's official results format.

    Example: vl-lst evaluate runs/vqa --split val2014 --json scores.json

    From the Hub: vl-lst evaluate alice/vqa-ladder --split val2014 --data-root data --features
    coco.h5

    All tasks of a suite: vl-lst evaluate runs/glue --task glue --split test --submission

    What training made the backbone forget: vl-lst evaluate runs/vqa --forgetting text.txt

    Without training: vl-lst evaluate runs/zero-shot --zero-shot --backbone
    Salesforce/blip2-flan-t5-xl --features tokens.h5 --task vqa --data-root data --split val2014
    """
    files = [*(features or []), *(more_features or [])]
    _refuse_conflicts(split, file, forgetting, submission=submission, zero_shot=zero_shot)
    only_zero_shot = {
        "--backbone": backbone,
        "--backbone-precision": backbone_precision,
        "--prompt": prompt,
        "--device": device,
        "--precision": precision,
        "--set": settings,
    }
    if task is not None and task in SUITES:
        refuse_options_of_one_task(
            task,
            {
                "--file": file,
                "--forgetting": forgetting,
                "--features": files,
                "--zero-shot": zero_shot,
                **only_zero_shot,
            },
        )
        from vl_lst.cli._suite_evaluation import evaluate_suite

        assert split is not None
        announce_imports(quiet=quiet)
        evaluate_suite(
            task,
            run,
            split,
            checkpoint=checkpoint,
            data_root=data_root,
            submission=submission,
            json_file=json_file,
            quiet=quiet,
        )
        return
    announce_imports(quiet=quiet)
    from eval.hub import hub_progress_bars
    from vl_lst.cli._scores import report_evaluation, write_submission_file
    from vl_lst.launch import require_one_process
    from vl_lst.run import load_run

    _refuse_zero_shot_conflicts(only_zero_shot, checkpoint, zero_shot=zero_shot)
    given = file or split
    require_one_process(os.environ, "a split is evaluated in one process")
    with notes(quiet=quiet), hub_progress_bars(show=status.is_terminal and not quiet):
        if zero_shot:
            assert given is not None
            options = {
                "--data-root": data_root,
                "--features": files,
                **{
                    name: only_zero_shot[name] for name in only_zero_shot if name in FIELD_OF_OPTION
                },
            }
            loaded = _open_zero_shot(run, given, task, prompt, options, settings or [])
        else:
            loaded = load_run(run, checkpoint=checkpoint)
            run = loaded.directory.path
    protect_recipe_inputs(loaded.recipe.model_dump(mode="json"))
    chosen = None
    if given is not None:
        chosen = loaded.task(task, official=data_root is not None)
        _refuse_split(loaded, chosen, given, run, data_root, submission=submission)
    losses = None
    if forgetting is not None:
        from vl_lst.cli._forgetting import report_forgetting

        losses = report_forgetting(loaded, forgetting, quiet=quiet)
    if given is None or chosen is None:
        write_json_report(json_file, {"forgetting": losses})
        return
    split = given.name if isinstance(given, Path) else given
    with notes(quiet=quiet), progress(f"evaluating {split}", quiet=quiet) as report:
        evaluation = loaded.evaluate(
            given,
            task_name=task,
            data_root=data_root,
            features=files or None,
            report=report,
        )
    document = report_evaluation(loaded, chosen, split, evaluation, quiet=quiet)
    if losses is not None:
        document["forgetting"] = losses
    write_json_report(json_file, document)
    if evaluation.write_error is not None:
        raise evaluation.write_error
    results.print(f"predictions: {evaluation.path}", markup=False)
    if submission:
        write_submission_file(
            chosen,
            evaluation.predictions,
            data_root or loaded.recipe.data.folder,
            split,
            run,
            quiet=quiet,
        )


def _refuse_conflicts(
    split: str | None,
    file: Path | None,
    forgetting: str | None,
    *,
    submission: bool,
    zero_shot: bool,
) -> None:
    """Refuse options that do not go together, whatever is evaluated.

    Raises:
        BadParameter: Two options exclude each other, or one lacks another.
    """
    if split is not None and file is not None:
        raise typer.BadParameter("found both --split and --file: leave one out")
    if (split, file, forgetting) == (None, None, None):
        raise typer.BadParameter("found none of --split, --file and --forgetting: give one")
    if submission and split is None and file is None:
        raise typer.BadParameter("--submission requires --split")
    if forgetting is not None and zero_shot:
        raise typer.BadParameter(
            "--forgetting cannot be given with --zero-shot: without training, nothing is forgotten"
        )


def _refuse_zero_shot_conflicts(
    only_zero_shot: Mapping[str, object], checkpoint: str, *, zero_shot: bool
) -> None:
    """Refuse options of a run without training for a trained run, and the other way round.

    Raises:
        BadParameter: An option is for the other kind of run.
    """
    given = [name for name, value in only_zero_shot.items() if value is not None]
    if given and not zero_shot:
        raise typer.BadParameter(
            f"{given[0]} requires --zero-shot, since a trained run has its own settings"
        )
    if zero_shot and checkpoint != BEST:
        raise typer.BadParameter("--checkpoint cannot be given with --zero-shot, without training")


def _open_zero_shot(
    folder: Path,
    split: str | Path,
    task: str | None,
    prompt: str | None,
    options: Mapping[str, object],
    settings: Sequence[str],
) -> "Run":
    """Open a run without training.

    Args:
        folder: Folder of the run.
        split: Split to evaluate.
        task: Name of the task.
        prompt: Prompt. Default: the task's.
        options: Other options that set fields of the recipe; see `option_changes`.
        settings: Values of `--set`.

    Raises:
        RecipeError: A setting is not valid, or an option and `--set` set the same field.
        InputError: There is no such task.
    """
    from vl_lst.recipes import parse_override
    from vl_lst.run import open_zero_shot_run

    overrides = [parse_override(setting) for setting in settings]
    of_task = "" if task is None else f".{task}"
    prompts = [f"data.prompt_{part}{of_task}" for part in ("prefix", "suffix")]
    refuse_settings_given_twice(
        {"--task": task, **options},
        overrides,
        others={} if prompt is None else {"--prompt": prompts},
    )
    return open_zero_shot_run(
        folder,
        split=split,
        task=task,
        prompt=prompt,
        overrides=[*option_changes(options), *overrides],
    )


def _refuse_split(
    loaded: "Run",
    task: Task,
    given: str | Path,
    folder: Path,
    data_root: Path | None,
    *,
    submission: bool,
) -> None:
    """Refuse a split that does not exist, or that cannot be submitted, before anything is computed.

    Args:
        loaded: Run.
        task: Its task, with its splits.
        given: Name of the split, or path of a file of examples.
        folder: Folder of the run.
        data_root: Folder of official annotations, if it is not that of the run.
        submission: Whether a submission is to be written.

    Raises:
        InputError: There is no such split, or no server takes answers to it.
        OutputError: The submission cannot be written.
    """
    from eval.errors import InputError
    from eval.outputs import check_output
    from tasks._submission import submission_of

    is_split = isinstance(given, str) and given in task.splits
    if isinstance(given, str) and not is_split and not Path(given).is_file():
        raise task.unknown_split(given)
    if not submission:
        return
    if not is_split or (loaded.has_own_files(task.name) and data_root is None):
        raise InputError(
            "--submission: test servers accept answers to official examples only, and these "
            "examples are your own. Leave it out, or give --data-root and an official --split."
        )
    submission_of(task)
    check_output(folder / "submission" / "file")
