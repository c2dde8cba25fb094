"""Reading of text and JSON files, with actionable error messages."""

import codecs
import gc
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from eval.errors import FileFormatError
from eval.regular_files import is_shell_pipe, open_regular

__all__ = [
    "BYTE_ORDER_MARK",
    "MAX_RUN_FILE_BYTES",
    "MAX_TEXT_BYTES",
    "explain_json_error",
    "garbage_collection_paused",
    "has_byte_order_mark",
    "open_text",
    "parse_json",
    "read_json",
    "require_unicode",
    "unique_fields",
]

# The largest official file that is parsed as a whole has 400 MB.
MAX_TEXT_BYTES = 1 << 31
# Records and recipes take kilobytes, the answer lists in them megabytes.
MAX_RUN_FILE_BYTES = 1 << 26
# The first bytes of compressed files, with which no text begins.
PACKED_FORMATS = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
}
MAX_MAGIC_BYTES = max(map(len, PACKED_FORMATS))
# An escaped surrogate, half of a character in JSON.
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
CONTEXT_CHARACTERS = 20
# Concatenated files may contain several, not only at the beginning.
BYTE_ORDER_MARK = "\ufeff"


@contextmanager
def open_text(
    path: Path,
    *,
    expected: str,
    newline: str | None = None,
    max_bytes: int = MAX_TEXT_BYTES,
    keep_byte_order_mark: bool = False,
) -> Iterator[TextIO]:
    """Open a UTF-8 text file for reading; see `open_regular` for what is refused.

    Args:
        path: The file.
        expected: Description of the expected content, for messages ("the official VQA v2
            questions").
        newline: As for `open`: with a line feed, other separators do not end a line.
        max_bytes: Size limit.
        keep_byte_order_mark: Whether to leave a byte-order mark in the text instead of skipping it.

    Raises:
        InputError: There is no such file, or it is not a regular file.
        FileFormatError: The file is too large or not UTF-8; the message gives the position.
    """
    with open_regular(path, expected=expected, max_bytes=max_bytes) as binary:
        head = binary.peek(MAX_MAGIC_BYTES)
        if packed := _packed_format(head):
            raise FileFormatError(f"{path} is packed ({packed}); expected {expected}. Unpack it.")
        if wide := _wide_encoding(head):
            raise FileFormatError(
                f"{path} is {wide} text; expected {expected}, in UTF-8. Save the file as UTF-8."
            )
        encoding = "utf-8" if keep_byte_order_mark else "utf-8-sig"
        try:
            yield io.TextIOWrapper(binary, encoding, newline=newline)
        except UnicodeDecodeError:
            raise FileFormatError(
                f"{path}: {_first_invalid_byte(path, max_bytes)} is not UTF-8 text; expected "
                f"{expected}"
            ) from None


def has_byte_order_mark(path: Path, *, expected: str) -> bool:
    """Return whether a file begins with the byte-order mark of UTF-8.

    Raises:
        InputError: There is no such file, or it is not a regular file.
    """
    with open_regular(path, expected=expected, max_bytes=MAX_TEXT_BYTES, read_again=True) as file:
        return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8


def _wide_encoding(head: bytes) -> str | None:
    """Return "UTF-16" or "UTF-32" if a text is encoded so; otherwise `None`."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    zeros = [byte == 0 for byte in head[:2]]
    is_wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or sum(zeros) == 1
    return "UTF-16" if is_wide and len(zeros) > 1 else None


def _packed_format(head: bytes) -> str | None:
    """Return the format of an archive or compressed file; otherwise `None`."""
    return next((name for magic, name in PACKED_FORMATS.items() if head.startswith(magic)), None)


def _first_invalid_byte(path: Path, max_bytes: int) -> str:
    if is_shell_pipe(path):
        return "something in it"
    before = 0
    with open_regular(path, expected="text", max_bytes=max_bytes) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number} (byte {before + error.start} of the file)"
            before += len(line)
    return "something in it"


def read_json(path: Path, *, expected: str, max_bytes: int = MAX_TEXT_BYTES) -> Any:
    """Read one JSON document.

    Args:
        path: The file.
        expected: Description of the expected content, for messages ("the official VQA v2
            questions").
        max_bytes: Size limit.

    Raises:
        InputError: There is no such file, or it cannot be read.
        FileFormatError: The text is not JSON, is truncated, or repeats a key in an object.
    """
    with open_text(path, expected=expected, max_bytes=max_bytes) as file:
        text = file.read().lstrip(BYTE_ORDER_MARK)
    return parse_json(text, path, expected=expected)


def parse_json(text: str, path: Path, *, expected: str) -> Any:
    """Parse one JSON document.

    Args:
        text: The document.
        path: The file that contains it, for messages.
        expected: Description of the expected content, for messages.

    Raises:
        FileFormatError: The text is not JSON, is truncated, or repeats a key in an object; the
            message gives the position or the key.
    """
    try:
        with garbage_collection_paused():
            value = json.loads(text, object_pairs_hook=unique_fields)
    except json.JSONDecodeError as error:
        at_end = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        truncated = " (the file seems truncated)" if at_end else ""
        raise FileFormatError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno}: "
            f"{error.msg}{truncated}; expected {expected}. Download or write the file again."
        ) from None
    except (RecursionError, ValueError) as error:
        raise FileFormatError(f"{path}: {explain_json_error(error)}; expected {expected}") from None
    require_unicode(text, value, str(path), expected=expected)
    return value


def require_unicode(text: str, value: object, place: str, *, expected: str) -> None:
    """Refuse JSON with lone surrogates, which cannot be written again.

    Args:
        text: The JSON.
        value: The parsed JSON.
        place: The file, and the line if it has several, for messages.
        expected: Description of the expected content, for messages.

    Raises:
        FileFormatError: A string is not valid Unicode.
    """
    if SURROGATE.search(text) is None:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        start = max(0, error.start - CONTEXT_CHARACTERS)
        wrong = str(error.object)[start : error.end + CONTEXT_CHARACTERS]
        raise FileFormatError(
            f"{place}: the text {wrong!a:.60} is not valid Unicode; expected {expected}"
        ) from None


class _RepeatedKeyError(ValueError):
    """An object contains a key more than once, so its value is ambiguous."""


def unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of a JSON object as a dictionary; an `object_pairs_hook` for `json`.

    Raises:
        ValueError: A key occurs more than once.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        first, value = pairs[0]
        raise _RepeatedKeyError(
            f"the key {key!r:.60} occurs more than once in the object that begins with "
            f"{first!r:.60}: {value!r:.60}"
        )
    return fields


def explain_json_error(error: RecursionError | ValueError) -> str:
    """Return why JSON cannot be read, in words for a message."""
    if isinstance(error, RecursionError):
        return "lists nested too deeply"
    if isinstance(error, _RepeatedKeyError | json.JSONDecodeError):
        return str(error)
    return f"a number too long, of more than {sys.get_int_max_str_digits():,} digits"


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause garbage collection: JSON has no cycles, and checking millions of objects is slow."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
