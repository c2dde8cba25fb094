"""Tables and the JSON report of `vl-lst data check`."""

from collections.abc import Sequence
from pathlib import Path

from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from eval.text import format_bytes
from tasks import Task
from tasks._data_check import FileState, SplitState
from vl_lst.cli._console import results

__all__ = ["check_document", "file_table", "print_table", "split_table"]

# Wider than any table of these commands.
UNLIMITED_WIDTH = 1000


def print_table(table: Table) -> None:
    """Print a table, without wrapping its lines outside a terminal."""
    if not results.is_terminal:
        # Outside a terminal lines are not wrapped, so that addresses can be searched for.
        options = results.options.update_width(UNLIMITED_WIDTH)
        table.width = Measurement.get(results, options, table).maximum
    results.print(table)


def file_table(task: Task, data_root: Path, states: Sequence[FileState]) -> Table:
    """Return a table of the state of each data file."""
    table = Table(title=f"files of {task.name} below {data_root}")
    for name in ("file", "state", "size", "needed by", "official address"):
        table.add_column(name, justify="right" if name == "size" else "left", overflow="fold")
    for state in states:
        file = state.file
        if state.found is None:
            found = Text("absent") if file.optional else Text("missing", "red")
        else:
            exact = state.found == data_root / file.path
            found = Text("found" if exact else f"{state.found.relative_to(data_root)} instead")
        needed = f"optional: {file.optional}" if file.optional else ", ".join(file.splits)
        size = "" if state.size is None else format_bytes(state.size)
        table.add_row(Text(file.path), found, size, Text(needed), Text(file.address))
    return table


def split_table(states: Sequence[SplitState], *, has_images: bool) -> Table:
    """Return a table of the sizes of splits.

    Args:
        states: The splits.
        has_images: Whether examples have images, which then have columns too.
    """
    table = Table(title="splits")
    names = ["split", "examples", "published"]
    names += ["images", "published", "images missing"] if has_images else []
    for name in names:
        table.add_column(name, justify="left" if name == "split" else "right")
    for state in states:
        published = state.published
        cells = [state.examples, published and published.examples]
        if has_images:
            missing = None if state.missing_images is None else len(state.missing_images)
            cells += [state.images, published and published.images, missing]
        table.add_row(Text(state.split), *map(_number, cells))
    return table


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def check_document(
    task: Task,
    data_root: Path,
    files: Sequence[FileState],
    splits: Sequence[SplitState],
) -> dict[str, object]:
    """Return the JSON report of `vl-lst data check`."""
    return {
        "task": task.name,
        "data_root": str(data_root),
        "complete": not any(state.problem for state in splits),
        "files": [
            {
                "path": state.file.path,
                "found": None if state.found is None else str(state.found),
                "bytes": state.size,
                "splits": list(state.file.splits),
                "optional": state.file.optional,
                "address": state.file.address,
            }
            for state in files
        ],
        "splits": [
            {
                "split": state.split,
                "examples": state.examples,
                "published_examples": state.published and state.published.examples,
                "images": state.images,
                "published_images": state.published and state.published.images,
                "missing_images": state.missing_images,
                "problem": state.problem,
            }
            for state in splits
        ],
    }
