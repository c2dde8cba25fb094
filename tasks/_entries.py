"""Incremental reading of a large JSON object, one entry at a time.

GQA's questions are objects of up to a gigabyte, which would take ten times that in memory. Unlike
`ijson`, this reader refuses repeated keys and invalid Unicode, and its errors name the line.
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
# All questions of GQA take about 20 GB.
MAX_BYTES = 1 << 36
# Bounds the memory that an unterminated entry can take.
MAX_ENTRY_CHARACTERS = 1 << 25
SPACE = re.compile(r"[ \t\n\r]*")
TRUNCATED = "the file seems truncated"


def read_entries(path: Path, *, expected: str) -> Iterator[tuple[str, Any]]:
    """Yield the (key, value) pairs of the JSON object in a file, in order.

    Repeated keys of the outermost object are yielded too; the caller must check for them.

    Args:
        path: The file.
        expected: Description of the expected content, for messages.

    Raises:
        InputError: There is no such file, or it cannot be read.
        FileFormatError: The text is not one JSON object; the message gives the line.
    """
    with open_text(path, expected=expected, max_bytes=MAX_BYTES) as file:
        yield from _EntryReader(file, path, expected).read()


class _IncompleteError(Exception):
    """The text in memory ends inside an entry."""


class _EntryReader:
    """A window on the text that moves forward one entry at a time."""

    def __init__(self, file: TextIO, path: Path, expected: str) -> None:
        self._file = file
        self._path = path
        self._expected = expected
        self._decode = json.JSONDecoder(object_pairs_hook=unique_fields).raw_decode
        self._text = ""
        self._start = 0
        self._lines_before = 0
        self._characters_before = 0

    def read(self) -> Iterator[tuple[str, Any]]:
        if self._skip_to_text(0) != "{":
            raise self._problem("no JSON object found")
        ended = self._skip_to_text(self._start + 1) == "}"
        self._start += ended
        while not ended:
            key, value, mark = self._next_entry()
            yield key, value
            ended = mark == "}"
        if self._skip_to_text(self._start):
            raise self._problem("unexpected text after the object")

    def _next_entry(self) -> tuple[str, Any, str]:
        while True:
            try:
                return self._entry()
            except (json.JSONDecodeError, _IncompleteError) as error:
                if len(self._text) - self._start > MAX_ENTRY_CHARACTERS or not self._read_block():
                    raise self._explain(error) from None
            except (RecursionError, ValueError) as error:
                raise self._problem(explain_json_error(error)) from None

    def _entry(self) -> tuple[str, Any, str]:
        key, end = self._value(self._start)
        if not isinstance(key, str):
            raise json.JSONDecodeError("a key must be a string", self._text, self._start)
        end = self._mark(end, ":")
        value, end = self._value(end)
        end = self._mark(end, ",}")
        require_unicode(
            self._text[self._start : end],
            {key: value},
            f"{self._path}: the entry {key!a:.60}",
            expected=self._expected,
        )
        self._start = end
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

    def _skip_to_text(self, at: int) -> str:
        """Skip whitespace and return the next character; "" at the end of the file."""
        self._start = _skip_space(self._text, at)
        while self._start == len(self._text) and self._read_block():
            self._start = _skip_space(self._text, 0)
        return self._text[self._start : self._start + 1]

    def _read_block(self) -> bool:
        """Drop the parsed text and read another block; return `False` at the end of the file."""
        block = self._file.read(BLOCK_CHARACTERS)
        if not block:
            return False
        self._lines_before += self._text.count("\n", 0, self._start)
        self._characters_before += self._start
        self._text = self._text[self._start :] + block
        self._start = 0
        return True

    def _explain(self, error: json.JSONDecodeError | _IncompleteError) -> FileFormatError:
        if isinstance(error, _IncompleteError):
            return self._problem(TRUNCATED, len(self._text))
        is_truncated = error.pos >= len(self._text.rstrip()) or error.msg.startswith("Unterminated")
        message = f"{error.msg} ({TRUNCATED})" if is_truncated else error.msg
        return self._problem(message, error.pos)

    def _problem(self, message: str, at: int | None = None) -> FileFormatError:
        at = self._start if at is None else at
        line = self._lines_before + self._text.count("\n", 0, at) + 1
        return FileFormatError(
            f"{self._path}: not valid JSON at line {line} (character "
            f"{self._characters_before + at + 1} of the file): {message}; expected "
            f"{self._expected}. Download or write the file again."
        )


def _skip_space(text: str, at: int) -> int:
    match = SPACE.match(text, at)
    return at if match is None else match.end()
