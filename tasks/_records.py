"""Lists and lines of JSON objects, read with errors that name the file and the object."""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from eval.errors import FileFormatError
from eval.files import (
    BYTE_ORDER_MARK,
    explain_json_error,
    open_text,
    parse_json,
    require_unicode,
    unique_fields,
)
from eval.submissions import first_five
from eval.text import counted

__all__ = [
    "Records",
    "begins_as_list",
    "field_of",
    "read_json_lines",
    "read_records",
    "repeated_ids",
]

Value = TypeVar("Value")
KIND_NAMES: dict[type, str] = {
    int: "an integer",
    float: "a number",
    type(None): "null",
    str: "a string",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True, slots=True)
class Records:
    """The objects of a list in a JSON file, or of a JSON Lines file.

    Args:
        path: The file.
        name: Key of the list in the document ("questions"); empty if the document is the list.
        rows: The elements, not yet checked to be objects.
        are_lines: Whether the file is JSON Lines.
    """

    path: Path
    name: str
    rows: Sequence[Any]
    are_lines: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def field(
        self, position: int, name: str, kind: type[Value], *, expected: str | None = None
    ) -> Value:
        """Return a field of the object at `position`; see `field_of`.

        Raises:
            FileFormatError: The field is missing or has another type than `kind`.
        """
        problem = partial(self.problem, position)
        return field_of(self.rows[position], name, kind, problem, expected=expected)

    def ids(self, name: str) -> list[int]:
        """Return the integer IDs of all objects.

        Raises:
            FileFormatError: An ID is missing, has another type, or occurs more than once.
        """
        ids = [self.field(position, name, int) for position in range(len(self))]
        self.require_distinct(name, ids)
        return ids

    def require_distinct(self, name: str, ids: Iterable[Hashable]) -> None:
        """Check that no ID occurs more than once.

        Raises:
            FileFormatError: An ID does.
        """
        if repeated := repeated_ids(ids):
            occurring = counted(len(repeated), f"value of {name} occurs", f"values of {name} occur")
            raise FileFormatError(
                f"{self.path}: {occurring} more than once ({first_five(repeated)}); expected each "
                "once. Remove the duplicates."
            )

    def problem(self, position: int, message: str) -> FileFormatError:
        """Return an error about the object at `position`."""
        place = f"line {position + 1}" if self.are_lines else f"{self.name}[{position}]"
        return FileFormatError(f"{self.path}: {place} {message}")


def field_of(
    row: Any,
    name: str,
    kind: type[Value],
    problem: Callable[[str], FileFormatError],
    *,
    expected: str | None = None,
) -> Value:
    """Return a field of a JSON object.

    Args:
        row: The object, not yet checked to be one.
        name: Name of the field.
        kind: The exact type the field must have.
        problem: Turns a message into the error that names the object.
        expected: Description of the expected value, for messages. Default: that of `kind`.

    Raises:
        FileFormatError: The field is missing or has another type.
    """
    if not isinstance(row, dict):
        raise problem(f"is {_kind_name(row)}; expected an object")
    expected = expected or KIND_NAMES[kind]
    if name not in row:
        raise problem(f"has no {name!r}; expected {expected} there")
    value = row[name]
    # `isinstance` would accept JSON's true as an integer.
    if type(value) is not kind:
        raise problem(f"has {name} {value!r:.80}, {_kind_name(value)}; expected {expected}")
    return value


def read_records(
    path: Path, *, expected: str, key: str | None = None, line_field: str | None = None
) -> Records:
    """Read a list of objects from a JSON file.

    Args:
        path: The file.
        expected: Description of the expected content, for messages.
        key: Key of the list in the document; `None` if the document is the list.
        line_field: A field of each object. If given, JSON Lines files are read too.

    Raises:
        InputError: There is no such file.
        FileFormatError: The file is not JSON, or the list is missing.
    """
    with open_text(path, expected=expected) as file:
        text = file.read().lstrip(BYTE_ORDER_MARK)
    if line_field is not None and (lines := _object_lines(text, line_field)):
        rows = [
            _parse_line(line, f"{path}: line {number}", expected)
            for number, line in enumerate(lines, 1)
        ]
        return Records(path, "", rows, are_lines=True)
    document = parse_json(text, path, expected=expected)
    if key is not None:
        if not isinstance(document, dict) or key not in document:
            raise FileFormatError(f"{path} has no {key!r}; expected {expected}")
        document = document[key]
    if not isinstance(document, list):
        raise FileFormatError(
            f"{path}: {key or 'the document'} is {_kind_name(document)}; expected a list with "
            f"{expected}"
        )
    return Records(path, key or "", document)


def read_json_lines(path: Path, *, expected: str) -> Records:
    """Read a JSON Lines file.

    Args:
        path: The file.
        expected: Description of the expected content, for messages.

    Raises:
        InputError: There is no such file.
        FileFormatError: A line is empty, truncated or otherwise not JSON.
    """
    # Strings may contain line separators other than line feeds, which JSON need not escape.
    with open_text(path, expected=expected, newline="\n") as file:
        rows = [
            _parse_line(line, f"{path}: line {number}", expected)
            for number, line in enumerate(file, 1)
        ]
    return Records(path, "", rows, are_lines=True)


def begins_as_list(path: Path, *, expected: str) -> bool:
    """Return whether a file begins like a JSON list.

    Raises:
        InputError: There is no such file, or it is not a text file.
    """
    with open_text(path, expected=expected) as file:
        return file.read(64).lstrip().startswith("[")


def _object_lines(text: str, field: str) -> list[str]:
    """Return the lines of JSON Lines; an empty list if the text is one document."""
    if not text.startswith("{"):
        return []
    lines = text.rstrip().split("\n")
    try:
        first = json.loads(lines[0])
    except (RecursionError, ValueError):
        return []
    return lines if len(lines) > 1 or field in first else []


def _parse_line(line: str, place: str, expected: str) -> Any:
    line = line.lstrip(BYTE_ORDER_MARK).rstrip("\n")
    if not line.strip():
        raise FileFormatError(f"{place} is empty; expected {expected}, one object per line")
    try:
        value = json.loads(line, object_pairs_hook=unique_fields)
    except json.JSONDecodeError as error:
        raise FileFormatError(
            f"{place} is not valid JSON at column {error.colno}: {error.msg}; expected {expected}"
        ) from None
    except (RecursionError, ValueError) as error:
        raise FileFormatError(
            f"{place} is not valid JSON ({explain_json_error(error)}); expected {expected}"
        ) from None
    require_unicode(line, value, place, expected=expected)
    return value


def repeated_ids(ids: Iterable[Hashable]) -> list[Hashable]:
    """Return the IDs that occur more than once."""
    return [id_ for id_, count in Counter(ids).items() if count > 1]


def _kind_name(value: object) -> str:
    return KIND_NAMES[type(value)]
