"""Scores and submissions as `score` and `evaluate` print them and write them as JSON."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from eval.errors import InputError
from eval.intervals import CONFIDENCE
from eval.leaderboard.units import inference_text
from eval.run_files import Inference
from eval.text import unknown_name
from tasks import Score, Task
from tasks._submission import SubmissionCheck, check_submission, write_submission
from tasks._suite_submission import check_suite_submission, splits_to_submit
from vl_lst.cli._console import results, status

if TYPE_CHECKING:
    from vl_lst.run import Run
    from vl_lst.run.evaluation import Evaluation

__all__ = [
    "print_evaluation_notes",
    "print_inference",
    "print_notes",
    "print_score",
    "report_evaluation",
    "report_submission_check",
    "report_suite_check",
    "require_metrics",
    "score_document",
    "unscored_document",
    "write_submission_file",
]

# Difference between lenient and official accuracy, in points, above which a note is printed.
MIN_GAP_NOTED = 2.0


def score_document(task: Task, split: str, score: Score) -> dict[str, object]:
    """Return the JSON report of a score; it has "reasons" and "notes" only if there are any."""
    document: dict[str, object] = {
        "task": task.name,
        "split": split,
        "protocol": score.protocol,
        "metrics": dict(score.metrics),
        "per_example": dict(score.per_example),
    }
    if score.reasons:
        document["reasons"] = dict(score.reasons)
    if score.notes:
        document["notes"] = list(score.notes)
    return document


def unscored_document(task: Task, split: str) -> dict[str, object]:
    """Return the JSON report of a split whose labels are not public."""
    return {
        "task": task.name,
        "split": split,
        "protocol": None,
        "metrics": {task.primary_metric: None},
        "per_example": {},
    }


def require_metrics(score: Score, names: Iterable[str]) -> None:
    """Check that a score has all of the metrics.

    Args:
        score: Score of a predictions file.
        names: Names of metrics.

    Raises:
        InputError: A metric is unknown or could not be computed.
    """
    for name in names:
        if name not in score.metrics:
            raise InputError(unknown_name("metric", name, score.metrics))
        if score.metrics[name] is None:
            reason = score.reasons.get(name, "the given files do not allow it")
            raise InputError(f"{name} cannot be computed: {reason}")


def print_score(task: Task, split: str, score: Score, *, quiet: bool) -> None:
    """Print a table of all metrics, and notes on missing metrics and formatting.

    Args:
        task: Task of the predictions.
        split: Split of the predictions.
        score: Score from the official evaluator.
        quiet: Whether to leave out the notes.
    """
    table = Table(
        title=f"{task.name} {split}: {score.examples:,} examples",
        caption=f"protocol: {score.protocol}",
    )
    table.add_column("metric")
    table.add_column("score", justify="right")
    for name, value in _rows(score.metrics):
        table.add_row(Text(name), value, style="bold" if name == task.primary_metric else None)
    results.print(table)
    if quiet:
        return
    metrics_of: defaultdict[str, list[str]] = defaultdict(list)
    for name, reason in score.reasons.items():
        metrics_of[reason].append(name)
    for reason, names in metrics_of.items():
        status.print(f"note: no {', '.join(names)}: {reason}", markup=False)
    print_notes(score.notes)
    official = score.metrics.get(task.primary_metric)
    lenient = score.metrics.get(f"lenient_{task.primary_metric}")
    if not isinstance(official, float) or not isinstance(lenient, float):
        return
    if lenient - official > MIN_GAP_NOTED:
        status.print(
            f"note: {lenient - official:.2f} points are lost to the form of answers alone "
            "(case, articles, punctuation). The official rules do not normalise it everywhere; "
            "other code may report the lenient score.",
            markup=False,
        )


def print_inference(inference: Inference) -> None:
    """Print what answering a split cost."""
    results.print(f"answering: {inference_text(inference)}", markup=False)


def print_notes(notes: Iterable[str]) -> None:
    """Print notes on standard error."""
    for note in notes:
        status.print(f"note: {note}", markup=False)


def print_evaluation_notes(evaluation: "Evaluation", split: str, *, prefix: str = "") -> None:
    """Print how many of the examples a run was trained on or selected by, and what it did not read.

    Args:
        evaluation: Predictions of the split.
        split: Name of the split.
        prefix: Text before each note, if there are several splits.
    """
    if evaluation.num_trained_on:
        status.print(
            f"note: {prefix}the run was trained on {evaluation.num_trained_on:,} of the "
            f"{len(evaluation.predictions):,} examples of {split}; the score says little about "
            "unseen examples",
            markup=False,
        )
    if evaluation.num_selected_on:
        status.print(
            f"note: {prefix}the best checkpoint was chosen by its score on "
            f"{evaluation.num_selected_on:,} of the {len(evaluation.predictions):,} examples of "
            f"{split}; the score is optimistic",
            markup=False,
        )
    print_notes(prefix + note for note in evaluation.notes)


def report_evaluation(
    run: "Run", task: Task, split: str, evaluation: "Evaluation", *, quiet: bool
) -> dict[str, object]:
    """Print the scores of a split and what answering it cost, and return the JSON report.

    Args:
        run: The run that answered.
        task: Task of the predictions.
        split: Name of the split.
        evaluation: Predictions of the split.
        quiet: Whether to leave out the notes.
    """
    if not quiet:
        print_evaluation_notes(evaluation, split)
    if evaluation.score is None:
        document = unscored_document(task, split)
        status.print(f"{split} has no public labels: predictions only, no scores", markup=False)
    else:
        document = score_document(task, split, evaluation.score)
        print_score(task, split, evaluation.score, quiet=quiet)
    if run.pulled is not None:
        document |= {"repository": run.pulled.name, "commit": run.pulled.commit}
    if evaluation.inference is not None:
        document["inference"] = evaluation.inference.model_dump(mode="json")
        print_inference(evaluation.inference)
    return document


def report_submission_check(
    task: Task, path: Path, data_root: Path | None, split: str, *, quiet: bool
) -> dict[str, object]:
    """Check a file for a public test server, print its contents, and return the JSON report.

    Raises:
        InputError: The server would not accept the file.
    """
    check = check_submission(task, path, data_root, split)
    if not quiet:
        print_notes(check.notes)
    results.print(f"{path} is valid: {_contents(check)}", markup=False)
    return {
        "task": task.name,
        "split": split,
        "file": str(path),
        "server": check.server,
        "answers": dict(check.answers),
        "notes": list(check.notes),
    }


def report_suite_check(
    suite: str, path: Path, data_root: Path | None, split: str | None, *, quiet: bool
) -> dict[str, object]:
    """Check an archive of all tasks of a suite, print its contents, and return the JSON report.

    Raises:
        InputError: The server would not accept the archive.
    """
    if split is not None:
        splits_to_submit(suite, split)  # raises if the archive does not answer it
    check = check_suite_submission(suite, path, data_root)
    if not quiet:
        print_notes(check.notes)
    results.print(f"{path} is valid: {_contents(check)}", markup=False)
    return {
        "suite": suite,
        "split": split,
        "file": str(path),
        "server": check.server,
        "answers": dict(check.answers),
        "notes": list(check.notes),
    }


def write_submission_file(
    task: Task,
    predictions: Mapping[str, str],
    data_root: Path,
    split: str,
    run: Path,
    *,
    quiet: bool,
) -> None:
    """Write the file that the public test server accepts to RUN/submission, and print its path.

    Args:
        task: Task of the predictions.
        predictions: Answers by example id.
        data_root: Folder with the official annotation files.
        split: Split of the predictions.
        run: Run directory.
        quiet: Whether to leave out notes.
    """
    written = write_submission(
        task, predictions, data_root, split, run / "submission", name=run.resolve().name
    )
    if not written.missing:
        if not quiet:
            print_notes(written.check.notes)
        results.print(f"submission: {written.path} ({_contents(written.check)})", markup=False)
        return
    results.print(f"part of a submission: {written.path}", markup=False)
    status.print(
        f"The server expects this together with {' and '.join(written.missing)}: evaluate that "
        "split with --submission too, and both go into one archive.",
        markup=False,
    )


def _contents(check: SubmissionCheck) -> str:
    counts = [f"{count:,} answers of {split}" for split, count in check.answers.items()]
    listed = (" and " if len(counts) == 2 else ", ").join(counts)
    return f"{listed}, for {check.server}"


def _rows(metrics: Mapping[str, object], indent: str = "") -> Iterator[tuple[str, str]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping) and set(value) == {"accuracy", "count"}:
            yield f"{indent}{name} ({value['count']:,})", _text(value["accuracy"])
        elif isinstance(value, Mapping):
            yield f"{indent}{name}", ""
            yield from _rows(dict(sorted(value.items(), key=_by_number_or_name)), f"{indent}  ")
        else:
            yield f"{indent}{name}", _text(value)


def _by_number_or_name(item: tuple[str, object]) -> tuple[int, str]:
    name, _ = item
    return (int(name), "") if name.isdecimal() else (-1, name)


def _text(value: object) -> str:
    if isinstance(value, list):
        low, high = map(_text, value)
        return f"{low} to {high} ({CONFIDENCE:.0%})"
    if isinstance(value, float):
        return f"{value:.2f}" if round(value, 2) == value else f"{value:.4f}"
    return "not computed" if value is None else str(value)
