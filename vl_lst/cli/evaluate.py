"""`vl-lst evaluate`: a trained run's predictions and official scores on a split."""

import os
from pathlib import Path
from typing import Annotated

import typer

from vl_lst.cli._console import QuietOption, notes, progress, results, status
from vl_lst.cli._kept_inputs import keep_inputs_of_recipe
from vl_lst.cli._outputs import JsonOption, write_json_report

__all__ = ["evaluate"]


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder `vl-lst train` wrote.")],
    more_features: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE.h5]...", help="Further feature files.", show_default=False),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="The split to predict, such as val2014; train or val of a run that was trained on "
            "your own files."
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl", help="Instead of a split, a further file of your own examples."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The task; by default the only one the run was trained on.")
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with the annotations; as in training by default."),
    ] = None,
    features: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.h5",
            help="Feature file; several after another, or repeated; as in training by default.",
        ),
    ] = None,
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="best|last|best-TASK",
            help="The best by validation score (of several tasks, their mean), the last, or the "
            "best of one of several tasks.",
        ),
    ] = "best",
    submission: Annotated[
        bool,
        typer.Option(
            "--submission", help="Also write what the public test server takes, in RUN/submission."
        ),
    ] = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Predict a split with a trained run and score it as the official evaluator does.

    Predictions go to RUN/predictions, in the task's official results format.

    Example: vl-lst evaluate runs/vqa --split val2014 --json scores.json
    """
    if (split is None) == (file is None):
        raise typer.BadParameter("give either --split or --file")
    from eval.errors import InputError
    from eval.outputs import check_output
    from tasks._submission import submission_of
    from vl_lst.cli._scores import print_score, score_document
    from vl_lst.cli._submissions import print_written
    from vl_lst.launch import require_one_process
    from vl_lst.run import load_run

    require_one_process(os.environ, "a split is evaluated in one process")
    with notes(quiet=quiet):
        loaded = load_run(run, checkpoint=checkpoint)
    keep_inputs_of_recipe(loaded.recipe.model_dump(mode="json"))
    official = data_root is not None
    chosen = loaded.task(task, official=official)
    if submission:
        if file is not None or (loaded.has_own_files(task) and not official):
            raise InputError(
                "--submission: test servers take answers to the official examples, and these are "
                "your own; leave it out, or give --data-root and an official --split"
            )
        submission_of(chosen)
        check_output(run / "submission" / "file")
    given = file or split
    assert given is not None
    split = given.name if isinstance(given, Path) else given
    with notes(quiet=quiet), progress(f"evaluating {split}", quiet=quiet) as report:
        evaluation = loaded.evaluate(
            given,
            task_name=task,
            data_root=data_root,
            features=[*(features or []), *(more_features or [])] or None,
            report=report,
        )
    if evaluation.trained_on and not quiet:
        status.print(
            f"note: the run was trained on {evaluation.trained_on:,} of the "
            f"{len(evaluation.predictions):,} examples of {split}; such a score says little about "
            "examples it has not seen",
            markup=False,
        )
    if not quiet:
        for note in evaluation.notes:
            status.print(f"note: {note}", markup=False)
    if evaluation.score is None:
        document: dict[str, object] = {
            "task": chosen.name,
            "split": split,
            "protocol": None,
            "metrics": {chosen.primary_metric: None},
            "per_example": {},
        }
        status.print(f"{split} has no public labels: predictions only, no scores", markup=False)
    else:
        document = score_document(chosen, split, evaluation.score)
        print_score(chosen, split, evaluation.score, quiet=quiet)
    write_json_report(json_file, document)
    if evaluation.unwritten is not None:
        raise evaluation.unwritten
    results.print(f"predictions: {evaluation.path}", markup=False)
    if submission:
        print_written(
            chosen,
            evaluation.predictions,
            data_root or loaded.recipe.data.folder,
            split,
            run,
            quiet=quiet,
        )
