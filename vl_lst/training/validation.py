"""Predicting the validation splits, over all processes, and what the official rules say of it."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

from accelerate import Accelerator
from accelerate.utils import gather_object

from tasks import Score, Task
from vl_lst.data.batches import load_in_order
from vl_lst.data.order import in_turn
from vl_lst.data.task_data import TaskData
from vl_lst.errors import TrainingError
from vl_lst.generation.answering import Answerer
from vl_lst.recipes import Recipe
from vl_lst.training.processes import agreed

__all__ = ["Validated", "Validator", "mean_percent", "percent"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Validated:
    """What came of one task's validation split.

    Args:
        score: By the official rules.
        predictions: Answers by example id.
    """

    score: Score
    predictions: dict[str, str]


class Validator:
    """Answers the validation split of each task and scores the answers.

    Args:
        recipe: Settings.
        data: Each task, by name.
        answerer: Holds the model.
        accelerator: The processes that share the work.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Mapping[str, TaskData],
        answerer: Answerer,
        accelerator: Accelerator,
    ) -> None:
        self._recipe = recipe
        self._data = data
        self._answerer = answerer
        self._accelerator = accelerator

    def validate(self, report: Callable[[str], None]) -> dict[str, Validated]:
        """Answers and scores of each task, in the first process; nothing in the others.

        Args:
            report: Told how far it is.

        Raises:
            TrainingError: A primary metric cannot be computed.
        """
        validated = {}
        for name, data in self._data.items():
            answers = self._answers(name, data, report)
            with agreed(self._accelerator):
                if self._accelerator.is_main_process:
                    split = self._recipe.data.validation_split[name]
                    task = data.examples.task
                    score = task.score(answers, self._recipe.data.folder, split)
                    _require_primary(task, split, score)
                    validated[name] = Validated(score, answers)
        return validated

    def _answers(self, name: str, data: TaskData, report: Callable[[str], None]) -> dict[str, str]:
        processes = self._accelerator.num_processes
        split = self._recipe.data.validation_split[name]
        total = len(data.examples.validation)
        order = in_turn(
            total,
            self._recipe.training.evaluation_batch_size,
            process=self._accelerator.process_index,
            processes=processes,
        )
        batches = load_in_order(
            data.validation,
            order,
            workers=self._recipe.training.workers,
            pin_memory=self._accelerator.device.type == "cuda",
        )
        answers = self._answerer.answer_all(
            batches,
            lambda done: report(
                f"evaluating {name} {split}: {min(done * processes, total):,}/{total:,}"
            ),
        )
        # By id, so that an example two processes answered would count once.
        return dict(gather_object(list(answers.items())))


def percent(task: Task, score: Score) -> float:
    """A task's primary metric on a scale that goes with the other tasks'."""
    value = score.metrics[task.primary_metric]
    assert isinstance(value, int | float), "the validator has seen to it"
    return task.metric.percent(value)


def mean_percent(data: Mapping[str, TaskData], validated: Mapping[str, Validated]) -> float:
    """Mean of the tasks' primary metrics in percent, which chooses the best checkpoint."""
    return fmean(
        percent(data[name].examples.task, found.score) for name, found in validated.items()
    )


def _require_primary(task: Task, split: str, score: Score) -> None:
    value = score.metrics[task.primary_metric]
    if not isinstance(value, int | float):
        reason = score.reasons.get(task.primary_metric, "choose a split with labels")
        raise TrainingError(
            f"{task.name} cannot be validated on {split}: {task.primary_metric} is {value!r}: "
            f"{reason}"
        )
