"""The table of `glue.py`: scores and costs of methods, as JSON and as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

__all__ = ["AVERAGE", "Cell", "Trial", "markdown", "table_document"]

MIB = 2**20
AVERAGE = "average"
MEAN = "mean"


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of the benchmark.

    Args:
        task: Name of the task.
        method: Method with its options, such as `lst:rungs=linear`.
        rate: Learning rate.
        seed: Seed of the run.
    """

    task: str
    method: str
    rate: float
    seed: int

    def is_of(self, task: str, method: str) -> bool:
        """Return whether the run is one of a method on a task."""
        return (self.task, self.method) == (task, method)

    def __str__(self) -> str:
        return f"{self.task} {self.method} lr {self.rate:.1g} seed {self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The result of one run.

    Args:
        trial: The run.
        steps: Number of training steps.
        best_step: Step of the checkpoint that is scored.
        validation: Metrics on the validation half.
        test: Metrics on the test half; `None` if the run was only one of the search.
        trainable_percent: Trainable parameters in percent of all.
    """

    trial: Trial
    steps: int
    best_step: int
    validation: Mapping[str, Any]
    test: Mapping[str, Any] | None
    trainable_percent: float


def table_document(
    cells: Sequence[Cell],
    methods: Sequence[str],
    floor: Mapping[str, Mapping[str, Any]],
    costs: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the table with everything that it was made from.

    Args:
        cells: Results of all runs.
        methods: Methods in the order of the rows.
        floor: Test metrics of the most frequent answer, by task.
        costs: Measured costs, by method.
    """
    return {
        "floor": dict(floor),
        "methods": {
            method: {
                "tasks": {task: entry for task in floor if (entry := _entry(cells, method, task))},
                "costs": costs.get(method),
            }
            for method in methods
        },
    }


def _entry(cells: Iterable[Cell], method: str, task: str) -> dict[str, Any] | None:
    """Return what is known of a method on a task; `None` before it was scored."""
    own = [cell for cell in cells if cell.trial.is_of(task, method)]
    scored = sorted((cell for cell in own if cell.test), key=lambda cell: cell.trial.seed)
    if not scored:
        return None
    first = scored[0]
    return {
        "rate": first.trial.rate,
        "steps": first.steps,
        "search": {
            f"{cell.trial.rate:.1e}": cell.validation[AVERAGE]
            for cell in own
            if cell.trial.seed == first.trial.seed
        },
        "seeds": [cell.trial.seed for cell in scored],
        "best_steps": [cell.best_step for cell in scored],
        "validation": [cell.validation[AVERAGE] for cell in scored],
        "test": [cell.test[AVERAGE] for cell in scored if cell.test],
        "test_metrics": [cell.test for cell in scored],
        "trainable_percent": first.trainable_percent,
    }


def markdown(document: Mapping[str, Any], *, reference: str) -> str:
    """Return the table as Markdown.

    Args:
        document: What `table_document` returns.
        reference: Method whose seconds per step are 1.
    """
    tasks, methods = list(document["floor"]), document["methods"]
    heads = ["method", *tasks, MEAN, "trainable %", "saved MiB", f"step / {reference}"]
    lines = [" | ".join(heads), " | ".join(["---", *["---:"] * (len(heads) - 1)])]
    floor = [float(document["floor"][task][AVERAGE]) for task in tasks]
    cells = [f"{value:.1f}" for value in (*floor, fmean(floor))]
    lines.append(" | ".join(["most frequent answer", *cells, "", "", ""]))
    base = (methods.get(reference) or {}).get("costs") or {}
    entries = [entry for row in methods.values() for entry in row["tasks"].values()]
    most = max((len(entry["test"]) for entry in entries), default=0)
    for method, row in methods.items():
        scores = {task: row["tasks"][task]["test"] for task in tasks if task in row["tasks"]}
        cells = [_spread(scores.get(task, []), most) for task in tasks]
        cells.append(_spread(_means(scores, tasks), most))
        shares = [entry["trainable_percent"] for entry in row["tasks"].values()]
        cells += [f"{shares[0]:.2f}" if shares else "", *_cost_cells(row["costs"] or {}, base)]
        lines.append(" | ".join([f"`{method}`", *cells]))
    return "".join(f"| {line} |\n" for line in lines)


def _means(scores: Mapping[str, Sequence[float]], tasks: Sequence[str]) -> list[float]:
    """Return the mean over tasks of each seed that has all of them."""
    if any(task not in scores for task in tasks):
        return []
    return [fmean(values) for values in zip(*scores.values(), strict=False)]


def _spread(values: Sequence[float], most: int) -> str:
    """Return mean and deviation, with the number of seeds if others have more."""
    if not values:
        return ""
    deviation = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    count = f" (n={len(values)})" if len(values) < most else ""
    return f"{fmean(values):.1f}{deviation}{count}"


def _cost_cells(costs: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    if not costs:
        return ["", ""]
    ratio = f"{costs['seconds'] / base['seconds']:.2f}" if base.get("seconds") else ""
    return [f"{costs['saved_bytes'] / MIB:.1f}", ratio]
