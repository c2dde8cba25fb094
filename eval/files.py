"""Texts and JSON read with messages a person can act on."""

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

# The largest official file that is parsed whole has 400 MB.
MAX_TEXT_BYTES = 1 << 31
# Records, recipes and the like have kilobytes, answer lists in them megabytes.
MAX_RUN_FILE_BYTES = 1 << 26
# What packed files begin with; no text does.
PACKED_FORMATS = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
}
MAX_MAGIC_BYTES = max(map(len, PACKED_FORMATS))
# How JSON writes half a character; two of them make one.
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
CONTEXT = 20
# Files that were joined from several may hold more than the one at their beginning.
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
    """Open a text file to read in the block; see `open_regular` for what is refused.

    Args:
        path: The file.
        expected: What it should hold, for messages ("the official VQA v2 questions").
        newline: As for `open`: a line feed keeps other separators in a line's text.
        max_bytes: Size limit.
        keep_byte_order_mark: Leave a byte-order mark in the text instead of skipping it.

    Raises:
        InputError: There is no such file, or it is not a regular file.
        FileFormatError: It is too large, or not UTF-8; the message gives the place.
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
                f"{path}: {_first_wrong_byte(path, max_bytes)} is not UTF-8 text; expected "
                f"{expected}"
            ) from None


def has_byte_order_mark(path: Path, *, expected: str) -> bool:
    """Whether a file begins with the byte-order mark of UTF-8.

    Raises:
        InputError: There is no such file, or it is not a regular file.
    """
    with open_regular(path, expected=expected, max_bytes=MAX_TEXT_BYTES, read_again=True) as file:
        return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8


def _wide_encoding(head: bytes) -> str | None:
    """Name the encoding of more than a byte per letter that a text begins in, if it does."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    zeros = [byte == 0 for byte in head[:2]]
    is_wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or sum(zeros) == 1
    return "UTF-16" if is_wide and len(zeros) > 1 else None


def _packed_format(head: bytes) -> str | None:
    """Name the format of an archive or a compressed file, if a file begins as one."""
    return next((name for magic, name in PACKED_FORMATS.items() if head.startswith(magic)), None)


def _first_wrong_byte(path: Path, max_bytes: int) -> str:
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
        expected: What the file should hold, for the message ("the official VQA v2 questions").
        max_bytes: Size limit.

    Raises:
        InputError: There is no such file, or it cannot be read.
        FileFormatError: The text is not JSON, ends too early or repeats a key in an object.
    """
    with open_text(path, expected=expected, max_bytes=max_bytes) as file:
        text = file.read().lstrip(BYTE_ORDER_MARK)
    return parse_json(text, path, expected=expected)


def parse_json(text: str, path: Path, *, expected: str) -> Any:
    """Parse one JSON document.

    Args:
        text: The document.
        path: The file it is from, for messages.
        expected: What the file should hold, for messages.

    Raises:
        FileFormatError: The text is not JSON, ends too early or repeats a key in an object; the
            message gives the position or the key.
    """
    try:
        with garbage_collection_paused():
            value = json.loads(text, object_pairs_hook=unique_fields)
    except json.JSONDecodeError as error:
        at_end = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        truncated = " (the file seems cut short)" if at_end else ""
        raise FileFormatError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno}: "
            f"{error.msg}{truncated}; expected {expected}. Fetch or write the file again."
        ) from None
    except (RecursionError, ValueError) as error:
        raise FileFormatError(f"{path}: {explain_json_error(error)}; expected {expected}") from None
    require_unicode(text, value, str(path), expected=expected)
    return value


def require_unicode(text: str, value: object, place: str, *, expected: str) -> None:
    """Refuse JSON that holds half of a character, which could not be written again.

    Args:
        text: The JSON.
        value: What was parsed of it.
        place: The file, and the line if there are several, for messages.
        expected: What the file should hold, for messages.

    Raises:
        FileFormatError: A text in it is not valid Unicode.
    """
    if SURROGATE.search(text) is None:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        start = max(0, error.start - CONTEXT)
        wrong = str(error.object)[start : error.end + CONTEXT]
        raise FileFormatError(
            f"{place}: the text {wrong!a:.60} is not valid Unicode; expected {expected}"
        ) from None


class _RepeatedKeyError(ValueError):
    """An object holds a key more than once, so its value is ambiguous."""


def unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its fields; to be given to `json` as `object_pairs_hook`.

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
    """Return why JSON cannot be read, for errors other than those of its syntax."""
    if isinstance(error, RecursionError):
        return "lists nested too deeply"
    if isinstance(error, _RepeatedKeyError | json.JSONDecodeError):
        return str(error)
    return f"a number too long, of more than {sys.get_int_max_str_digits():,} digits"


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Do not look for cycles in the block: JSON has none, and millions of objects take long."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
