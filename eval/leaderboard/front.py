"""The Pareto front: what no other method beats in score and cost at once."""

from collections.abc import Sequence

__all__ = ["pareto_front"]


def pareto_front(points: Sequence[tuple[float, float] | None]) -> list[int]:
    """Places of the (cost, score) points that no other beats, cheapest first.

    A point is beaten by one that costs no more and scores no less, and differs from it.
    """
    known = [(place, point) for place, point in enumerate(points) if point is not None]
    front = [
        (point, place)
        for place, point in known
        if not any(
            other != point and other[0] <= point[0] and other[1] >= point[1] for _, other in known
        )
    ]
    return [place for _, place in sorted(front)]
