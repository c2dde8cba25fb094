"""The quantities that the leaderboard compares: scores and costs."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from eval.run_files import Inference, RunRecord

__all__ = ["AVERAGE", "COSTS", "MEMORY", "Cost", "Statistic"]

# Name of the mean score over all tasks.
AVERAGE = "average"
# Key of the cost that scores are initially plotted against.
MEMORY = "saved_for_backward"


@dataclass(frozen=True, slots=True)
class Statistic:
    """A quantity over the seeds of a row.

    Args:
        mean: Arithmetic mean.
        deviation: Sample standard deviation (n - 1); `None` for a single run.
        interval: Interval of the mean at 95 % confidence; `None` if it is unknown.
    """

    mean: float
    deviation: float | None
    interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Statistic":
        """Return the statistic of one value per seed."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True, slots=True)
class Cost:
    """A cost or the speed of a method: one column of the table.

    Args:
        key: Name in CSV and JSON.
        label: Heading of the column.
        unit: `percent`, `bytes`, `seconds`, `rate` or `nats`.
        of: Returns the value from a record; `None` if it was not measured.
        is_axis: Whether scores are plotted against it; if so, lower is better.
        depends_on_device: Whether it depends on the device and the number of processes.
        depends_on_processes: Whether it depends on the number of processes that share a batch.
        of_suite: Returns the cost of a suite from those of its tasks; `None` if it has none.
        measured_under: Returns the conditions of the measurement from a record, by task, which must
            be equal in runs that are compared. Default: the device and the processes of training,
            by the two fields above.
    """

    key: str
    label: str
    unit: str
    of: Callable[[RunRecord], float | None]
    is_axis: bool = False
    depends_on_device: bool = False
    depends_on_processes: bool = False
    # Tasks of a suite are trained one after another, so memory is that of the task that needs most.
    of_suite: Callable[[Sequence[float]], float] | None = max
    measured_under: Callable[[RunRecord], Mapping[str, Hashable]] | None = None


def _saved(record: RunRecord) -> float | None:
    memory = record.memory_bytes
    parts = memory.saved_for_backward if memory else None
    return parts.get("total") if parts else None


def _answers(record: RunRecord) -> list[Inference]:
    """Return what answering each task cost; nothing if a task was not measured."""
    found = [record.inference.get(task) for task in record.tasks]
    known = [each for each in found if each is not None]
    return known if len(known) == len(found) else []


def _inference_peak(record: RunRecord) -> float | None:
    peaks = [each.peak_bytes for each in _answers(record)]
    known = [peak for peak in peaks if peak is not None]
    return max(known) if known and len(known) == len(peaks) else None


def _seconds_per_answer(record: RunRecord) -> float | None:
    seconds = [each.seconds_per_example for each in _answers(record)]
    return fmean(seconds) if seconds else None


def _answering_conditions(record: RunRecord) -> dict[str, Hashable]:
    return {
        task: (each.split, each.batch_size, each.num_processes, each.device)
        for task in record.tasks
        if (each := record.inference.get(task))
    }


def _forgetting_conditions(record: RunRecord) -> dict[str, Hashable]:
    found = record.forgetting
    if found is None:
        return {}
    return {"all": (found.objective, found.text_sha256, found.seed, found.tokens)}


COSTS = (
    Cost(
        "trainable_percent",
        "Trainable",
        "percent",
        lambda record: record.parameters.percent_of_total if record.parameters else None,
        is_axis=True,
    ),
    Cost(MEMORY, "Saved bytes", "bytes", _saved, is_axis=True, depends_on_processes=True),
    Cost(
        "peak_allocated",
        "CUDA peak",
        "bytes",
        lambda record: record.memory_bytes.peak_allocated if record.memory_bytes else None,
        is_axis=True,
        depends_on_device=True,
    ),
    Cost(
        "gradients",
        "Gradients",
        "bytes",
        lambda record: record.memory_bytes.gradients if record.memory_bytes else None,
    ),
    Cost(
        "optimizer_state",
        "Optimizer state",
        "bytes",
        lambda record: record.memory_bytes.optimizer_state if record.memory_bytes else None,
    ),
    Cost(
        "examples_per_second",
        "Examples/s",
        "rate",
        lambda record: record.examples_per_second,
        depends_on_device=True,
        # Examples of different tasks have different lengths.
        of_suite=None,
    ),
    Cost(
        "train_seconds",
        "Time",
        "seconds",
        lambda record: record.train_seconds,
        is_axis=True,
        depends_on_device=True,
        of_suite=sum,
    ),
    Cost(
        "checkpoint_bytes",
        "Checkpoint",
        "bytes",
        lambda record: record.checkpoint_bytes,
        is_axis=True,
        # Each task has a checkpoint of its own.
        of_suite=sum,
    ),
    Cost(
        "inference_peak",
        "Inference peak",
        "bytes",
        _inference_peak,
        is_axis=True,
        depends_on_device=True,
        measured_under=_answering_conditions,
    ),
    Cost(
        "seconds_per_answer",
        "Time/answer",
        "seconds",
        _seconds_per_answer,
        is_axis=True,
        depends_on_device=True,
        of_suite=fmean,
        measured_under=_answering_conditions,
    ),
    Cost(
        "forgetting",
        "Forgetting",
        "nats",
        lambda record: record.forgetting.increase if record.forgetting else None,
        measured_under=_forgetting_conditions,
    ),
)
