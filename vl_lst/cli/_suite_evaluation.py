"""`vl-lst evaluate RUNS --task SUITE`: predict a split of every task, with one run per task."""

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eval.errors import InputError
from eval.outputs import check_output
from tasks import SUITES, Task, get_task
from tasks._suite_submission import splits_to_submit, write_suite_submission
from tasks._suites import run_of, splits_of
from vl_lst.cli._console import complain, explain, notes, progress, results, status
from vl_lst.cli._input_protection import protect_recipe_inputs
from vl_lst.cli._outputs import write_json_report
from vl_lst.cli._scores import (
    print_evaluation_notes,
    print_notes,
    score_document,
    unscored_document,
)
from vl_lst.cli._suite_scores import SplitScores, mean_score, print_suite_scores
from vl_lst.errors import EXPLAINED_ERRORS, CheckpointError
from vl_lst.launch import require_one_process

__all__ = ["evaluate_suite"]


@dataclass(slots=True)
class _Outcome:
    """Results of the splits of a suite so far.

    Args:
        scores: Scores of the splits, whose metrics are empty without public labels.
        documents: JSON report of each split, by task.
        predictions: {task: {split: {example ID: answer}}}.
        failures: Error messages of tasks that could not be predicted, by task.
    """

    scores: list[SplitScores] = field(default_factory=list)
    documents: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    predictions: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def evaluate_suite(
    suite: str,
    runs: Path,
    split: str,
    *,
    checkpoint: str,
    data_root: Path | None,
    submission: bool,
    json_file: Path | None,
    quiet: bool,
) -> None:
    """Predict a split with each run of a suite, score it, and print all scores with their mean.

    A run that fails does not end the others.

    Args:
        suite: Name of the suite.
        runs: Folder of the runs, one per task.
        split: Name of the split. A task that lacks it but has parts of it, such as `dev_matched`
            of `dev`, is evaluated on each.
        checkpoint: Name of the checkpoint.
        data_root: Folder with the official annotations. Default: that of training.
        submission: Whether to write the archive for the public test server.
        json_file: File for the scores.
        quiet: Whether to print only scores and errors.

    Raises:
        LaunchError: A launcher started several processes.
        CheckpointError: There are no runs of the suite.
        InputError: A task has no such split or none that the server accepts, or runs failed.
    """
    require_one_process(os.environ, "a split is evaluated in one process")
    tasks = {name: get_task(name) for name in SUITES[suite]}
    present = [name for name in tasks if _is_run(runs / name)]
    if not present:
        raise CheckpointError(
            f"{runs} holds no run of {suite}: expected {', '.join(tasks)} in it, as `vl-lst train "
            f"--task {suite} --out {runs}` writes them"
        )
    splits = {name: splits_of(task, split) for name, task in tasks.items()}
    if submission:
        splits = splits_to_submit(suite, split)
        present = [name for name in splits if _is_run(runs / run_of(name))]
        check_output(runs / "submission" / "file")
    outcome = _Outcome()
    roots: dict[str, Path] = {}
    for name in present:
        try:
            with notes(quiet=quiet):
                roots[name] = _evaluate_task(
                    get_task(name),
                    splits[name],
                    runs / run_of(name),
                    outcome,
                    checkpoint=checkpoint,
                    data_root=data_root,
                    quiet=quiet,
                )
        except EXPLAINED_ERRORS as error:
            outcome.failures[name] = explain(error)
            complain(f"{name}: {outcome.failures[name]}")
        # The next run must find the memory of this one free.
        gc.collect()
    scored = [each for each in outcome.scores if each.metrics]
    if scored:
        print_suite_scores(suite, scored)
    elif not outcome.failures:
        status.print(f"{split} has no public labels: predictions only, no scores", markup=False)
    missing = [name for name in tasks if name not in present]
    if missing and not quiet:
        status.print(
            f"note: no run of {', '.join(missing)} in {runs}, so there is no mean over all tasks",
            markup=False,
        )
    document: dict[str, object] = {
        "suite": suite,
        "split": split,
        "mean": mean_score(suite, scored),
        "tasks": outcome.documents,
        "failed": dict(outcome.failures),
        "missing": missing,
    }
    if submission:
        root = data_root or next(iter(roots.values()), None)
        document["submission"] = _write_submission(suite, runs, outcome, root, quiet=quiet)
    write_json_report(json_file, document)
    if outcome.failures:
        listed = "\n".join(f"  {name}: {reason}" for name, reason in outcome.failures.items())
        raise InputError(f"{len(outcome.failures)} of {len(present)} tasks failed:\n{listed}")


def _is_run(folder: Path) -> bool:
    from vl_lst.runs.directory import RunDirectory

    return RunDirectory(folder).recipe_file.exists()


def _evaluate_task(
    task: Task,
    splits: Sequence[str],
    folder: Path,
    outcome: _Outcome,
    *,
    checkpoint: str,
    data_root: Path | None,
    quiet: bool,
) -> Path:
    """Evaluate the splits of one task.

    Returns:
        The data root.
    """
    from vl_lst.run import load_run

    run = load_run(folder, checkpoint=checkpoint)
    protect_recipe_inputs(run.recipe.model_dump(mode="json"))
    for split in splits:
        with progress(f"evaluating {task.name} {split}", quiet=quiet) as report:
            evaluation = run.evaluate(
                split, task_name=task.name, data_root=data_root, report=report
            )
        if evaluation.write_error is not None:
            raise evaluation.write_error
        outcome.predictions.setdefault(task.name, {})[split] = evaluation.predictions
        if not quiet:
            print_evaluation_notes(evaluation, split, prefix=f"{task.name} {split}: ")
        score = evaluation.score
        outcome.scores.append(SplitScores(task, split, {} if score is None else score.metrics))
        documents = outcome.documents.setdefault(task.name, [])
        if score is None:
            documents.append(unscored_document(task, split))
        else:
            documents.append(score_document(task, split, score))
            if not quiet:
                print_notes(f"{task.name} {split}: {note}" for note in score.notes)
    return data_root or run.recipe.data.folder


def _write_submission(
    suite: str, runs: Path, outcome: _Outcome, data_root: Path | None, *, quiet: bool
) -> dict[str, object]:
    """Write the archive for the public test server, and return its JSON report."""
    written = write_suite_submission(suite, outcome.predictions, data_root, runs / "submission")
    if not quiet:
        print_notes(written.check.notes)
    if written.placeholders:
        status.print(
            f"note: no predictions for {', '.join(written.placeholders)}: each holds the same "
            "answer to every example, since the server requires the file",
            markup=False,
        )
    results.print(f"submission: {written.path} (for {written.check.server})", markup=False)
    return {
        "file": str(written.path),
        "placeholders": list(written.placeholders),
        "notes": list(written.check.notes),
    }
