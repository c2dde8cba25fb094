"""What `evaluate --submission` and `score --check-submission` say."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks import Task
from tasks._submission import SubmissionCheck, check_submission, write_submission
from vl_lst.cli._console import results, status

__all__ = ["print_check", "print_written"]


def print_check(
    task: Task, path: Path, data_root: Path, split: str, *, quiet: bool
) -> dict[str, object]:
    """Check a submission, say what is in it, and return that for machines."""
    check = check_submission(task, path, data_root, split)
    _print_notes(check.notes, quiet=quiet)
    results.print(f"{path} is in order: {_contents(check)}", markup=False)
    return {
        "task": task.name,
        "split": split,
        "file": str(path),
        "server": check.server,
        "answers": dict(check.answers),
        "notes": list(check.notes),
    }


def print_written(
    task: Task,
    predictions: Mapping[str, str],
    data_root: Path,
    split: str,
    run: Path,
    *,
    quiet: bool,
) -> None:
    """Write what the public test server takes into a run's folder, and say what it is."""
    written = write_submission(
        task, predictions, data_root, split, run / "submission", name=run.resolve().name
    )
    if not written.missing:
        _print_notes(written.check.notes, quiet=quiet)
        results.print(f"submission: {written.path} ({_contents(written.check)})", markup=False)
        return
    results.print(f"part of a submission: {written.path}", markup=False)
    status.print(
        f"The server takes this together with {' and '.join(written.missing)}: evaluate that with "
        "--submission too, and both go into one archive.",
        markup=False,
    )


def _contents(check: SubmissionCheck) -> str:
    counts = " and ".join(f"{count:,} answers of {split}" for split, count in check.answers.items())
    return f"{counts}, for {check.server}"


def _print_notes(notes: Sequence[str], *, quiet: bool) -> None:
    if not quiet:
        for note in notes:
            status.print(f"note: {note}", markup=False)
