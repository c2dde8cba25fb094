"""The entries of one large JSON object, read one at a time.

GQA's questions are objects of up to a gigabyte; parsed whole they would take ten times that.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from eval.errors import FileFormatError
from eval.files import explain_json_error, open_text, require_unicode, unique_fields

__all__ = ["read_entries"]

BLOCK_CHARACTERS = 1 << 22
# All questions of GQA have about 20 GB, and are never held at once.
MAX_BYTES = 1 << 36
# An entry that has not ended by then is taken for a wrong one, lest the whole file be gathered.
MOST_CHARACTERS = 1 << 25
SPACE = re.compile(r"[ \t\n\r]*")
CUT_SHORT = "the file seems cut short"


def read_entries(path: Path, *, expected: str) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of the JSON object a file holds, in order, repeated keys included.

    Args:
        path: The file.
        expected: What it should hold, for messages.

    Raises:
        InputError: There is no such file, or it cannot be read.
        FileFormatError: The text is not one JSON object; the message gives the line.
    """
    with open_text(path, expected=expected, max_bytes=MAX_BYTES) as file:
        yield from _Entries(file, path, expected).read()


class _IncompleteError(Exception):
    """The text read so far ends inside an entry."""


class _Entries:
    """A window on the text that moves on entry by entry."""

    def __init__(self, file: TextIO, path: Path, expected: str) -> None:
        self._file = file
        self._path = path
        self._expected = expected
        self._decode = json.JSONDecoder(object_pairs_hook=unique_fields).raw_decode
        self._text = ""
        self._at = 0
        self._lines_before = 0
        self._characters_before = 0

    def read(self) -> Iterator[tuple[str, Any]]:
        if self._move_to_text(0) != "{":
            raise self._problem("no object begins here")
        ended = self._move_to_text(self._at + 1) == "}"
        self._at += ended
        while not ended:
            key, value, mark = self._next_entry()
            yield key, value
            ended = mark == "}"
        if self._move_to_text(self._at):
            raise self._problem("something follows the object")

    def _next_entry(self) -> tuple[str, Any, str]:
        while True:
            try:
                return self._entry()
            except (json.JSONDecodeError, _IncompleteError) as error:
                if len(self._text) - self._at > MOST_CHARACTERS or not self._read_on():
                    raise self._explained(error) from None
            except (RecursionError, ValueError) as error:
                raise self._problem(explain_json_error(error)) from None

    def _entry(self) -> tuple[str, Any, str]:
        key, end = self._value(self._at)
        if not isinstance(key, str):
            raise json.JSONDecodeError("a key must be a text in quotes", self._text, self._at)
        end = self._mark(end, ":")
        value, end = self._value(end)
        end = self._mark(end, ",}")
        require_unicode(
            self._text[self._at : end],
            {key: value},
            f"{self._path}: the entry {key!a:.60}",
            expected=self._expected,
        )
        self._at = end
        return key, value, self._text[end - 1]

    def _value(self, at: int) -> tuple[Any, int]:
        return self._decode(self._text, _skip_space(self._text, at))

    def _mark(self, at: int, marks: str) -> int:
        at = _skip_space(self._text, at)
        if at == len(self._text):
            raise _IncompleteError
        if self._text[at] not in marks:
            raise json.JSONDecodeError(f"expected one of {marks!r}", self._text, at)
        return at + 1

    def _move_to_text(self, at: int) -> str:
        """Move to the next character that is no space and return it; "" at the end of the file."""
        self._at = _skip_space(self._text, at)
        while self._at == len(self._text) and self._read_on():
            self._at = _skip_space(self._text, 0)
        return self._text[self._at : self._at + 1]

    def _read_on(self) -> bool:
        """Drop what has been read and take another block; `False` at the end of the file."""
        block = self._file.read(BLOCK_CHARACTERS)
        if not block:
            return False
        self._lines_before += self._text.count("\n", 0, self._at)
        self._characters_before += self._at
        self._text = self._text[self._at :] + block
        self._at = 0
        return True

    def _explained(self, error: json.JSONDecodeError | _IncompleteError) -> FileFormatError:
        if isinstance(error, _IncompleteError):
            return self._problem(CUT_SHORT, len(self._text))
        ended = error.pos >= len(self._text.rstrip()) or error.msg.startswith("Unterminated")
        message = f"{error.msg} ({CUT_SHORT})" if ended else error.msg
        return self._problem(message, error.pos)

    def _problem(self, message: str, at: int | None = None) -> FileFormatError:
        at = self._at if at is None else at
        line = self._lines_before + self._text.count("\n", 0, at) + 1
        return FileFormatError(
            f"{self._path}: not valid JSON at line {line} (character "
            f"{self._characters_before + at + 1} of the file): {message}; expected "
            f"{self._expected}. Fetch or write the file again."
        )


def _skip_space(text: str, at: int) -> int:
    match = SPACE.match(text, at)
    return at if match is None else match.end()
