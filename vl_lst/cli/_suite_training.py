"""`vl-lst train --task SUITE`: one run per task of a suite, in RUNS/TASK.

Each run is an ordinary one, which can be resumed, evaluated and compared like any other. Everything
that can be checked without training is checked for all tasks before the first run starts.
"""

import gc
import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import SUITES, Task, get_task
from vl_lst.cli._console import complain, explain, progress, results, status
from vl_lst.cli._input_protection import protect_recipe_inputs, protect_runs
from vl_lst.cli._outputs import write_json_report
from vl_lst.cli._run_recipe import resolve_run_recipe
from vl_lst.cli._suite_scores import SplitScores, mean_score, print_suite_scores
from vl_lst.errors import EXPLAINED_ERRORS, CheckpointError, RecipeError, TrainingError
from vl_lst.launch import read_launch, refuse_separate_processes, require_one_process

if TYPE_CHECKING:
    from eval.run_files import GitState, RunRecord
    from vl_lst.recipes import Recipe

__all__ = ["fit_head", "require_no_run", "train_suite"]


@dataclass(slots=True)
class _Outcome:
    """Results of the runs of a suite so far.

    Args:
        records: Records of the runs that succeeded, by task.
        failures: Error messages of those that failed, by task.
    """

    records: "dict[str, RunRecord]" = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def train_suite(
    suite: str,
    out: Path,
    *,
    recipe: str | None,
    changes: Sequence[tuple[str, Any]],
    resume: bool,
    json_file: Path | None,
    quiet: bool,
) -> None:
    """Train each task of a suite in a separate run, and print all scores with their mean.

    A run that fails does not end the others.

    Args:
        suite: Name of the suite.
        out: Folder of the runs.
        recipe: See `resolve_run_recipe`.
        changes: (path of a field, value) pairs for all runs.
        resume: Whether to skip finished runs and resume interrupted ones.
        json_file: File for the records of all runs.
        quiet: Whether to print only scores and errors.

    Raises:
        LaunchError: A launcher started several processes.
        RecipeError: A setting is not valid for a task.
        InputError: Data files are missing or malformed.
        CheckpointError: There are runs and `resume` is not set, or they cannot be resumed.
        TrainingError: Runs failed.
    """
    from vl_lst.recipes.building import require_heads
    from vl_lst.runs.directory import RunDirectory, make_folder
    from vl_lst.runs.git import git_state
    from vl_lst.runs.lock import exclusive_folder
    from vl_lst.runs.record import finished_record

    require_one_process(
        os.environ,
        f"the tasks of {suite} are trained one after another in one process; several processes can "
        "train a single task (--task TASK --out RUNS/TASK)",
    )
    refuse_separate_processes(read_launch(os.environ), os.environ)
    recipes = {
        task: _resolve(suite, task, out / task, recipe, changes, resume=resume)
        for task in SUITES[suite]
    }
    protect_runs([out / task for task in recipes])
    for resolved in recipes.values():
        protect_recipe_inputs(resolved.model_dump(mode="json"))
        require_heads(resolved)
    # The code may change while the first tasks train.
    checkout = git_state()
    require_no_run(out)
    found = {task: finished_record(RunDirectory(out / task)) for task in recipes if resume}
    finished = {task: record for task, record in found.items() if record is not None}
    _require_data(suite, [each for task, each in recipes.items() if task not in finished])
    outcome = _Outcome(records=finished)
    make_folder(out)
    with exclusive_folder(out):
        for task, resolved in recipes.items():
            RunDirectory(out / task).prepare(resolved, resume=resume)
        for number, (task, resolved) in enumerate(recipes.items(), start=1):
            if task in finished:
                if not quiet:
                    status.print(f"{task}: finished before", markup=False)
                continue
            _train_one(
                task,
                resolved,
                out / task,
                outcome,
                title=f"training {task} ({number} of {len(recipes)})",
                checkout=checkout,
                resume=resume,
                quiet=quiet,
            )
    scores = [
        SplitScores(get_task(task), split, metrics)
        for task in recipes
        if task in outcome.records
        for split, metrics in outcome.records[task].scores.get(task, {}).items()
        if split == recipes[task].data.validation_split[task]
    ]
    print_suite_scores(suite, scores)
    results.print(f"runs: {out}", markup=False)
    write_json_report(json_file, _document(suite, scores, outcome))
    if outcome.failures:
        raise TrainingError(_describe_failures(suite, outcome.failures))


