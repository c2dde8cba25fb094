"""The best checkpoint of a run, its scores and its predictions."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vl_lst.data.task_data import TaskData
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel
from vl_lst.runs.checkpoint import MODEL, Checkpoint, save_checkpoint
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.metrics import MetricsLog
from vl_lst.runs.predictions import write_example_scores
from vl_lst.runs.state import Best, Counters
from vl_lst.training.validation import ValidationResult, mean_percent, percent

__all__ = ["BestCheckpoints"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BestCheckpoints:
    """Best checkpoint so far and, if several tasks train, the best one per task.

    Only the first process uses it.

    Args:
        recipe: Settings of the run.
        data: Data of each task, by name.
        built: The model.
        directory: Run directory to write to.
        counters: Counters that hold the best scores, so that checkpoints include them.
        on_best: Function to call after a new best checkpoint.
    """

    recipe: Recipe
    data: Mapping[str, TaskData]
    built: BuiltModel
    directory: RunDirectory
    counters: Counters
    on_best: Callable[[], None]

    def update(self, results: Mapping[str, ValidationResult], metrics: MetricsLog) -> None:
        """Write the scores of a validation, and the checkpoints that it makes the best.

        Args:
            results: Scores and predictions of each task.
            metrics: Open metrics file.
        """
        counters = self.counters
        for name, result in results.items():
            self._write_scores(name, result, metrics)
            if result.inference is not None:
                counters.inference[name] = result.inference
            score = percent(self.data[name].examples.task, result.score)
            latest = Best(score=score, step=counters.step)
            if len(results) > 1 and _is_better(latest, counters.best_of_task.get(name)):
                counters.best_of_task[name] = latest
                self._save(f"best-{name}", {name: result})
        latest = Best(score=mean_percent(self.data, results), step=counters.step)
        if len(results) > 1:
            metrics.write(counters.step, {"mean_percent": latest.score})
        if _is_better(latest, counters.best):
            counters.best = latest
            counters.best_metrics = {
                name: dict(result.score.metrics) for name, result in results.items()
            }
            counters.protocols = {name: each.score.protocol for name, each in results.items()}
            self._save("best", results)
            self._save_predictions(results)
            self.on_best()

    def _write_scores(self, name: str, result: ValidationResult, metrics: MetricsLog) -> None:
        step, values = self.counters.step, result.score.metrics
        split = self.recipe.data.validation_split[name]
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        metrics.write(step, {"task": name, "split": split, **numbers})
        metric = self.data[name].examples.task.primary_metric
        log.info("step %d: %s %s %s %.4g", step, name, split, metric, values[metric])

    def _save(self, name: str, results: Mapping[str, ValidationResult]) -> None:
        metrics = {task: dict(result.score.metrics) for task, result in results.items()}
        state = {"step": self.counters.step, "metrics": metrics}
        save_checkpoint(
            self.directory.checkpoint(name), Checkpoint({MODEL: self.built.stored}, state)
        )

    def _save_predictions(self, results: Mapping[str, ValidationResult]) -> None:
        for name, result in results.items():
            examples = self.data[name].examples
            task = examples.task
            path = self.directory.predictions_file(task, self.recipe.data.validation_split[name])
            path.parent.mkdir(exist_ok=True)
            task.write_predictions(result.predictions, path)
            write_example_scores(path, task, result.score, examples.validation)


def _is_better(latest: Best, best: Best | None) -> bool:
    return best is None or latest.score > best.score
