"""Java programs beside Python: bounded in time, silent, and never left behind.

Each runs in a session of its own, so that it is killed together with whatever it started, and in
a temporary folder, so that a crash report of the virtual machine is not left in the user's. What
it writes to standard error goes to a file: a pipe that nobody reads would block it when full.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Self

__all__ = ["JavaDialogue", "JavaError", "library_folder", "run_java"]

NO_JAVA = (
    "needs Java, and there is no `java` on the PATH: install a Java runtime "
    "(Debian, Ubuntu: apt install default-jre-headless; conda: conda install openjdk) and try again"
)
LONGEST_QUOTE = 300


class JavaError(Exception):
    """A Java program gave no answer; the message says why, in words for the user."""


def library_folder(package: str) -> Path:
    """Return where pycocoevalcap keeps the jars of one of its packages ("meteor")."""
    spec = find_spec(f"pycocoevalcap.{package}")
    if spec is None or not spec.submodule_search_locations:
        raise JavaError(
            f"pycocoevalcap is not whole: it has no {package}; install it again "
            "(pip install --force-reinstall pycocoevalcap)"
        )
    return Path(spec.submodule_search_locations[0])


def run_java(name: str, arguments: Sequence[str], *, folder: Path, time_limit: float) -> bytes:
    """Run a Java program to its end and return what it wrote to standard output.

    Args:
        name: What to call it in messages.
        arguments: What follows `java`.
        folder: A temporary folder to run in.
        time_limit: Seconds after which it is killed.

    Raises:
        JavaError: There is no Java, or the program failed, was killed or took too long.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = _start(arguments, folder, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        try:
            code = process.wait(time_limit)
        except subprocess.TimeoutExpired:
            raise JavaError(_too_long(name, time_limit)) from None
        finally:
            _kill(process)
            process.wait()
        output.seek(0)
        text = output.read()
        if code != 0:
            raise JavaError(_ending(name, code, _complaint(errors, text)))
        return text


class JavaDialogue:
    """A Java program that answers lines with lines, until the end of the `with` block.

    Args:
        name: What to call it in messages.
        arguments: What follows `java`.
        time_limit: Seconds after which it is killed, counted from its start.

    Raises:
        JavaError: There is no Java, or it cannot be started.
    """

    def __init__(self, name: str, arguments: Sequence[str], *, time_limit: float) -> None:
        self._name = name
        self._time_limit = time_limit
        self._folder = tempfile.TemporaryDirectory(prefix="vl-lst-")
        self._errors = tempfile.TemporaryFile()
        try:
            self._process = _start(
                arguments,
                Path(self._folder.name),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except JavaError:
            self._discard_files()
            raise
        self._expired = threading.Event()
        self._watchdog = threading.Timer(time_limit, self._expire)
        self._watchdog.daemon = True
        self._watchdog.start()

    @property
    def process_id(self) -> int:
        """Number of the process, for whoever wants to watch it."""
        return self._process.pid

    def ask(self, lines: Sequence[str], *, answers: int) -> list[str]:
        """Send lines and wait for the answers.

        Args:
            lines: Texts without line breaks. Together they may be of any length, but what the
                program answers before it has read them all must fit into a pipe (4 KiB at least).
            answers: How many lines will come back.

        Raises:
            JavaError: The program ended, was killed or took too long.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("".join(f"{line}\n" for line in lines).encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended(self._process.stdout.read()) from None
        received: list[bytes] = []
        for _ in range(answers):
            received.append(self._process.stdout.readline())
            if not received[-1].endswith(b"\n"):
                raise self._ended(b"".join(received))
        return [answer.decode(errors="replace").strip() for answer in received]

    def misunderstood(self, answer: str) -> JavaError:
        """Return an error about an answer that it should not have given."""
        return JavaError(f"{self._name} answered {_quote(answer.encode())!r}, which is no score")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watchdog.cancel()
        self._watchdog.join()
        _kill(self._process)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        self._discard_files()

    def _expire(self) -> None:
        self._expired.set()
        _kill(self._process)

    def _ended(self, output: bytes) -> JavaError:
        # Its output has ended, so it either has too or never will.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        if self._expired.is_set():
            return JavaError(_too_long(self._name, self._time_limit))
        words = _complaint(self._errors, output)
        return JavaError(_ending(self._name, self._process.returncode, words))

    def _discard_files(self) -> None:
        self._errors.close()
        self._folder.cleanup()


def _start(
    arguments: Sequence[str],
    folder: Path,
    *,
    stdin: int,
    stdout: int | IO[bytes],
    stderr: IO[bytes],
) -> subprocess.Popen[bytes]:
    java = shutil.which("java")
    if java is None:
        raise JavaError(NO_JAVA)
    try:
        return subprocess.Popen(
            [os.path.abspath(java), *arguments],
            cwd=folder,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    except OSError as error:
        raise JavaError(f"{java} cannot be started: {error.strerror}") from None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and what it started, unless its end is known: its number may be another's."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _too_long(name: str, time_limit: float) -> str:
    return f"{name} did not finish within {time_limit:,.0f} seconds and was stopped"


def _ending(name: str, code: int | None, words: str) -> str:
    if code is None:
        how = "stopped answering"
    elif code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            how += ", as where memory runs out: free some and try again"
    else:
        how = f"ended early with exit code {code}"
    return f"{name} {how}{words and f': {words}'}"


def _complaint(errors: IO[bytes], output: bytes) -> str:
    """What the program said went wrong; a virtual machine that cannot start says it on stdout."""
    errors.seek(0)
    said = errors.read().splitlines()
    lines = [*said, *output.splitlines()]
    for first, line in enumerate(lines):
        if re.search(b"error|exception|insufficient", line, re.IGNORECASE):
            return _quote(b" ".join(lines[first:]))
    return _quote(b"".join(said[-1:]))


def _quote(text: bytes) -> str:
    words = " ".join(text[: 4 * LONGEST_QUOTE].decode(errors="replace").split())
    return words if len(words) <= LONGEST_QUOTE else f"{words[:LONGEST_QUOTE]}..."
