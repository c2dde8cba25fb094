"""Runs of `glue.py`: their recipes and folders, training and scoring."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _glue_table import Cell, Trial
from _run_pool import stop_if_orphaned

from eval.recipe_fields import get_field
from eval.run_files import RunRecord
from tasks import get_task
from vl_lst.choices import AUTO
from vl_lst.methods import get_method
from vl_lst.recipes import (
    Recipe,
    default_recipe,
    parse_override,
    read_recipe_file,
    resolve_recipe,
)
from vl_lst.run import load_run
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record
from vl_lst.training.session import train

__all__ = ["TEST", "TRAIN", "Settings", "base_recipe", "parse_method", "run"]

TRAIN, VALIDATION, TEST = "paper_train", "paper_validation", "paper_test"


@dataclass(frozen=True, slots=True)
class Settings:
    """What all runs share.

    Args:
        backbone: Folder of the backbone.
        data_root: Folder with the folder `glue` of the official files.
        out: Folder of the benchmark.
        lengths: Field and value of each task's length, such as ("training.steps", 200).
        batch_size: Examples per step.
        precision: Precision of the computation; the backbone's weights are kept in float32.
    """

    backbone: str
    data_root: Path
    out: Path
    lengths: dict[str, tuple[str, int]]
    batch_size: int
    precision: str

    def recipe(self, trial: Trial) -> Recipe:
        """Return the recipe of a run."""
        name, options = parse_method(trial.method)
        changes: dict[str, Any] = {
            "task": trial.task,
            "data.root": str(self.data_root),
            "data.train_split": TRAIN,
            "data.validation_split": VALIDATION,
            "head": head_of(trial.task),
            "backbone.name": self.backbone,
            "training.batch_size": self.batch_size,
            "training.evaluation_batch_size": 2 * self.batch_size,
            "training.workers": 0,
            "training.checkpoint_every_steps": None,
            "training.precision": self.precision,
            "training.device": "cpu",
            "training.seed": trial.seed,
            "optimizer.lr": trial.rate,
        }
        if "recompute" in get_method(name).options.model_fields:
            # The same numbers in less time. Costs are measured with the recipe's own setting.
            changes["method.options.recompute"] = False
        base = base_recipe(name)
        if get_field(base, ("backbone", "precision")) == AUTO:
            # The frozen weights of every run are those of the runs in float32.
            changes["backbone.precision"] = "fp32"
        changes |= {f"method.options.{option}": value for option, value in options.items()}
        return resolve_recipe(base, {**changes, **dict([self.lengths[trial.task]])})

    def folder(self, trial: Trial) -> Path:
        """Return the folder of a run."""
        name = trial.method.replace(":", "+")
        return self.out / "runs" / trial.task / name / f"{trial.rate:.1e}" / f"seed-{trial.seed}"

    def finished(self, trial: Trial) -> RunRecord | None:
        """Return the record of a run that is finished; `None` if it is not."""
        directory = RunDirectory(self.folder(trial))
        record = read_record(directory) if directory.record_file.exists() else None
        if record is None or record.status != "success":
            return None
        return record if directory.recipe() == self.recipe(trial) else None


def head_of(task: str) -> str:
    """Return the head of a task that does not generate text."""
    return next(head for head in get_task(task).heads if head != "generate")


def base_recipe(name: str) -> dict[str, Any]:
    """Return the recipe that `vl-lst train` uses for a method."""
    return read_recipe_file(default_recipe(name, None))


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
    """Split `lst:rungs=linear,gate_start=0.5` into a method and its options."""
    name, _, options = text.partition(":")
    return name, dict(parse_override(option) for option in options.split(",") if option)


def run(settings: Settings, trial: Trial, *, is_scored: bool) -> Cell:
    """Train a run, unless it is finished, and score it on the test half if wanted."""
    torch.set_num_threads(1)
    folder = settings.folder(trial)
    record = settings.finished(trial)
    if record is None:
        record = train(settings.recipe(trial), folder, resume=True, report=stop_if_orphaned)
    if is_scored and TEST not in record.scores[trial.task]:
        load_run(folder).evaluate(TEST, report=stop_if_orphaned)
        record = settings.finished(trial)
        assert record is not None
    return _cell(record, trial, is_scored=is_scored)


def _cell(record: RunRecord, trial: Trial, *, is_scored: bool) -> Cell:
    scores = record.scores[trial.task]
    assert record.parameters is not None
    return Cell(
        trial=trial,
        steps=record.total_steps or 0,
        best_step=record.best_step or 0,
        validation=scores[VALIDATION],
        # A run of the search may have been scored when other rates were tried.
        test=scores[TEST] if is_scored else None,
        trainable_percent=record.parameters.percent_of_total,
    )
