"""What a session of training knows of its run, as the record of the run."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping

from vl_lst.devices import device_name
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel
from vl_lst.runs.directory import ModelCard
from vl_lst.runs.git import GitState
from vl_lst.runs.record import Memory, Parameters, RunRecord, Status
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

# Variables that make libraries compute less precisely than a recipe's "fp32" says.
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
    """Describe a run as far as it has come.

    Args:
        recipe: Settings.
        status: How it ended.
        git: The code's checkout.
        num_processes: Processes that train it.
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
        num_processes=num_processes,
        git=git,
        environment=numeric_environment(os.environ),
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
        record.device = device_name(built.model.device)
    if built is not None and trainer is not None:
        counters = trainer.counters
        record.protocol |= counters.protocols
        record.scores = {
            task: {recipe.data.validation_split[task]: metrics}
            for task, metrics in counters.best_metrics.items()
        }
        if counters.best is not None:
            record.best_step, record.mean_score = counters.best.step, counters.best.score
        current = git and git.model_copy(update={"changed_during_run": False})
        record.earlier_git = [state for state in counters.checkouts if state != current]
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


def numeric_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that change the precision libraries compute with, and their values."""
    return {name: environment[name] for name in NUMERIC_VARIABLES if environment.get(name)}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
