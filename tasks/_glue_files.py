r"""GLUE's tab-separated files: one example per line, without quoting or escapes.

Quotation marks are part of the text. Only a line feed ends a line; other line separators, such as
U+2028, are part of the text too. A carriage return before each line feed is left out if the first
line has one. The last line may lack its line feed.

An example's ID is its value in the column of IDs if the values of that column differ, else its
position among the examples of the file that are not skipped, beginning with 0, as in the official
test files.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from eval.errors import FileFormatError
from eval.files import open_text
from eval.text import counted

__all__ = ["Columns", "Row", "line_problem", "read_columns", "read_lines", "read_rows"]

log = logging.getLogger(__name__)

# The longest official line, of MNLI with its parses, has a few thousand characters.
MAX_LINE_CHARACTERS = 1 << 20
QUOTING_ADVICE = "The official files have no quoting: get the original file again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of a file that are read. They may be in any order, with others between them.

    Args:
        texts: Names of the columns with the texts.
        label: Name of the column with the label; `None` if labels are not read.
        ids: Name of the column with the IDs; `None` if there is none.
        names: Names of all columns of a file without a header; `None` if its first line is the
            header.
        skips_incomplete: Whether to skip rows that lack columns, a text or the label.
    """

    texts: Sequence[str]
    label: str | None = None
    ids: str | None = None
    names: Sequence[str] | None = None
    skips_incomplete: bool = False

    def required(self) -> list[str]:
        """Return the names of all columns that are read."""
        named = (self.ids, self.label)
        return [*self.texts, *(name for name in named if name is not None)]


@dataclass(frozen=True, slots=True)
class Row:
    """One example of a file.

    Args:
        id: ID of the example.
        texts: Its texts.
        label: Its label as the file has it; `None` if labels are not read.
        line: Number of its line, beginning with 1.
    """

    id: str
    texts: tuple[str, ...]
    label: str | None
    line: int


def read_rows(path: Path, columns: Columns) -> list[Row]:
    """Read the examples of a file.

    Args:
        path: The file.
        columns: The columns to read.

    Raises:
        InputError: There is no such file.
        FileFormatError: It is not UTF-8, has another header, or has no examples; or a line has more
            or fewer columns than the header, or an empty ID.
    """
    names = columns.required()
    rows: list[Row] = []
    skipped = 0
    for line, values in read_columns(path, columns):
        if columns.skips_incomplete and not all(values):
            skipped += 1
            continue
        by_name = dict(zip(names, values, strict=True))
        if columns.ids and not by_name[columns.ids]:
            raise line_problem(path, line, f"has an empty {columns.ids!r}; expected an ID")
        rows.append(
            Row(
                id=by_name[columns.ids] if columns.ids else str(len(rows)),
                texts=tuple(by_name[name] for name in columns.texts),
                label=by_name[columns.label] if columns.label else None,
                line=line,
            )
        )
    if skipped:
        log.warning("%s: skipped %s without a text or the label", path, counted(skipped, "row"))
    if not rows:
        found = f": found only {counted(skipped, 'row')} without a text or the label"
        raise FileFormatError(
            f"{path} has no examples{found if skipped else ''}; expected {_described(columns)}"
        )
    if len({row.id for row in rows}) < len(rows):
        rows = [
            Row(str(position), row.texts, row.label, row.line) for position, row in enumerate(rows)
        ]
    return rows


def read_columns(path: Path, columns: Columns) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line, beginning with 1, and its values of the required columns.

    Values that an incomplete row lacks are empty if `columns.skips_incomplete`.

    Args:
        path: The file.
        columns: The columns to read.

    Raises:
        InputError: There is no such file.
        FileFormatError: It is not UTF-8, or has another header or a column twice; or a line has
            more or fewer columns than the header, a null character, or too many characters.
    """
    lines = read_lines(path, expected=_described(columns))
    names = columns.names
    if names is None:
        first = next(lines, None)
        if first is None:
            raise FileFormatError(f"{path} is empty; expected {_described(columns)}")
        header = first[1]
        names = header.split("\t")
        if missing := [name for name in columns.required() if name not in names]:
            raise line_problem(
                path,
                1,
                f"is {header!r:.80}, without {' and '.join(map(repr, missing))}; expected a header "
                f"with the columns {', '.join(columns.required())}, separated by tabs",
            )
        if repeated := [name for name in columns.required() if names.count(name) > 1]:
            raise line_problem(
                path,
                1,
                f"has the column {repeated[0]!r} {names.count(repeated[0])} times; expected it "
                "once. Remove or rename the others.",
            )
    positions = [names.index(name) for name in columns.required()]
    for number, line in lines:
        values = line.split("\t")
        is_incomplete = columns.skips_incomplete and len(values) < len(names)
        if len(values) != len(names) and not is_incomplete:
            found, advice = f"has {counted(len(values), 'column')}", QUOTING_ADVICE
            if not line:
                found, advice = "is empty", "Remove it."
            raise line_problem(
                path,
                number,
                f"{found}; expected {counted(len(names), 'column')} ({', '.join(names)}), "
                f"separated by tabs. {advice}",
            )
        yield number, ["" if at >= len(values) else values[at] for at in positions]


def read_lines(path: Path, *, expected: str) -> Iterator[tuple[int, str]]:
    """Yield the number of each line, beginning with 1, and its text without the line feed.

    Args:
        path: The file.
        expected: Description of the expected content, for messages.

    Raises:
        InputError: There is no such file.
        FileFormatError: It is not UTF-8, or a line has a null character or is too long.
    """
    end = "\n"
    with open_text(path, expected=expected, newline="\n") as file:
        # A file without line feeds, such as one of zeros, must not fill the memory.
        lines = iter(partial(file.readline, MAX_LINE_CHARACTERS + 1), "")
        for number, line in enumerate(lines, 1):
            if "\0" in line:
                raise line_problem(
                    path,
                    number,
                    f"contains a null character; expected {expected}. The file is damaged: get it "
                    "again.",
                )
            if len(line) > MAX_LINE_CHARACTERS:
                raise line_problem(
                    path,
                    number,
                    f"has more than {MAX_LINE_CHARACTERS:,} characters; expected {expected}",
                )
            if number == 1 and line.endswith("\r\n"):
                end = "\r\n"
            yield number, line.removesuffix(end).removesuffix("\n")


def line_problem(path: Path, line: int, message: str) -> FileFormatError:
    """Return an error about one line of a file."""
    return FileFormatError(f"{path}: line {line} {message}")


def _described(columns: Columns) -> str:
    return f"lines with the columns {', '.join(columns.names or columns.required())}"
