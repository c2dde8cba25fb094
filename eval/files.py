"""Texts and JSON read with messages a person can act on."""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from eval.errors import FileFormatError, InputError

__all__ = ["garbage_collection_paused", "open_text", "read_json"]


@contextmanager
def open_text(path: Path, *, expected: str, newline: str | None = None) -> Iterator[TextIO]:
    """Open a text file to read in the block.

    Args:
        path: The file.
        expected: What it should hold, for messages ("the official VQA v2 questions").
        newline: As for `open`: a line feed keeps other separators in a line's text.

    Raises:
        InputError: There is no such file.
        FileFormatError: What is read in the block is not UTF-8; the message gives the place.
    """
    try:
        with path.open(encoding="utf-8", newline=newline) as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"no file {path}: expected {expected} there") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder: expected a file with {expected}") from None
    except UnicodeDecodeError:
        raise FileFormatError(
            f"{path}: {_first_wrong_byte(path)} is not UTF-8 text; expected {expected}"
        ) from None


def _first_wrong_byte(path: Path) -> str:
    before = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number} (byte {before + error.start} of the file)"
            before += len(line)
    return "something in it"


def read_json(path: Path, *, expected: str) -> Any:
    """Read one JSON document.

    Args:
        path: The file.
        expected: What the file should hold, for the message ("the official VQA v2 questions").

    Raises:
        InputError: There is no such file, or it cannot be read.
        FileFormatError: The text is not JSON, or ends too early; the message gives the position.
    """
    with open_text(path, expected=expected) as file:
        text = file.read()
    try:
        with garbage_collection_paused():
            return json.loads(text)
    except json.JSONDecodeError as error:
        at_end = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        truncated = " (the file seems cut short)" if at_end else ""
        raise FileFormatError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno}: "
            f"{error.msg}{truncated}; expected {expected}. Fetch or write the file again."
        ) from None
    except (RecursionError, ValueError) as error:
        raise FileFormatError(
            f"{path}: lists nested too deeply, or a number too long ({error}); expected {expected}"
        ) from None


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
