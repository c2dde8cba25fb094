"""Samples from the per-example scores that runs keep."""

from collections.abc import Mapping

from eval.metrics import Metric
from eval.run_files import ExampleScores
from eval.statistics.samples import Sample, sample_of

__all__ = ["kept_sample"]


def kept_sample(kept: ExampleScores, metric: Metric, recorded: float) -> Sample | None:
    """Return the sample of a score in percent.

    Args:
        kept: Per-example scores of the run.
        metric: Primary metric of the task.
        recorded: The score in the run's record, on the official scale.

    Returns:
        The sample; `None` if the clusters were not kept, as by older versions, or if the record has
        another score, as after an evaluation of another checkpoint.
    """
    if kept.clusters is None or kept.value != recorded:
        return None
    values: Mapping[str, float] = kept.scores if kept.averaged is None else kept.averaged
    return sample_of(
        metric.percent(recorded),
        {id_: metric.percent(value) for id_, value in values.items()},
        kept.clusters,
    )
