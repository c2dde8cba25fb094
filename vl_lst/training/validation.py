"""Validation: all processes predict, and the first scores by the official rules."""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from statistics import fmean

from accelerate import Accelerator
from accelerate.utils import gather_object

from eval.run_files import Inference
from tasks import Score, Task
from vl_lst.backbones.stored import StoredBackbone
from vl_lst.data.batches import load_in_order
from vl_lst.data.order import evaluation_batches
from vl_lst.data.task_data import TaskData
from vl_lst.errors import EXPLAINED_ERRORS, Preempted, TrainingError
from vl_lst.generation.answering import Answerer
from vl_lst.generation.measuring import answer_measured
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel
from vl_lst.recipes.loaded_backbone import backbone_in_memory
from vl_lst.training.failures import fail_together
from vl_lst.training.preemption import StopRequest

__all__ = ["ValidationResult", "Validator", "mean_percent", "percent"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """Result of one task's validation split.

    Args:
        score: Score by the official rules.
        predictions: Answers by example id.
        inference: What answering cost in the first process; `None` if states in a file stood for a
            part of the model.
    """

    score: Score
    predictions: dict[str, str]
    inference: Inference | None = None


@dataclass(frozen=True, slots=True)
class Validator:
    """Prediction and scoring of each task's validation split.

    Args:
        recipe: Settings of the run.
        built: The model.
        data: Data of each task, by name.
        answerer: Answerer of the model.
        accelerator: The processes that share the examples.
        stop: Request to stop, which also ends a validation.
    """

    recipe: Recipe
    built: BuiltModel
    data: Mapping[str, TaskData]
    answerer: Answerer
    accelerator: Accelerator
    stop: StopRequest

    def validate(self, report: Callable[[str], None]) -> dict[str, ValidationResult]:
        """Return the predictions and score of each task; an empty dict except in the first process.

        Args:
            report: Callback for progress notes.

        Raises:
            TrainingError: A primary metric cannot be computed.
            Preempted: A signal has asked to stop.
        """
        results = {}
        for name, data in self.data.items():
            generates = self.recipe.head[name] == "generate"
            with self._backbone(name) if generates else nullcontext():
                answers, inference = self._answers(name, data, report)
            try:
                with fail_together(self.accelerator):
                    if self.accelerator.is_main_process:
                        split = self.recipe.data.validation_split[name]
                        task = data.examples.task
                        score = task.score(answers, self.recipe.data.folder, split)
                        _require_primary(task, split, score)
                        results[name] = ValidationResult(score, answers, inference)
            except EXPLAINED_ERRORS:
                self.stop.raise_if_agreed()
                raise
            # A signal to all processes of a job also ends those that compute metrics, so that
            # scores may be missing.
            self.stop.raise_if_agreed()
        return results

    def _backbone(self, task: str) -> AbstractContextManager[None]:
        return backbone_in_memory(
            self.recipe, self.built, f"it generates the answers of {task} for validation"
        )

    def _answers(
        self, name: str, data: TaskData, report: Callable[[str], None]
    ) -> tuple[dict[str, str], Inference | None]:
        num_processes = self.accelerator.num_processes
        split = self.recipe.data.validation_split[name]
        examples = data.examples.validation
        total = len(examples)
        order = evaluation_batches(
            [example.prompt for example in examples],
            self.recipe.training.evaluation_batch_size,
            rank=self.accelerator.process_index,
            num_processes=num_processes,
        )
        batches = load_in_order(
            data.validation,
            order,
            workers=self.recipe.training.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        has_states = isinstance(self.built.model.backbone, StoredBackbone)

        def on_batch(done: int) -> None:
            if self.stop.is_received:
                raise Preempted
            report(f"evaluating {name} {split}: {min(done * num_processes, total):,}/{total:,}")

        measured = None
        # The other processes, which may not have received the signal, wait in the next line.
        with suppress(Preempted):
            measured = answer_measured(
                self.answerer, self.built, batches, self.accelerator.device, on_batch
            )
        self.stop.raise_if_agreed()
        assert measured is not None, "it is missing only if processes agreed to stop"
        # By id, so that each example counts once.
        gathered = dict(gather_object(list(measured.answers.items())))
        inference = measured.describe(
            self.recipe, split, self.accelerator.device, num_processes=num_processes
        )
        answers = {key: gathered[key] for key in examples.ids()}
        return answers, None if has_states else inference


def percent(task: Task, score: Score) -> float:
    """Return a task's primary metric in percent."""
    value = score.metrics[task.primary_metric]
    assert isinstance(value, int | float), "the validator requires it"
    return task.metric.percent(value)


def mean_percent(data: Mapping[str, TaskData], results: Mapping[str, ValidationResult]) -> float:
    """Return the mean primary metric in percent, which the best checkpoint maximises."""
    return fmean(
        percent(data[name].examples.task, result.score) for name, result in results.items()
    )


def _require_primary(task: Task, split: str, score: Score) -> None:
    value = score.metrics[task.primary_metric]
    if not isinstance(value, int | float):
        reason = score.reasons.get(task.primary_metric, "choose a split with labels")
        raise TrainingError(
            f"cannot validate {task.name} on {split}: {task.primary_metric} is {value!r}: {reason}"
        )
