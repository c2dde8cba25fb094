"""`record.json`: what came of a run, for people and leaderboards. What is not known is null."""

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from eval.files import MAX_RUN_FILE_BYTES, read_json
from eval.outputs import write_json
from tasks import Score
from vl_lst.errors import CheckpointError
from vl_lst.recipes import Recipe
from vl_lst.training.build import BuiltModel
from vl_lst.training.run_directory import ModelCard, RunDirectory
from vl_lst.training.trainer import Trainer

__all__ = [
    "GitState",
    "Memory",
    "Parameters",
    "RunRecord",
    "Status",
    "add_scores",
    "describe_run",
    "read_record",
    "write_record",
]

Status = Literal["success", "failed", "cancelled"]

PACKAGES = (
    "vl-lst",
    "accelerate",
    "datasets",
    "h5py",
    "numpy",
    "open_clip_torch",
    "peft",
    "pydantic",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GitState(_Part):
    """The checkout the code ran from.

    Args:
        commit: Its hash.
        dirty: Whether tracked files had been changed.
    """

    commit: str
    dirty: bool


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
            and in `total`, parameters excluded, measured on the first batch; of several tasks, the
            one that needs most.
        peak_allocated: Highest allocation during training steps on CUDA, model included, after
            two warm-up steps.
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
        git: The code's checkout; `None` where the package is installed without one.
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
    git: GitState | None
    packages: dict[str, str | None]
    python: str
    device: str | None = None
    recipe: dict[str, Any]


def describe_run(
    recipe: Recipe,
    status: Status,
    *,
    error: str | None = None,
    card: ModelCard | None = None,
    built: BuiltModel | None = None,
    trainer: Trainer | None = None,
    answer_coverage: Mapping[str, float] | None = None,
) -> RunRecord:
    """Describe a run as far as it has come.

    Args:
        recipe: Settings.
        status: How it ended.
        error: The message it ended with.
        card: What the model was built from, once that is known.
        built: The model, once there is one.
        trainer: Once there is one.
        answer_coverage: Of each task with an answer list, once that is known.
    """
    record = RunRecord(
        status=status,
        error=error,
        method=recipe.method.name,
        tasks=list(recipe.tasks),
        protocol=dict.fromkeys(recipe.tasks),
        scores={},
        answer_coverage=dict(answer_coverage or {}),
        seed=recipe.training.seed,
        backbone=recipe.backbone.name,
        git=_git_state(Path(__file__).resolve()),
        packages={name: _version(name) for name in PACKAGES},
        python=platform.python_version(),
        recipe=recipe.model_dump(mode="json"),
    )
    if card is not None:
        record.feature_spec_sha256 = card.spec().digest
        record.backbone_fingerprint = card.backbone_fingerprint
    if built is not None:
        trainable, total = built.trainable_count(), built.parameter_count()
        record.parameters = Parameters(
            trainable=trainable, total=total, percent_of_total=100 * trainable / total
        )
        record.device = _device_name(built.model.device)
    if built is not None and trainer is not None:
        counters = trainer.counters
        record.protocol |= counters.protocols
        record.scores = {
            task: {recipe.data.validation_split[task]: metrics}
            for task, metrics in counters.best_metrics.items()
        }
        if counters.best is not None:
            record.best_step, record.mean_score = counters.best.step, counters.best.score
        record.best_step_of_task = {n: best.step for n, best in counters.best_of_task.items()}
        record.steps = counters.step
        record.total_steps = trainer.schedule.total_steps
        if trainer.stopwatch.examples:
            record.examples_per_second = trainer.stopwatch.examples_per_second
            record.train_seconds = trainer.stopwatch.seconds
        record.memory_bytes = Memory(
            parameters=built.parameter_bytes(),
            gradients=sum(p.nbytes for p in built.trainable.values()),
            optimizer_state=trainer.optimizer_bytes() or None,
            saved_for_backward=max(
                counters.saved_for_backward.values(),
                key=lambda parts: parts["total"],
                default=None,
            ),
            peak_allocated=trainer.peak_memory.allocated,
            peak_reserved=trainer.peak_memory.reserved,
        )
    return record


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


def write_record(directory: RunDirectory, record: RunRecord) -> None:
    """Write the record of a run."""
    write_json(directory.record_file, json.loads(record.model_dump_json()))


def add_scores(directory: RunDirectory, task: str, split: str, score: Score) -> None:
    """Add the scores of another split to the record, if the run has one."""
    record = read_record(directory)
    if record is None:
        return
    record.scores.setdefault(task, {})[split] = dict(score.metrics)
    record.protocol[task] = score.protocol
    write_record(directory, record)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {platform.processor() or platform.machine()}"


def _git_state(source: Path) -> GitState | None:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(source.parent), *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout.strip()

    try:
        # Only if this very file is tracked: an installed package may lie inside some repository.
        git("ls-files", "--error-unmatch", source.name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        return GitState(commit=git("rev-parse", "HEAD"), dirty=bool(changed))
    except (OSError, subprocess.SubprocessError):
        return None
