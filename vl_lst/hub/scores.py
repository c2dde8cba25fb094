"""Scores of a run in the Hub's formats: `model-index` of the model card, and `.eval_results`.

Only scores on official data name a dataset of the Hub, so that no score on a user's own examples or
on the demo's is taken for one on the benchmark. Data count as official if the run was trained on
the task's official files and their number of examples is the published one.
"""

from dataclasses import dataclass
from typing import Any

import yaml

from tasks import Task, get_task
from tasks._task import HubDataset
from vl_lst.hub.files import PortableRun

__all__ = ["PublishedScore", "model_index", "published_scores", "result_files"]


@dataclass(frozen=True, slots=True)
class PublishedScore:
    """The primary metric of a split.

    Args:
        task: Task of the split.
        split: Name of the split.
        percent: The metric in percent; CIDEr times 100.
        protocol: Name of the official scoring rules; `None` if unknown.
        is_selection: Whether the split selected the checkpoint, which flatters the score.
        dataset: Dataset of the Hub; `None` if the examples are not the official ones.
    """

    task: Task
    split: str
    percent: float
    protocol: str | None
    is_selection: bool
    dataset: HubDataset | None


def published_scores(run: PortableRun) -> list[PublishedScore]:
    """Return the scores of a run's record, in the order of its tasks."""
    scores = []
    for name, splits in run.record.scores.items():
        task = get_task(name)
        for split, metrics in splits.items():
            value = metrics.get(task.primary_metric)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            scores.append(
                PublishedScore(
                    task=task,
                    split=split,
                    percent=round(task.metric.percent(value), 4),
                    protocol=run.record.protocol.get(name),
                    is_selection=split == run.record.validation_split(name),
                    dataset=task.hub_dataset if _is_official(run, task, split) else None,
                )
            )
    return scores


def _is_official(run: PortableRun, task: Task, split: str) -> bool:
    data, card = run.recipe["data"], run.card.tasks.get(task.name)
    if card is None or split not in task.splits or data["train_file"].get(task.name) is not None:
        return False
    size = task.sizes.get(data["train_split"][task.name])
    return size is not None and size.examples == card.train_examples


def model_index(repository: str, scores: list[PublishedScore]) -> list[dict[str, Any]]:
    """Return the `model-index` of a model card, in the Hub's format."""
    results = [
        {
            "task": {"type": score.task.hub_task, "name": score.task.name},
            "dataset": {
                "type": score.dataset.id if score.dataset else "custom",
                "name": score.dataset.title if score.dataset else f"{score.task.name}, own data",
                **(
                    {"config": score.dataset.config}
                    if score.dataset and score.dataset.config
                    else {}
                ),
                "split": score.split,
            },
            "metrics": [
                {
                    "type": score.task.primary_metric,
                    "value": score.percent,
                    "name": f"{score.task.primary_metric}, percent",
                }
            ],
        }
        for score in scores
    ]
    return [{"name": repository.partition("/")[2], "results": results}]


def result_files(run: PortableRun) -> dict[str, bytes]:
    """Return the files `.eval_results/TASK.yaml` of tasks with scores on official data."""
    entries: dict[str, list[dict[str, Any]]] = {}
    for score in published_scores(run):
        if score.dataset is None:
            continue
        notes = f"split {score.split}; {score.task.primary_metric} in percent; {score.protocol}"
        if score.is_selection:
            notes += "; the split selected the checkpoint"
        dataset = {"id": score.dataset.id, "task_id": score.dataset.config or "default"}
        entry = {"dataset": dataset, "value": score.percent, "notes": notes}
        entries.setdefault(score.task.name, []).append(entry)
    return {
        f".eval_results/{task}.yaml": yaml.safe_dump(listed, sort_keys=False).encode()
        for task, listed in entries.items()
    }
