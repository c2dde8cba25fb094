"""The Pareto front of scores and costs."""

from collections.abc import Sequence

__all__ = ["pareto_front"]


def pareto_front(points: Sequence[tuple[float, float] | None]) -> list[int]:
    """Return the indices of the (cost, score) points that no other dominates, cheapest first.

    A point dominates another if it costs no more, scores no less, and is not equal to it.
    """
    known = [(index, point) for index, point in enumerate(points) if point is not None]
    front = [
        (point, index)
        for index, point in known
        if not any(
            other != point and other[0] <= point[0] and other[1] >= point[1] for _, other in known
        )
    ]
    return [index for _, index in sorted(front)]
