"""The record of a run, from the current state of its training session."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping

from eval.run_files import GitState, Memory, ModelCard, Parameters, RunRecord, Status
from vl_lst.devices import device_name
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel
from vl_lst.runs.model_card import feature_spec_of
from vl_lst.training.trainer import Trainer

__all__ = ["describe_run", "numeric_environment"]

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

# Environment variables with which libraries compute less precisely than fp32.
NUMERIC_VARIABLES = (
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
)


def describe_run(
    recipe: Recipe,
    status: Status,
    *,
    git: GitState | None,
    num_processes: int,
    error: str | None = None,
    card: ModelCard | None = None,
    built: BuiltModel | None = None,
    trainer: Trainer | None = None,
    answer_coverage: Mapping[str, float] | None = None,
) -> RunRecord:
    """Return the record of a run, with `None` for what is not known yet.

    Args:
        recipe: Recipe of the run.
        status: How the session ended.
        git: Git checkout of the code.
        num_processes: Number of processes that train together.
        error: Error message of a session that failed.
        card: Model card, once known.
        built: Model, once built.
        trainer: Trainer, once created.
        answer_coverage: Answer coverage of each task with an answer list, once known.
    """
    spec = feature_spec_of(card) if card else None
    record = RunRecord(
        schema_version=1,
        status=status,
        error=error,
        method=recipe.method.name,
        tasks=list(recipe.tasks),
        protocol=dict.fromkeys(recipe.tasks),
        scores={},
        answer_coverage=dict(answer_coverage or {}),
        seed=recipe.training.seed,
        feature_spec_sha256=spec.digest if spec else None,
        states_sha256=card.states_sha256 if card else None,
        states_dtype=card.states_dtype if card else None,
        backbone=recipe.backbone.name,
        backbone_fingerprint=card.backbone_fingerprint if card else None,
        backbone_fingerprint_bf16=card.backbone_fingerprint_bf16 if card else None,
        num_processes=num_processes,
        git=git,
        environment=numeric_environment(os.environ),
        packages={name: _version(name) for name in PACKAGES},
        python=platform.python_version(),
        recipe=recipe.model_dump(mode="json"),
    )
    if built is None:
        return record
    trainable, total = built.trainable_count(), built.parameter_count()
    parameters = Parameters(
        trainable=trainable, total=total, percent_of_total=100 * trainable / total
    )
    record = record.model_copy(
        update={
            "parameters": parameters,
            "device": device_name(built.model.device),
            "checkpoint_bytes": built.checkpoint_bytes(),
        }
    )
    return record if trainer is None else _with_results(record, recipe, built, trainer)


def _with_results(
    record: RunRecord, recipe: Recipe, built: BuiltModel, trainer: Trainer
) -> RunRecord:
    """Return the record with what training has measured so far."""
    counters, stopwatch = trainer.counters, trainer.stopwatch
    current = record.git and record.git.model_copy(update={"changed_during_run": False})
    saved_for_backward = max(
        counters.saved_for_backward.values(), key=lambda parts: parts["total"], default=None
    )
    memory = Memory(
        parameters=built.parameter_bytes(),
        gradients=sum(parameter.nbytes for parameter in built.trainable.values()),
        optimizer_state=trainer.optimizer_bytes() or None,
        saved_for_backward=saved_for_backward,
        peak_allocated=trainer.peak_memory.allocated,
        peak_reserved=trainer.peak_memory.reserved,
    )
    return record.model_copy(
        update={
            "protocol": record.protocol | counters.protocols,
            "scores": {
                task: {recipe.data.validation_split[task]: metrics}
                for task, metrics in counters.best_metrics.items()
            },
            "mean_score": counters.best and counters.best.score,
            "best_step": counters.best and counters.best.step,
            "best_step_of_task": {n: best.step for n, best in counters.best_of_task.items()},
            "steps": counters.step,
            "total_steps": trainer.schedule.total_steps,
            "memory_bytes": memory,
            "recomputes": counters.recomputes,
            "examples_per_second": stopwatch.examples_per_second if stopwatch.examples else None,
            "inference": counters.inference,
            "train_seconds": stopwatch.seconds if stopwatch.examples else None,
            "earlier_git": [state for state in counters.checkouts if state != current],
        }
    )


def numeric_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that change numerical precision, with their values."""
    return {name: environment[name] for name in NUMERIC_VARIABLES if environment.get(name)}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
