"""A score over one or more seeds: its variance and its interval.

A score is a mean over examples that were drawn in clusters, so its standard error is clustered
(Miller, "Adding Error Bars to Evals", arXiv 2411.00640). The variance is estimated from the scores
without each cluster in turn (CV3 of MacKinnon, Nielsen and Webb, "Cluster-Robust Inference: A Guide
to Empirical Practice", Journal of Econometrics 232, 2023). For clusters of equal sizes it is the
usual sandwich estimator with its correction for few clusters; for others that is too small.

With several seeds, examples and seeds are crossed: the score of a seed on a cluster is the sum of a
mean, an effect of the seed, an effect of the cluster, and the rest (two-way random effects; Searle,
Casella and McCulloch, "Variance Components", 1992, chapter 4). The variance between clusters of the
mean over seeds and the variance between seeds both contain the rest, so it is subtracted once.
Degrees of freedom are those of Satterthwaite (Biometrics Bulletin 2, 1946).
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from eval.intervals import CONFIDENCE
from eval.statistics.samples import MAX_SHARE, Floats, Sample
from eval.statistics.student import two_sided_quantile

__all__ = ["Estimate", "Variance", "estimate_score", "interval", "variance_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """The mean of a score over seeds, and what its variance is made of.

    Args:
        score: Mean score in percent.
        seeds: Number of seeds.
        examples: Number of examples.
        digest: Digest of the examples' IDs and clusters.
        contributions_C: Contribution of each cluster, averaged over seeds; see `Sample`.
        deviations_C: Deviation of each cluster, averaged over seeds; see `Sample`.
        between_seeds: Variance of `score` estimated from the scores of the seeds; 0 for one seed.
        rest: Part of `between_seeds` that more examples would reduce.
        is_proportion: Whether each example's value is between 0 and 100 percent.
    """

    score: float
    seeds: int
    examples: int
    digest: str
    contributions_C: Floats
    deviations_C: Floats
    between_seeds: float
    rest: float
    is_proportion: bool


@dataclass(frozen=True, slots=True)
class Variance:
    """Variance of a score or of a difference, in its parts.

    Args:
        examples: Part that shrinks with the number of examples.
        seeds: Part that only more seeds reduce.
        degrees: Degrees of freedom.
    """

    examples: float
    seeds: float
    degrees: float

    @property
    def total(self) -> float:
        """Sum of both parts."""
        return self.examples + self.seeds


def estimate_score(samples: Sequence[Sample]) -> Estimate | None:
    """Average a score over seeds.

    Args:
        samples: The score for each seed; at least one.

    Returns:
        The estimate; `None` if the examples differ.
    """
    first, seeds = samples[0], len(samples)
    if len({sample.digest for sample in samples}) > 1:
        return None
    scores = [sample.score for sample in samples]
    deviations_KC = np.stack([sample.deviations_C for sample in samples])
    deviations_C: Floats = deviations_KC.mean(0)
    between = rest = 0.0
    if seeds > 1:
        between = statistics.variance(scores) / seeds
        rest = _jackknife_variance(deviations_KC - deviations_C) / (seeds * (seeds - 1))
    return Estimate(
        score=math.fsum(scores) / seeds,
        seeds=seeds,
        examples=first.examples,
        digest=first.digest,
        contributions_C=np.mean([sample.contributions_C for sample in samples], axis=0),
        deviations_C=deviations_C,
        between_seeds=between,
        rest=rest,
        is_proportion=all(sample.is_proportion for sample in samples),
    )


def variance_of(deviations_C: Floats, over_seeds: Iterable[Estimate]) -> Variance:
    """Return the variance of a score or of a difference between scores.

    Args:
        deviations_C: Deviation of each cluster.
        over_seeds: The scores that vary with their seeds.
    """
    degrees = deviations_C.size - 1
    examples = _jackknife_variance(deviations_C)
    varying = [each for each in over_seeds if each.between_seeds > 0]
    if not varying:
        return Variance(examples, 0.0, degrees)
    seeds = sum(max(0.0, each.between_seeds - each.rest) for each in varying)
    squares = sum(each.between_seeds**2 / (each.seeds - 1) for each in varying)
    freedom = (examples + seeds) ** 2 / (squares + examples**2 / degrees)
    # The difference of almost equal variances can lack any freedom.
    return Variance(examples, seeds, max(1.0, freedom))


def _jackknife_variance(deviations_KC: Floats) -> float:
    """Return the variance of a score from its deviations, summed over seeds if there are several.

    It uses no matrix product, whose rounding depends on the number of threads.
    """
    clusters: int = deviations_KC.shape[-1]
    return (clusters - 1) / clusters * float(np.square(deviations_KC).sum())


def interval(estimate: Estimate) -> tuple[float, float]:
    """Return the interval of a score at 95 % confidence, in percent.

    With one seed it holds for this trained model on other examples, with several for other seeds
    too. If the examples count between 0 and 100 %, it is Wilson's for as many independent examples
    as the variance corresponds to, which never leaves this range (Franco, Little, Louis and Slud,
    "Comparative Study of Confidence Intervals for Proportions in Complex Sample Surveys", Journal
    of Survey Statistics and Methodology 7, 2019). Otherwise it is that of Student's t.
    """
    variance = variance_of(estimate.deviations_C, [estimate])
    t = two_sided_quantile(CONFIDENCE, variance.degrees)
    if not estimate.is_proportion:
        reach = t * math.sqrt(variance.total)
        return estimate.score - reach, estimate.score + reach
    share = min(1.0, max(0.0, estimate.score / MAX_SHARE))
    spread, total = share * (1 - share), variance.total / MAX_SHARE**2
    # Equal scores of all examples have no variance; each cluster then counts as one example.
    number = spread / total if spread > 0 and total > 0 else estimate.deviations_C.size
    scale = 1 + t * t / number
    middle = (share + t * t / (2 * number)) / scale
    reach = t * math.sqrt(spread / number + t * t / (4 * number * number)) / scale
    # Rounding must not move a bound past the score.
    low, high = MAX_SHARE * (middle - reach), MAX_SHARE * (middle + reach)
    return max(0.0, min(estimate.score, low)), min(MAX_SHARE, max(estimate.score, high))
