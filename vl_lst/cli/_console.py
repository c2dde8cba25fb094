"""Output of every command: results, progress, notes and errors.

Results go to standard output, everything else to standard error.
"""

import io
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from eval.outputs import NO_PERMISSION
from eval.text import escape_controls
from feature_extraction.store.disk import is_out_of_space
from vl_lst.progress import ProgressReport, silent

__all__ = [
    "QuietOption",
    "announce_imports",
    "complain",
    "explain",
    "notes",
    "prepare_streams",
    "progress",
    "progress_bars",
    "results",
    "status",
]

QuietOption = Annotated[bool, typer.Option("--quiet", help="Print only the result and errors.")]

SECONDS_BETWEEN_PLAIN_LINES = 10.0
# With fewer columns, the cells of tables are empty.
MIN_TERMINAL_SIZE = {"COLUMNS": 20, "LINES": 1}


def _ignore_unusable_terminal_size() -> None:
    """Remove a terminal size from the environment that is too small or not a number."""
    for name, minimum in MIN_TERMINAL_SIZE.items():
        size = os.environ.get(name, "")
        if size and not (size.isascii() and size.isdecimal() and int(size[:9]) >= minimum):
            del os.environ[name]


class _Console(Console):
    """A console that keeps the first error of printing and prints nothing afterwards.

    A full or closed stream must not stop the command from writing its other outputs.

    Args:
        stderr: Whether to print to standard error.
    """

    failure: OSError | None = None
    # Whether the running command failed to write a report; its exit code is then 1.
    has_unwritten_report = False

    def __init__(self, *, stderr: bool = False) -> None:
        # File names and answers may look like markup (`[/]`) or an emoji (`:cat:`).
        super().__init__(stderr=stderr, soft_wrap=True, highlight=False, markup=False, emoji=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print like `rich.console.Console.print`, unless an earlier call failed."""
        if self.failure is None:
            try:
                super().print(*objects, **options)
            except OSError as error:
                self.failure = error
                # A capture empties the buffer, which would be printed later.
                with suppress(OSError), self.capture():
                    pass

    def on_broken_pipe(self) -> None:
        """Raise an error instead of exiting, as rich would."""
        raise BrokenPipeError


# Consoles read the terminal size once.
_ignore_unusable_terminal_size()
results = _Console()
status = _Console(stderr=True)

# A name may have 255 bytes. A longer word, such as a path of thousands, would hide the message.
LONG_WORD = re.compile(r"\S{400,}")
SHOWN_AT_START, SHOWN_AT_END = 160, 80


def prepare_streams() -> None:
    """Prepare standard output and error for one command.

    Characters that a stream cannot encode are printed as escapes, and an unusable `COLUMNS`, such
    as 0, is ignored.
    """
    results.stderr = results.has_unwritten_report = False
    results.failure = status.failure = None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _ignore_unusable_terminal_size()


class _PlainLines:
    """Progress without a terminal: a line every ten seconds, and one at the end."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._last_line = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._ended = False

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        self._first = self._first or (now, done)
        # Work after the last step, such as evaluation, is reported no more often than steps.
        ends, self._ended = done >= total and not self._ended, done >= total
        if not ends and now - self._last_line < SECONDS_BETWEEN_PLAIN_LINES:
            return
        self._last_line = now
        line = f"{self._description}: {done:,}/{total:,} {note}".rstrip()
        since, before = self._first
        if before < done < total:
            line += f", {_duration((total - done) * (now - since) / (done - before))} left"
        status.print(line, markup=False)


def _duration(seconds: float) -> str:
    """Format a duration, such as `2h 05m`, `3m 20s` or `45s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


class _Bar:
    """Progress bar on a terminal."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self._bar.update(self._task, completed=done, total=total, note=note)


@contextmanager
def progress(description: str, *, quiet: bool) -> Iterator[ProgressReport]:
    """Show progress as a bar on a terminal, as plain lines elsewhere.

    Args:
        description: What is in progress, such as "extracting".
        quiet: Whether to show nothing.
    """
    if quiet:
        yield silent
        return
    if not status.is_terminal:
        yield _PlainLines(description)
        return
    with progress_bars() as bars:
        yield _Bar(bars, bars.add_task(description, total=None, note=""))


def progress_bars() -> Progress:
    """Return bars for a terminal; each has a description, a total and a note."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    return Progress(*columns, console=status)


@contextmanager
def notes(*, quiet: bool) -> Iterator[None]:
    """Show the library's log messages on standard error; with `quiet`, only errors."""
    logger, handler = logging.getLogger("vl_lst"), _StatusHandler()
    handler.setLevel(logging.ERROR if quiet else logging.INFO)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _StatusHandler(logging.Handler):
    """Prints log messages, except those meant only for `log.txt`."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "only_in_file", False):
            status.print(_printable(record.getMessage()), markup=False)


def announce_imports(*, quiet: bool) -> None:
    """Say that PyTorch is about to be imported, which takes several seconds, unless it has been.

    Args:
        quiet: Whether to print nothing.
    """
    if not quiet and "torch" not in sys.modules:
        status.print("importing PyTorch and Transformers", markup=False)


def complain(message: str) -> None:
    """Print an error, with control characters escaped and very long words shortened."""
    status.print(Text("error: ", "bold red"), end="")
    status.print(_printable(message), markup=False)


def _printable(message: str) -> str:
    """Escape control characters, which names in a user's files may hold, and shorten long words."""
    return LONG_WORD.sub(lambda found: _shortened(found[0]), escape_controls(message))


def _shortened(word: str) -> str:
    start, end = word[:SHOWN_AT_START], word[-SHOWN_AT_END:]
    return f"{start}[... {len(word) - SHOWN_AT_START - SHOWN_AT_END:,} characters ...]{end}"


def explain(error: Exception) -> str:
    """Return the message of an error that the user can fix."""
    if not isinstance(error, OSError):
        return str(error)
    where = f" at {error.filename}" if error.filename else ""
    if is_out_of_space(error):
        return f"no space left on the device{where}. Free some space and run the command again."
    if error.errno in NO_PERMISSION:
        return f"no permission to write or read{where}: {error.strerror}."
    return f"{error.strerror or error}{where}"
