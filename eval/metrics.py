"""The primary metric of a task, and the scale it is reported on."""

from dataclasses import dataclass

__all__ = ["MIN_PERCENT_IF_RIGHT", "Metric"]

# An answer counts as right if it earns at least this share of the maximum score, in percent.
MIN_PERCENT_IF_RIGHT = 50.0


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric on the scale of its official script.

    Args:
        name: Key of the metric among a task's scores ("accuracy").
        factor: Converts a score to percent: 1 if it is a percentage, 100 if it is a fraction.
            CIDEr counts as a fraction, although it can exceed 1.
    """

    name: str
    factor: float

    @property
    def scale(self) -> float:
        """The score that corresponds to 100 percent."""
        return 100.0 / self.factor

    def percent(self, score: float) -> float:
        """Convert a score to percent."""
        return score * self.factor