def _resolve(
    suite: str,
    task: str,
    out: Path,
    recipe: str | None,
    changes: Sequence[tuple[str, Any]],
    *,
    resume: bool,
) -> "Recipe":
    """Return the recipe of one run.

    Raises:
        RecipeError: It is not valid, names another task, or reads the user's own files.
    """
    if any(path == "task" for path, _ in changes):
        raise RecipeError(
            f"task: cannot be set, since --task {suite} trains each of {', '.join(SUITES[suite])}"
        )
    chosen = get_task(task)
    own = [(path, fit_head(chosen, value) if path == "head" else value) for path, value in changes]
    try:
        resolved = resolve_run_recipe(out, recipe, [("task", task), *own], resume=resume)
    except RecipeError as error:
        raise RecipeError(f"{suite}, {task}: {error}") from None
    if file := resolved.data.train_file.get(task):
        raise RecipeError(
            f"{suite}, {task}: found the training file {file}, expected the official files, which "
            f"make results comparable. Train on your own file with --task {task}."
        )
    return resolved


def fit_head(task: Task, head: object) -> object:
    """Return the head of a task for the one given for all tasks: numbers are not classified."""
    if head == "classify" and "classify" not in task.heads and "regress" in task.heads:
        return "regress"
    return head


def require_no_run(out: Path) -> None:
    """Refuse a folder for several runs that is a run itself.

    Raises:
        CheckpointError: It holds a run.
    """
    from vl_lst.runs.directory import RunDirectory

    if RunDirectory(out).recipe_file.exists():
        raise CheckpointError(
            f"{out} holds a single run: expected a new folder, or one with a run per task. Choose "
            "another --out."
        )


def _require_data(suite: str, recipes: Sequence["Recipe"]) -> None:
    """Load all examples, so that no run fails because of its data after hours of others.

    Raises:
        InputError: Files are missing or malformed, or a split has no labels.
    """
    from eval.errors import InputError
    from tasks._data_check import check_split
    from vl_lst.data.examples import load_examples

    problems = []
    for recipe in recipes:
        (name,) = recipe.tasks
        task, data = recipe.configured_task(name), recipe.data
        splits = dict.fromkeys((data.train_split[name], data.validation_split[name]))
        states = [check_split(task, data.folder, split, None) for split in splits]
        # Parts of one file have the same problem.
        found = list(dict.fromkeys(state.problem for state in states if state.problem is not None))
        if not found:
            try:
                load_examples(recipe, name, None)
            except InputError as error:
                found.append(str(error))
        problems += [f"{name}: {problem}" for problem in found]
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise InputError(
            f"no run of {suite} is started, since data are not usable:\n{listed}\n"
            f"`vl-lst data download --task {suite}` downloads missing files."
        )


def _train_one(
    task: str,
    recipe: "Recipe",
    out: Path,
    outcome: _Outcome,
    *,
    title: str,
    checkout: "GitState | None",
    resume: bool,
    quiet: bool,
) -> None:
    """Train one run and note its record, or why it failed."""
    from vl_lst.training.session import train as train_run

    try:
        with progress(title, quiet=quiet) as report:
            outcome.records[task] = train_run(
                recipe, out, resume=resume, report=report, checkout=checkout
            )
    except EXPLAINED_ERRORS as error:
        outcome.failures[task] = explain(error)
        complain(f"{task}: {outcome.failures[task]}")
    except Exception as error:  # noqa: BLE001 - such as a lack of GPU memory for one task
        outcome.failures[task] = f"{type(error).__name__}: {error}"
        status.print(traceback.format_exc(), markup=False)
    # The next run must find the memory of this one free.
    gc.collect()


def _describe_failures(suite: str, failures: Mapping[str, str]) -> str:
    listed = "\n".join(f"  {task}: {reason}" for task, reason in failures.items())
    return (
        f"{len(failures)} of the {len(SUITES[suite])} runs of {suite} failed:\n{listed}\n"
        "Run the same command again with --resume; it skips finished runs."
    )


def _document(suite: str, scores: Sequence[SplitScores], outcome: _Outcome) -> dict[str, object]:
    return {
        "suite": suite,
        "mean": mean_score(suite, scores),
        "runs": {
            task: outcome.records[task].model_dump(mode="json") if task in outcome.records else None
            for task in SUITES[suite]
        },
        "failed": dict(outcome.failures),
    }
