"""Runs of `vl-lst sweep`: resolved recipes, commands, and the table of scores."""

import json
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from tasks import SUITES, get_task
from vl_lst.cli._console import results
from vl_lst.cli._run_recipe import resolve_run_recipe
from vl_lst.cli._suite_scores import SplitScores
from vl_lst.cli._suite_training import require_no_run
from vl_lst.errors import CheckpointError, RecipeError, VlLstError
from vl_lst.option_names import OPTION_OF_FIELD

if TYPE_CHECKING:
    from eval.run_files import RunRecord
    from vl_lst.recipes import Recipe
    from vl_lst.recipes.sweep import SweepRun

__all__ = ["PlannedRun", "plan_runs", "print_plan", "print_scores", "train_command"]


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run of a sweep whose settings are valid.

    Args:
        run: The run.
        recipe: Its recipe.
        folder: Its folder.
        record: Its record, if it has been trained to the end before.
    """

    run: "SweepRun"
    recipe: "Recipe"
    folder: Path
    record: "RunRecord | None"

    @property
    def state(self) -> str:
        """What the sweep does with the run."""
        if self.record is not None:
            return "finished"
        return "resume" if (self.folder / "checkpoints").is_dir() else "train"


def plan_runs(runs: Sequence["SweepRun"], out: Path) -> list[PlannedRun]:
    """Resolve the recipes of all runs and check that their folders can be used.

    Args:
        runs: The runs.
        out: Folder of the sweep, which need not exist yet.

    Raises:
        RecipeError: A setting is not valid, a folder holds a run with another recipe, or two runs
            have the same one.
        CheckpointError: A folder holds something else.
    """
    from vl_lst.runs.directory import RunDirectory
    from vl_lst.runs.record import finished_record

    require_no_run(out)
    planned = []
    same: dict[str, str] = {}
    for run in runs:
        folder = out / run.name
        try:
            recipe = resolve_run_recipe(folder, run.base, run.changes, resume=True)
            _require_own_folder(folder, out)
            RunDirectory(folder).check(recipe, resume=True)
        except VlLstError as error:
            raise type(error)(f"{run.name}: {error}") from None
        settings = json.dumps(recipe.model_dump(mode="json"), sort_keys=True)
        if settings in same:
            raise RecipeError(
                f"{run.name} and {same[settings]} have the same settings; leave one out"
            )
        same[settings] = run.name
        planned.append(PlannedRun(run, recipe, folder, finished_record(RunDirectory(folder))))
    return planned


def _require_own_folder(folder: Path, out: Path) -> None:
    """Refuse a folder inside that of another run.

    Raises:
        CheckpointError: A folder between `out` and `folder` holds a run.
    """
    from vl_lst.runs.directory import RunDirectory

    for parent in folder.parents:
        if parent == out:
            return
        if RunDirectory(parent).recipe_file.exists():
            raise CheckpointError(
                f"{parent} holds a run, so no other run can be inside it: choose another --out"
            )


def train_command(run: "SweepRun", out: Path) -> str:
    """Return the shell command that trains or resumes a run."""
    words = ["vl-lst", "train", "--recipe", run.base]
    for path, value in run.options:
        for each in value if isinstance(value, list) else [value]:
            words += [OPTION_OF_FIELD[path], str(each)]
    for path, value in run.settings:
        words += ["--set", f"{path}={_yaml(value)}"]
    return shlex.join([*words, "--out", str(out / run.name), "--resume"])


def _yaml(value: object) -> str:
    """Return a value as YAML, without quotes where none are needed."""
    from vl_lst.recipes.reading import parse_yaml

    if isinstance(value, str):
        try:
            if parse_yaml(value, source=value) == value:
                return value
        except RecipeError:
            pass
    return json.dumps(value, ensure_ascii=False)


def print_plan(planned: Iterable[PlannedRun]) -> None:
    """Print a table of the runs without training them."""
    table = Table()
    for name in ("run", "method", "recipe", "what is done"):
        table.add_column(name, overflow="fold")
    for each in planned:
        recipe = each.recipe
        table.add_row(
            Text(each.run.name), Text(recipe.method.name), Text(each.run.base), each.state
        )
    results.print(table)


def print_scores(
    planned: Sequence[PlannedRun],
    records: Mapping[str, "RunRecord"],
    suite: str | None,
) -> None:
    """Print a table of the runs: the primary metric of each task in percent, and their mean.

    The runs of a suite for one seed share a row.

    Args:
        planned: All runs of the sweep.
        records: Records of those that are finished, by name.
        suite: Name of the suite that is trained task by task; `None` if there is none.
    """
    rows: dict[str, dict[str, str | float]] = {}
    for each in planned:
        name = each.run.name
        row = rows.setdefault(name.rpartition("/")[0] if suite else name, {})
        for task in each.recipe.tasks:
            row[task] = _percent(records[name], task) if name in records else "failed"
    tasks = (
        list(SUITES[suite])
        if suite
        else list(dict.fromkeys(t for row in rows.values() for t in row))
    )
    has_mean = len(tasks) > 1
    # Narrow, so that the tasks of a suite fit 80 columns; long names of runs are folded.
    table = Table(
        title="primary metrics on the validation splits, in percent",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("run", overflow="fold")
    for task in tasks:
        table.add_column(task, justify="right", no_wrap=True)
    if has_mean:
        table.add_column("mean", justify="right", no_wrap=True)
    for name, row in rows.items():
        cells = [row.get(task, "") for task in tasks]
        scores = [cell for cell in cells if isinstance(cell, float)]
        shown = [f"{cell:.2f}" if isinstance(cell, float) else cell for cell in cells]
        if has_mean:
            shown.append(f"{statistics.fmean(scores):.2f}" if len(scores) == len(tasks) else "")
        table.add_row(Text(name), *shown)
    results.print(table)


def _percent(record: "RunRecord", task: str) -> str | float:
    split = record.validation_split(task) or ""
    metrics: Mapping[str, Any] = record.scores.get(task, {}).get(split, {})
    percent = SplitScores(get_task(task), split, metrics).percent
    return "-" if percent is None else percent
