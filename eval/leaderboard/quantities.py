"""What is compared: scores, and what they cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from eval.leaderboard.runs import Record

__all__ = ["AVERAGE", "COSTS", "MEMORY", "Cost", "Statistic"]

# The mean of the tasks' scores, which stands beside them.
AVERAGE = "average"
# What scores are set against first.
MEMORY = "saved_for_backward"


@dataclass(frozen=True, slots=True)
class Statistic:
    """A quantity over the seeds of a row.

    Args:
        mean: Arithmetic mean.
        deviation: Sample standard deviation (n - 1); `None` of a single run.
    """

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Statistic":
        """Summarise one value a seed."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True, slots=True)
class Cost:
    """Something a method costs or does, one column of the table.

    Args:
        key: How machines call it.
        label: How people call it.
        unit: `percent`, `bytes`, `seconds` or `rate`.
        of: Reads it from a record; `None` where it was not measured.
        is_axis: Whether scores are plotted against it; less of it is better.
        on_device: Whether it depends on the device it was measured on, and on the number of
            processes.
        by_process: Whether it depends on the number of processes that share a batch.
    """

    key: str
    label: str
    unit: str
    of: Callable[[Record], float | None]
    is_axis: bool = False
    on_device: bool = False
    by_process: bool = False


def _saved(record: Record) -> float | None:
    memory = record.memory_bytes
    parts = memory.saved_for_backward if memory else None
    return parts.get("total") if parts else None


COSTS = (
    Cost(
        "trainable_percent",
        "Trainable",
        "percent",
        lambda record: record.parameters.percent_of_total if record.parameters else None,
        is_axis=True,
    ),
    Cost(MEMORY, "Saved bytes", "bytes", _saved, is_axis=True, by_process=True),
    Cost(
        "peak_allocated",
        "CUDA peak",
        "bytes",
        lambda record: record.memory_bytes.peak_allocated if record.memory_bytes else None,
        is_axis=True,
        on_device=True,
    ),
    Cost(
        "gradients",
        "Gradients",
        "bytes",
        lambda record: record.memory_bytes.gradients if record.memory_bytes else None,
    ),
    Cost(
        "optimizer_state",
        "Optimiser state",
        "bytes",
        lambda record: record.memory_bytes.optimizer_state if record.memory_bytes else None,
    ),
    Cost(
        "examples_per_second",
        "Examples/s",
        "rate",
        lambda record: record.examples_per_second,
        on_device=True,
    ),
    Cost(
        "train_seconds",
        "Time",
        "seconds",
        lambda record: record.train_seconds,
        is_axis=True,
        on_device=True,
    ),
)
