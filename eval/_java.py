"""Java subprocesses with a time limit and without output or leftovers.

Each process runs in its own session, so that it is killed together with its children, and in a
temporary folder, so that the virtual machine leaves no crash report in the user's folder. Standard
error goes to a file, because the process would block on a full pipe.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO

__all__ = ["JavaError", "JavaProcess", "find_java", "library_folder", "run_java"]

NO_JAVA = (
    "requires Java, and there is no `java` on the PATH: install a Java runtime "
    "(Debian, Ubuntu: apt install default-jre-headless; conda: conda install openjdk) and try again"
)
MAX_QUOTE_CHARACTERS = 300


class JavaError(Exception):
    """A Java program gave no result; the message tells the user why."""


def library_folder(package: str) -> Path:
    """Return the folder with the JAR files of a package of pycocoevalcap ("meteor").

    Raises:
        JavaError: The package is not installed.
    """
    spec = find_spec(f"pycocoevalcap.{package}")
    if spec is None or not spec.submodule_search_locations:
        raise JavaError(
            f"pycocoevalcap is incomplete: it has no {package}; reinstall it "
            "(pip install --force-reinstall pycocoevalcap)"
        )
    return Path(spec.submodule_search_locations[0])


def run_java(name: str, arguments: Sequence[str], *, folder: Path, time_limit: float) -> bytes:
    """Run a Java program until it exits and return its standard output.

    Args:
        name: Name of the program, for messages.
        arguments: Command-line arguments for `java`.
        folder: Working directory, a temporary folder.
        time_limit: Seconds after which the program is killed.

    Raises:
        JavaError: There is no Java, or the program failed, was killed or took too long.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        command = [find_java(), *arguments]
        process = _start(command, folder, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        try:
            code = process.wait(time_limit)
        except subprocess.TimeoutExpired:
            raise JavaError(_timeout_message(name, time_limit)) from None
        finally:
            _kill(process)
            process.wait()
        output.seek(0)
        text = output.read()
        if code != 0:
            raise JavaError(_describe_exit(name, code, _error_text(errors, text)))
        return text


class JavaProcess:
    """A running Java program that answers lines with lines, until it is closed.

    Args:
        name: Name of the program, for messages.
        command: Command line; see `find_java`.

    Raises:
        JavaError: Java cannot be started.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.command = command
        self._name = name
        self._folder = Path(tempfile.mkdtemp(prefix="vl-lst-"))
        self._errors = tempfile.TemporaryFile()
        self._time_limit = 0.0
        self._expired = threading.Event()
        try:
            self._process = _start(
                command,
                self._folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except BaseException:
            self._discard_files()
            raise

    @property
    def process_id(self) -> int:
        """The process ID."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the program is running, and no time limit has stopped it."""
        return self._process.poll() is None and not self._expired.is_set()

    @contextmanager
    def limited_to(self, seconds: float) -> Iterator[None]:
        """Kill the program if the block takes longer, and forget its earlier error messages."""
        self._errors.seek(0)
        # The program shares the position in this file, so it continues at the new end.
        self._errors.truncate()
        self._time_limit = seconds
        watchdog = threading.Timer(seconds, self._expire)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()
            watchdog.join()

    def request(self, lines: Sequence[str], *, num_answers: int) -> list[str]:
        """Send lines to the program and return its answers.

        Args:
            lines: Texts without line breaks, of any length. The answers that the program writes
                before it has read all lines must fit into a pipe (at least 4 KiB).
            num_answers: Number of lines to read.

        Raises:
            JavaError: The program exited, was killed or took too long.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("".join(f"{line}\n" for line in lines).encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended(self._process.stdout.read()) from None
        received: list[bytes] = []
        for _ in range(num_answers):
            received.append(self._process.stdout.readline())
            if not received[-1].endswith(b"\n"):
                raise self._ended(b"".join(received))
        return [answer.decode(errors="replace").strip() for answer in received]

    def invalid_answer(self, answer: str) -> JavaError:
        """Return the error for an answer that is not a score."""
        return JavaError(f"{self._name} answered {_quote(answer.encode())!r}, expected a score")

    def close(self) -> None:
        """Kill the program and remove its files."""
        _kill(self._process)
        self._process.wait()
        self._close_pipes()
        self._discard_files()

    def abandon(self) -> None:
        """Close the copies of the pipes in a forked process: the program belongs to its parent.

        While any copy is open, the program would not notice that the parent has ended.
        """
        # Neither `close` nor the garbage collector may end the program of another process.
        self._process.returncode = 0
        self._close_pipes()
        self._errors.close()

    def _expire(self) -> None:
        self._expired.set()
        _kill(self._process)

    def _ended(self, output: bytes) -> JavaError:
        # After its output ends, the process exits at once or not at all.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        if self._expired.is_set():
            return JavaError(_timeout_message(self._name, self._time_limit))
        reason = _error_text(self._errors, output)
        return JavaError(_describe_exit(self._name, self._process.returncode, reason))

    def _close_pipes(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def _discard_files(self) -> None:
        self._errors.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def find_java() -> str:
    """Return the path of `java`.

    Raises:
        JavaError: There is none.
    """
    java = shutil.which("java")
    if java is None:
        raise JavaError(NO_JAVA)
    return os.path.abspath(java)


def _start(
    command: Sequence[str],
    folder: Path,
    *,
    stdin: int,
    stdout: int | IO[bytes],
    stderr: IO[bytes],
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            cwd=folder,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    except OSError as error:
        raise JavaError(f"{command[0]} cannot be started: {error.strerror}") from None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, unless it has exited: its ID may be in use again."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _timeout_message(name: str, time_limit: float) -> str:
    return f"{name} did not finish within {time_limit:,.0f} seconds and was stopped"


def _describe_exit(name: str, code: int | None, reason: str) -> str:
    if code is None:
        event = "stopped answering"
    elif code < 0:
        event = f"was killed by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            event += ", possibly because memory ran out: free some and try again"
    else:
        event = f"failed with exit code {code}"
    return f"{name} {event}{reason and f': {reason}'}"


def _error_text(errors: IO[bytes], output: bytes) -> str:
    """Return the program's error message; a virtual machine that cannot start uses stdout."""
    errors.seek(0)
    error_lines = errors.read().splitlines()
    lines = [*error_lines, *output.splitlines()]
    for first, line in enumerate(lines):
        if re.search(b"error|exception|insufficient", line, re.IGNORECASE):
            return _quote(b" ".join(lines[first:]))
    return _quote(b"".join(error_lines[-1:]))


def _quote(text: bytes) -> str:
    words = " ".join(text[: 4 * MAX_QUOTE_CHARACTERS].decode(errors="replace").split())
    return words if len(words) <= MAX_QUOTE_CHARACTERS else f"{words[:MAX_QUOTE_CHARACTERS]}..."
