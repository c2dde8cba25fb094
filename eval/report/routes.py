"""Addresses of the views of the page, which follow the `#` in a link.

An element of a view has its address as id, so that links also work without scripts. The script
of the page adds filters as a query, such as `#/run/lst?task=vqa&show=wrong`.
"""

from urllib.parse import quote

__all__ = ["FRONT", "compare_route", "run_route", "table_route"]

FRONT = "/"
# What `encodeURIComponent` leaves as it is, besides what `quote` does.
SAFE = "!*'()"


def table_route(number: int) -> str:
    """Return the address of a table, counted from 1."""
    return f"/table/{number}"


def run_route(name: str) -> str:
    """Return the address of a run.

    Args:
        name: Name of the run.
    """
    return f"/run/{quote(name, safe=SAFE)}"


def compare_route(first: str, second: str) -> str:
    """Return the address of the comparison of two runs.

    Args:
        first: Name of a run.
        second: Name of another run.
    """
    return f"/compare/{quote(first, safe=SAFE)}/{quote(second, safe=SAFE)}"
