"""`record.json`: what came of a run, for people and leaderboards. What is not known is null."""

import json
import logging
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from eval.errors import InputError
from eval.files import MAX_RUN_FILE_BYTES, read_json
from eval.outputs import write_json
from feature_extraction.errors import LockError
from tasks import Score
from vl_lst.errors import CheckpointError
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.git import GitState
from vl_lst.runs.lock import record_lock

__all__ = [
    "Memory",
    "Parameters",
    "RunRecord",
    "Status",
    "add_scores",
    "read_record",
    "update_record",
]

log = logging.getLogger(__name__)

Status = Literal["success", "failed", "cancelled"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Parameters(_Part):
    """How much of the model trains.

    Args:
        trainable: Parameters that train.
        total: All parameters of the model, backbone included, shared ones once.
        percent_of_total: 100 * trainable / total.
    """

    trainable: int
    total: int
    percent_of_total: float


class Memory(_Part):
    """Where memory goes while training, in bytes.

    Args:
        parameters: All parameters and buffers, backbone included; storages that several share once.
        gradients: Of what trains.
        optimizer_state: AdamW's moments; `None` before the first step.
        saved_for_backward: What autograd keeps of a forward pass until its backward pass, by part
            and in `total`, parameters excluded, measured on the first batch, of which all processes
            together hold this much; of several tasks, the one that needs most.
        peak_allocated: Highest allocation during training steps on CUDA, model included, after
            two warm-up steps; of several processes, that of the first on its device.
        peak_reserved: The same of what was reserved from the device.
    """

    parameters: int
    gradients: int
    optimizer_state: int | None
    saved_for_backward: dict[str, int] | None
    peak_allocated: int | None
    peak_reserved: int | None


class RunRecord(_Part):
    """One run; see the fields' own descriptions.

    Args:
        schema_version: Of this layout.
        status: How the last session of training ended.
        error: Its message, where it failed.
        method: Name of the transfer method.
        tasks: What was trained.
        protocol: Official rules the scores follow, by task.
        scores: Metrics of the best checkpoint, by task and split.
        mean_score: Mean over the tasks of the best checkpoint's primary metrics on the validation
            splits, each in percent (NLVR2's accuracy and captions' CIDEr times 100).
        best_step: The step of that checkpoint.
        best_step_of_task: The step of the best checkpoint of each task by itself.
        answer_coverage: Percentage of the training examples one of whose best answers is on the
            task's answer list, by task; no entry where a task has none.
        steps: Optimiser steps done.
        total_steps: Of the whole schedule.
        parameters: How much trains; `None` where the model was never built.
        memory_bytes: Where memory goes.
        examples_per_second: In training steps, data loading included.
        train_seconds: Spent in them.
        seed: Of the recipe.
        feature_spec_sha256: Digest of how the features were made.
        backbone: Name of the backbone.
        backbone_fingerprint: SHA-256 of its weights.
        num_processes: Processes that share each step; `None` in records of older versions.
        git: The code's checkout when the last session started; `None` where the package is
            installed without one.
        earlier_git: Other checkouts that earlier sessions of the run were trained with, in order.
        environment: Variables that change the precision libraries compute with, where set.
        packages: Versions.
        python: Version.
        device: Kind and name.
        recipe: The resolved recipe.
    """

    schema_version: Literal[1] = 1
    status: Status
    error: str | None = None
    method: str
    tasks: list[str]
    protocol: dict[str, str | None]
    scores: dict[str, dict[str, dict[str, Any]]]
    mean_score: float | None = None
    best_step: int | None = None
    best_step_of_task: dict[str, int] = {}
    answer_coverage: dict[str, float] = {}
    steps: int | None = None
    total_steps: int | None = None
    parameters: Parameters | None = None
    memory_bytes: Memory | None = None
    examples_per_second: float | None = None
    train_seconds: float | None = None
    seed: int
    feature_spec_sha256: str | None = None
    backbone: str
    backbone_fingerprint: str | None = None
    num_processes: int | None = None
    git: GitState | None
    earlier_git: list[GitState] = []
    environment: dict[str, str] = {}
    packages: dict[str, str | None]
    python: str
    device: str | None = None
    recipe: dict[str, Any]


def read_record(directory: RunDirectory) -> RunRecord | None:
    """The record of a run, `None` where it has none yet.

    Raises:
        CheckpointError: It is damaged.
    """
    if not directory.record_file.exists():
        return None
    content = read_json(
        directory.record_file, expected="the record of a run", max_bytes=MAX_RUN_FILE_BYTES
    )
    try:
        return RunRecord.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CheckpointError(
            f"{directory.record_file} is not a record this program reads: "
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None


def update_record(directory: RunDirectory, record: RunRecord) -> RunRecord:
    """Write the record of a run, keeping the scores that `add_scores` added of its best checkpoint.

    Scores of an earlier best checkpoint are dropped, which the log says.

    Args:
        directory: The run.
        record: What training says of it.

    Returns:
        The record as it was written.
    """
    with record_lock(directory.path):
        try:
            before = read_record(directory)
        except (CheckpointError, InputError) as error:
            kept = directory.record_file.with_suffix(".unreadable.json")
            if directory.record_file.is_file():
                directory.record_file.replace(kept)
            log.warning(
                "the record of an earlier session cannot be read, so it is renamed to %s and "
                "written again: %s",
                kept.name,
                error,
            )
            before = None
        if before is not None:
            record = _with_added_scores(record, before)
        _write(directory, record)
    return record


def add_scores(
    directory: RunDirectory, task: str, split: str, score: Score, *, best_step: int
) -> None:
    """Add the scores of another split to the record, if it describes the same best checkpoint.

    What prevents it is logged: the scores themselves are worth more than their record.

    Args:
        directory: The run.
        task: The task that was scored.
        split: The split that was scored.
        score: Its scores.
        best_step: The step of the checkpoint that was scored.
    """
    if not directory.record_file.exists():
        return
    try:
        with record_lock(directory.path):
            _add_scores(directory, task, split, score, best_step)
    except (CheckpointError, InputError, LockError, OSError) as error:
        log.warning("the scores of %s %s are not added to the record: %s", task, split, error)


def _add_scores(
    directory: RunDirectory, task: str, split: str, score: Score, best_step: int
) -> None:
    record = read_record(directory)
    if record is None:
        return
    if record.best_step not in (None, best_step):
        raise CheckpointError(
            f"they are of the best checkpoint of step {best_step}, and training has found a "
            f"better one at step {record.best_step}. Evaluate again."
        )
    record.scores.setdefault(task, {})[split] = dict(score.metrics)
    record.protocol[task] = score.protocol
    _write(directory, record)


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
        of_training = before.recipe.get("data", {}).get("validation_split", {})
        dropped = [f"{task} {split}" for task, split in added if of_training.get(task) != split]
        if dropped:
            log.warning(
                "the scores of %s were of the best checkpoint of step %s and are dropped: training "
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


def _write(directory: RunDirectory, record: RunRecord) -> None:
    write_json(directory.record_file, json.loads(record.model_dump_json()))
