"""JSON lists of objects, with errors that say which object of which file is wrong."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from eval.errors import FileFormatError
from eval.files import read_json
from eval.submissions import first_five

__all__ = ["Records", "read_records", "repeated_ids"]

Value = TypeVar("Value")
KIND_NAMES = {int: "an integer", str: "a text", list: "a list", dict: "an object"}


@dataclass(frozen=True, slots=True)
class Records:
    """The objects of one list in a JSON file.

    Args:
        path: The file.
        name: The list's name in the file ("questions"); empty where the file is the list.
        rows: Its elements, not yet known to be objects.
    """

    path: Path
    name: str
    rows: Sequence[Any]

    def __len__(self) -> int:
        return len(self.rows)

    def field(self, position: int, name: str, kind: type[Value]) -> Value:
        """Return one field of one object.

        Raises:
            FileFormatError: The field is missing or of another type.
        """
        row = self.rows[position]
        if not isinstance(row, dict):
            raise self.problem(position, f"is {_kind_of(row)}; expected an object")
        if name not in row:
            raise self.problem(position, f"has no {name!r}; expected {KIND_NAMES[kind]} there")
        value = row[name]
        # Not isinstance: JSON's true is no integer.
        if type(value) is not kind:
            raise self.problem(
                position,
                f"has {name} {value!r:.80}, {_kind_of(value)}; expected {KIND_NAMES[kind]}",
            )
        return value

    def ids(self, name: str) -> list[int]:
        """Return the integer ids of all objects.

        Raises:
            FileFormatError: One is missing, of another type, or occurs twice.
        """
        ids = [self.field(position, name, int) for position in range(len(self))]
        if repeated := repeated_ids(ids):
            raise FileFormatError(
                f"{self.path}: {len(repeated):,} values of {name} occur more than once "
                f"({first_five(repeated)}); expected each once. Remove the repetitions."
            )
        return ids

    def problem(self, position: int, message: str) -> FileFormatError:
        """Return an error about one object."""
        return FileFormatError(f"{self.path}: {self.name}[{position}] {message}")


def read_records(path: Path, *, expected: str, key: str | None = None) -> Records:
    """Read the list a JSON file is, or holds under `key`.

    Args:
        path: The file.
        expected: What it should hold, for messages.
        key: The list's name in the document, `None` where the document is the list.

    Raises:
        InputError: There is no such file.
        FileFormatError: It is not JSON, or the list is not there.
    """
    document = read_json(path, expected=expected)
    if key is not None:
        if not isinstance(document, dict) or key not in document:
            raise FileFormatError(f"{path}: no {key!r} in it; expected {expected}")
        document = document[key]
    if not isinstance(document, list):
        raise FileFormatError(
            f"{path}: {key or 'the document'} is {_kind_of(document)}; expected {expected}, a list"
        )
    return Records(path, key or "", document)


def repeated_ids(ids: Iterable[Hashable]) -> list[Hashable]:
    """Return the ids that occur more than once."""
    return [id_ for id_, count in Counter(ids).items() if count > 1]


def _kind_of(value: object) -> str:
    return KIND_NAMES.get(type(value), f"of type {type(value).__name__}")
