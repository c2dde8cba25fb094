"""`vl-lst score`: score a predictions file as the official evaluator does."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tasks import SUITES
from vl_lst.cli._choices import SUITE_NAMES, TASKS, complete_task
from vl_lst.cli._console import QuietOption
from vl_lst.cli._outputs import JsonOption, write_json_report
from vl_lst.cli._suite_scores import refuse_options_of_one_task

__all__ = ["score"]


def score(
    task: Annotated[
        str,
        typer.Option(
            metavar="TASK",
            help=f"Task, one of {TASKS}; with --check-submission also a suite ({SUITE_NAMES}).",
            autocompletion=complete_task,
        ),
    ],
    data_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with the official annotation files in vqa/, gqa/, nlvr2/, coco/, glue/.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="SPLIT", help="Split of the predictions, such as val2014.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Your own examples, instead of --data-root and --split.",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Predictions in the task's official results format; for --file, "
            '[{"id", "answer"}, ...]. Also the samples of lmms-eval (--log_samples), and the xlsx, '
            "tsv or json of VLMEvalKit.",
        ),
    ] = None,
    check_submission: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Check a file for the task's public test server instead of scoring. --data-root "
            "may be left out if the IDs are numbers from 0, and --split if the file name has it.",
        ),
    ] = None,
    strict_official: Annotated[
        bool,
        typer.Option(
            "--strict-official",
            help="Reproduce the official script even where it silently misreads the file.",
        ),
    ] = False,
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC",
            help="Exit with 1 if this metric cannot be computed, such as consistency; may be "
            "repeated.",
        ),
    ] = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Score a predictions file as the official evaluator does, without a model or a GPU.

    A file that the official script would silently misread is an error, unless --strict-official is
    given. A metric that the files do not allow is left out, with the reason.

    Example: vl-lst score --task vqa --data-root data --split val2014 --predictions results.json
    """
    if predictions is None and check_submission is None:
        raise typer.BadParameter("found neither --predictions nor --check-submission: give one")
    if predictions is not None and check_submission is not None:
        raise typer.BadParameter("found both --predictions and --check-submission: leave one out")
    if task in SUITES:
        refuse_options_of_one_task(
            task,
            {"--predictions": predictions, "--file": file, "--strict-official": strict_official},
        )
        from vl_lst.cli._scores import report_suite_check

        assert check_submission is not None
        document = report_suite_check(task, check_submission, data_root, split, quiet=quiet)
        write_json_report(json_file, document)
        return
    if file is None and check_submission is None and (data_root is None or split is None):
        raise typer.BadParameter("found neither --file nor --data-root with --split: give either")
    if file is not None and (data_root is not None or split is not None):
        raise typer.BadParameter("found --file with --data-root or --split: leave out either")
    if file is not None and (check_submission is not None or strict_official):
        raise typer.BadParameter(
            "--check-submission and --strict-official need an official split: leave out --file"
        )
    from eval.errors import InputError
    from tasks import get_task, with_own_files
    from tasks._harness_predictions import read_any_predictions
    from tasks._submission import split_of_submission
    from vl_lst.cli._scores import (
        print_score,
        report_submission_check,
        require_metrics,
        score_document,
    )

    chosen = get_task(task)
    if file is not None:
        data_root, split = file.parent, file.name
        chosen = with_own_files(chosen, {split: file})
    if check_submission is not None:
        split = split or split_of_submission(chosen, check_submission)
        document = report_submission_check(chosen, check_submission, data_root, split, quiet=quiet)
        write_json_report(json_file, document)
        return
    assert predictions is not None
    assert data_root is not None
    assert split is not None
    if not strict_official:
        found = read_any_predictions(chosen, predictions, data_root, split)
        scores = chosen.score(found.answers, data_root, split)
        scores = replace(scores, notes=(*found.notes, *scores.notes))
    elif chosen.score_strictly is not None:
        scores = chosen.score_strictly(predictions, data_root, split)
    else:
        raise InputError(
            f"no strict reading for {chosen.name}, whose predictions are read in "
            "one way only: leave out --strict-official"
        )
    require_metrics(scores, require or [])
    print_score(chosen, split, scores, quiet=quiet)
    write_json_report(json_file, score_document(chosen, split, scores))
