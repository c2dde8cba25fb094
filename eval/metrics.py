"""The primary metric of a task, and the scale it is reported on."""

from dataclasses import dataclass

__all__ = ["Metric"]


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
