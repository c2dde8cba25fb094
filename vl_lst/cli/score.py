"""`vl-lst score`: official scores of a predictions file, without a model."""

from pathlib import Path
from typing import Annotated

import typer

from vl_lst.cli._choices import TASKS
from vl_lst.cli._console import QuietOption
from vl_lst.cli._outputs import JsonOption, write_json_report

__all__ = ["score"]


def score(
    task: Annotated[str, typer.Option(help=f"The task, of {TASKS}.")],
    data_root: Annotated[
        Path | None,
        typer.Option(help="Folder with the official annotation files, in vqa/ for vqa."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="The split that was predicted, such as val2014.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Your own examples that were predicted, instead of --data-root and --split.",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Predictions, in the official results format; of --file, [{"id", "answer"}, ...].',
        ),
    ] = None,
    check_submission: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead of scoring, check a file made for the task's public test server.",
        ),
    ] = None,
    strict_official: Annotated[
        bool,
        typer.Option(
            "--strict-official",
            help="Give what the official script gives, also where it misreads the file in silence.",
        ),
    ] = False,
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC",
            help="Fail unless this metric can be computed, such as consistency; repeatable.",
        ),
    ] = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Score a predictions file as the official evaluator does. Needs no GPU and no model.

    What the official script would misread in silence is an error, unless --strict-official asks
    for its reading. A metric that the given files do not allow is left out, and the reason said.

    Example: vl-lst score --task vqa --data-root data --split val2014 --predictions results.json
    """
    if (predictions is None) == (check_submission is None):
        raise typer.BadParameter("give either --predictions or --check-submission")
    if file is None and (data_root is None or split is None):
        raise typer.BadParameter("give --data-root and --split, or --file with your own examples")
    if file is not None and (data_root is not None or split is not None):
        raise typer.BadParameter("give either --file, or --data-root and --split")
    if file is not None and (check_submission is not None or strict_official):
        raise typer.BadParameter(
            "--check-submission and --strict-official are for official splits: leave --file out"
        )
    from eval.errors import InputError
    from tasks import get_task, with_own_files
    from vl_lst.cli._scores import print_score, require_metrics, score_document
    from vl_lst.cli._submissions import print_check

    chosen = get_task(task)
    if file is not None:
        data_root, split = file.parent, file.name
        chosen = with_own_files(chosen, {split: file})
    assert data_root is not None
    assert split is not None
    if check_submission is not None:
        document = print_check(chosen, check_submission, data_root, split, quiet=quiet)
        write_json_report(json_file, document)
        return
    assert predictions is not None
    if not strict_official:
        scores = chosen.score(chosen.read_predictions(predictions), data_root, split)
    elif chosen.score_strictly is not None:
        scores = chosen.score_strictly(predictions, data_root, split)
    else:
        raise InputError(
            f"{chosen.name} has no other way of reading predictions: leave out --strict-official"
        )
    require_metrics(scores, require or [])
    print_score(chosen, split, scores, quiet=quiet)
    write_json_report(json_file, score_document(chosen, split, scores))
