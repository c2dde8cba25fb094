"""Reading and updating a run's `record.json`."""

import json
import logging
from collections.abc import Callable
from contextlib import suppress

from pydantic import ValidationError

from eval.errors import InputError
from eval.outputs import write_json
from eval.run_files import Forgetting, Inference, RunRecord, first_problem, read_run_file
from feature_extraction.errors import LockError
from tasks import Score
from vl_lst.errors import CheckpointError
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.lock import record_lock

__all__ = ["add_forgetting", "add_scores", "finished_record", "read_record", "update_record"]

log = logging.getLogger(__name__)


def read_record(directory: RunDirectory) -> RunRecord | None:
    """Return the record of a run; `None` if it has none yet.

    Raises:
        CheckpointError: The record is invalid.
        InputError: The file cannot be read.
    """
    if not directory.record_file.exists():
        return None
    content = read_run_file(directory.record_file, expected="the record of a run")
    try:
        return RunRecord.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(
            f"{directory.record_file} cannot be read as the record of a run: "
            f"{first_problem(error)}. It is damaged or of a newer vl-lst: copy the "
            "run again, or upgrade."
        ) from None


def finished_record(directory: RunDirectory) -> RunRecord | None:
    """Return the record of a run that has trained to the end, `None` of any other folder.

    Resuming a run deals with a record that cannot be read.
    """
    with suppress(CheckpointError, InputError):
        record = read_record(directory)
        if record is not None and record.status == "success":
            return record
    return None


def update_record(directory: RunDirectory, record: RunRecord) -> RunRecord:
    """Write the record of a run, keeping what `add_scores` and `add_forgetting` added to it.

    What was added for an earlier best checkpoint is dropped, scores with a warning. A record that
    cannot be read is kept under another name.

    Args:
        directory: Folder of the run.
        record: Record without what was added.

    Returns:
        The record that was written.
    """
    with record_lock(directory.path):
        try:
            before = read_record(directory)
        except (CheckpointError, InputError) as error:
            kept = directory.record_file.with_suffix(".unreadable.json")
            if directory.record_file.is_file():
                directory.record_file.replace(kept)
            log.warning(
                "the record of an earlier session cannot be read, so it is renamed to %s and a new "
                "one is written: %s",
                kept.name,
                error,
            )
            before = None
        if before is not None:
            record = _with_added_costs(_with_added_scores(record, before), before)
        _write(directory, record)
    return record


def add_scores(
    directory: RunDirectory,
    task: str,
    split: str,
    score: Score,
    *,
    best_step: int,
    inference: Inference | None = None,
    checkpoint_bytes: int | None = None,
) -> None:
    """Add the scores of another split to the record, if it describes the same best checkpoint.

    The costs of answering are those of the split that chose the checkpoint.

    A failure is logged, not raised, so that the caller can still show the scores.

    Args:
        directory: Folder of the run.
        task: Name of the scored task.
        split: Name of the scored split.
        score: Official scores.
        best_step: Training step of the scored checkpoint.
        inference: What answering cost; `None` if it was not measured.
        checkpoint_bytes: See `RunRecord`.
    """

    def change(record: RunRecord) -> RunRecord:
        record.scores.setdefault(task, {})[split] = dict(score.metrics)
        record.protocol[task] = score.protocol
        if inference is not None and split == record.validation_split(task):
            record.inference[task] = inference
        return record.model_copy(
            update={"checkpoint_bytes": checkpoint_bytes or record.checkpoint_bytes}
        )

    _change_record(directory, f"the scores of {task} {split}", best_step, change)


def add_forgetting(directory: RunDirectory, forgetting: Forgetting, *, best_step: int) -> None:
    """Add what a backbone has forgotten to the record, if it describes the same best checkpoint.

    A failure is logged, not raised, so that the caller can still show the losses.

    Args:
        directory: Folder of the run.
        forgetting: The losses.
        best_step: Training step of the measured checkpoint.
    """
    _change_record(
        directory,
        "the losses on the pretraining text",
        best_step,
        lambda record: record.model_copy(update={"forgetting": forgetting}),
    )


def _change_record(
    directory: RunDirectory,
    what: str,
    best_step: int,
    change: Callable[[RunRecord], RunRecord],
) -> None:
    if not directory.record_file.exists():
        return
    try:
        with record_lock(directory.path):
            record = read_record(directory)
            if record is None:
                return
            if record.best_step not in (None, best_step):
                raise CheckpointError(
                    f"they belong to the checkpoint of step {best_step}, but training has found a "
                    f"better one at step {record.best_step}. Evaluate again."
                )
            _write(directory, change(record))
    except (CheckpointError, InputError, LockError, OSError) as error:
        log.warning("%s are not added to the record: %s", what, error)


def _with_added_scores(record: RunRecord, before: RunRecord) -> RunRecord:
    added = {
        (task, split): metrics
        for task, splits in before.scores.items()
        for split, metrics in splits.items()
        if split not in record.scores.get(task, {})
    }
    if not added:
        return record
    if record.best_step is not None and record.best_step != before.best_step:
        dropped = [
            f"{task} {split}" for task, split in added if before.validation_split(task) != split
        ]
        if dropped:
            log.warning(
                "the scores of %s belong to the checkpoint of step %s and are dropped: training "
                "has found a better one at step %d. Evaluate again.",
                ", ".join(dropped),
                before.best_step,
                record.best_step,
            )
        return record
    record = record.model_copy(deep=True)
    for (task, split), metrics in added.items():
        record.scores.setdefault(task, {})[split] = metrics
        if record.protocol.get(task) is None:
            record.protocol[task] = before.protocol.get(task)
    return record


def _with_added_costs(record: RunRecord, before: RunRecord) -> RunRecord:
    if record.best_step is not None and record.best_step != before.best_step:
        return record
    update = {
        "inference": {**before.inference, **record.inference},
        "forgetting": record.forgetting or before.forgetting,
    }
    return record.model_copy(update=update)


def _write(directory: RunDirectory, record: RunRecord) -> None:
    write_json(directory.record_file, json.loads(record.model_dump_json()))
