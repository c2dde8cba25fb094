"""Per-example values of a score, summed up by cluster.

Examples of one cluster are not independent, such as the questions about one image. All that
intervals and tests need of a run is what its score would be without each cluster.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_SHARE", "Sample", "average_samples", "sample_of"]

Floats: TypeAlias = NDArray[np.float64]

MAX_SHARE = 100.0


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A score of one run, and what each of C clusters of examples contributes to it.

    Args:
        score: The score in percent.
        examples: Number of examples.
        digest: Digest of the examples' IDs and clusters; samples that share it can be paired.
        clusters: Name of each cluster, in ascending order.
        contributions_C: Contribution of each cluster to the mean over examples, which is their sum.
        deviations_C: The mean minus the mean without each cluster.
        is_proportion: Whether each example's value is between 0 and 100 percent.
    """

    score: float
    examples: int
    digest: str
    clusters: tuple[str, ...]
    contributions_C: Floats
    deviations_C: Floats
    is_proportion: bool


def sample_of(
    score: float, values: Mapping[str, float], clusters: Mapping[str, str]
) -> Sample | None:
    """Return the sample of a score.

    Args:
        score: The score in percent: the mean of `values`, or a metric of which they are the
            jackknife's pseudo-values.
        values: Value of each example in percent, by ID.
        clusters: Name of the cluster of each example, by ID.

    Returns:
        The sample; `None` if there are fewer than two clusters, which leaves the variance unknown,
        a value is not finite, or an example has no cluster.
    """
    if not values or not values.keys() <= clusters.keys():
        return None
    ids = sorted(values)
    values_N = np.array([values[id_] for id_ in ids], np.float64)
    if not math.isfinite(score) or not np.isfinite(values_N).all():
        return None
    of_example = [clusters[id_] for id_ in ids]
    names, index_N = np.unique(np.array(of_example, dtype=object), return_inverse=True)
    if len(names) < 2:
        return None
    digest = hashlib.sha256(json.dumps([ids, of_example]).encode())
    number = len(ids)
    sums_C = np.bincount(index_N, values_N - values_N.mean())
    return Sample(
        score=score,
        examples=number,
        digest=digest.hexdigest(),
        clusters=tuple(names),
        contributions_C=np.bincount(index_N, values_N) / number,
        deviations_C=sums_C / (number - np.bincount(index_N)),
        is_proportion=bool((values_N >= 0).all() and (values_N <= MAX_SHARE).all()),
    )


def average_samples(samples: Sequence[Sample]) -> Sample:
    """Return the sample of the mean of several scores, such as those of several tasks.

    Clusters with the same name in several tasks, such as one image, are one cluster.
    """
    names = sorted({name for sample in samples for name in sample.clusters})
    position = {name: index for index, name in enumerate(names)}
    contributions_C, deviations_C = np.zeros((2, len(names)))
    for sample in samples:
        places = [position[name] for name in sample.clusters]
        contributions_C[places] += sample.contributions_C / len(samples)
        deviations_C[places] += sample.deviations_C / len(samples)
    digest = hashlib.sha256("".join(sample.digest for sample in samples).encode())
    return Sample(
        score=math.fsum(sample.score for sample in samples) / len(samples),
        examples=sum(sample.examples for sample in samples),
        digest=digest.hexdigest(),
        clusters=tuple(names),
        contributions_C=contributions_C,
        deviations_C=deviations_C,
        is_proportion=all(sample.is_proportion for sample in samples),
    )
