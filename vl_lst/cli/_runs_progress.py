"""Progress of several runs that train at the same time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import Progress, TaskID

from tasks import get_task
from vl_lst.cli._console import complain, progress, progress_bars, status
from vl_lst.progress import ProgressReport, silent

if TYPE_CHECKING:
    from eval.run_files import RunRecord
    from vl_lst.errors import VlLstError

__all__ = ["RunsProgress", "describe_scores", "runs_progress"]


class RunsProgress:
    """Callbacks of `vl_lst.training.parallel_runs.train_in_parallel`.

    On a terminal, each run that trains has a bar below that of all runs. A line is printed when a
    run ends.

    Args:
        report: Progress callback for the steps of all runs.
        bars: Bars of the terminal, if there is one.
        quiet: Whether to print only errors.
    """

    def __init__(self, report: ProgressReport, bars: Progress | None, *, quiet: bool) -> None:
        self.report = report
        self._bars = bars
        self._bar_of: dict[str, TaskID] = {}
        self._quiet = quiet

    def on_progress(self, name: str, done: int, total: int, note: str) -> None:
        """Show the steps of a run on its bar."""
        if self._bars is None:
            return
        if name not in self._bar_of:
            self._bar_of[name] = self._bars.add_task(name, total=total, note="")
        self._bars.update(self._bar_of[name], completed=done, total=total, note=note)

    def on_end(self, name: str, ended: "RunRecord | VlLstError") -> None:
        """Print the scores of a run, or why it failed."""
        if self._bars is not None and name in self._bar_of:
            self._bars.remove_task(self._bar_of.pop(name))
        if isinstance(ended, Exception):
            complain(f"{name}: {ended}")
        elif not self._quiet:
            status.print(f"{name}: {describe_scores(ended)}", markup=False)


@contextmanager
def runs_progress(description: str, *, quiet: bool) -> Iterator[RunsProgress]:
    """Show the progress of several runs.

    Args:
        description: What is in progress, such as "training".
        quiet: Whether to print only errors.
    """
    if quiet or not status.is_terminal:
        with progress(description, quiet=quiet) as report:
            yield RunsProgress(silent if quiet else report, None, quiet=quiet)
        return
    with progress_bars() as bars:
        whole = bars.add_task(description, total=None, note="")

        def report_all(done: int, total: int, note: str = "") -> None:
            # The bars of the runs have their notes.
            bars.update(whole, completed=done, total=total)

        yield RunsProgress(report_all, bars, quiet=quiet)


def describe_scores(record: "RunRecord") -> str:
    """Return the primary metric of each task, such as `vqa accuracy 61.2`."""
    found = []
    for name in record.tasks:
        task, split = get_task(name), record.validation_split(name)
        value = record.scores.get(name, {}).get(split or "", {}).get(task.primary_metric)
        shown = f"{value:.4g}" if isinstance(value, int | float) else "not computed"
        found.append(f"{name} {task.primary_metric} {shown}")
    return ", ".join(found)
