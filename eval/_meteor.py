"""METEOR 1.5, by its authors' Java program."""

import atexit
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from eval._java import JavaProcess, find_java, library_folder

__all__ = ["Meteor", "close_kept_meteor", "running_meteor"]

JAR = "meteor-1.5.jar"
# The answers to this many requests fit into any pipe, so neither side waits for the other to read.
REQUESTS_PER_BATCH = 16
START_SECONDS = 300.0
IMAGES_PER_SECOND = 50  # A twentieth of the usual speed.
# The tables take 0.6 GB. Waiting longer for the next set of captions would save less than a
# fiftieth of the time between two sets, which is what loading the tables again takes.
MAX_IDLE_SECONDS = 600.0


class Meteor(JavaProcess):
    """A running METEOR program. It loads its tables for about ten seconds before it answers.

    Args:
        command: Command line; see `_meteor_command`.

    Raises:
        JavaError: Java cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__("METEOR", command)
        # Requests and answers do not match after an exception between them.
        self._is_in_step = True

    @property
    def is_usable(self) -> bool:
        """Whether the program can score another set of captions."""
        return self._is_in_step and self.is_running

    def score(
        self, captions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> tuple[float, list[float]]:
        """Return the score of the whole set and the score of each caption.

        Args:
            captions: One tokenized caption per image.
            references: The tokenized references of each image.

        Raises:
            JavaError: The program exited, was killed, took too long or gave an invalid answer.
        """
        self._is_in_step = False
        requests = [
            " ||| ".join(["SCORE", *texts, caption.replace("|||", "").replace("  ", " ")])
            for caption, texts in zip(captions, references, strict=True)
        ]
        statistics: list[str] = []
        for batch in _batches(requests):
            statistics += self.request(batch, num_answers=len(batch))
        for answer in statistics:
            self._numbers(answer)
        evaluation = " ||| ".join(["EVAL", *statistics])
        answers = self.request([evaluation], num_answers=len(requests) + 1)
        *each, overall = (self._numbers(answer)[0] for answer in answers)
        self._is_in_step = True
        return overall, each

    def _numbers(self, answer: str) -> list[float]:
        with suppress(ValueError):
            if numbers := [float(number) for number in answer.split()]:
                return numbers
        raise self.invalid_answer(answer)


class _Keeper:
    """Keeps at most one program that no one uses, for the next user; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._program: Meteor | None = None
        self._timer: threading.Timer | None = None

    def take(self) -> Meteor | None:
        """Return the kept program, which then belongs to the caller, if there is one."""
        with self._lock:
            program, self._program = self._program, None
            if self._timer is not None:
                self._timer.cancel()
            return program

    def keep(self, program: Meteor) -> None:
        """Keep a program for a limited time; close it if another is kept already."""
        with self._lock:
            if self._program is None:
                self._program = program
                self._timer = threading.Timer(MAX_IDLE_SECONDS, self.close)
                self._timer.daemon = True
                self._timer.start()
                return
        program.close()

    def close(self) -> None:
        """Close the kept program, if there is one."""
        if (program := self.take()) is not None:
            program.close()

    def forget(self) -> None:
        """Leave the kept program to the parent, in a forked process."""
        # Another thread of the parent may have held the lock.
        self._lock = threading.Lock()
        if self._program is not None:
            self._program.abandon()
        self._program = self._timer = None


_keeper = _Keeper()
atexit.register(_keeper.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keeper.forget)


@contextmanager
def running_meteor(images: int, *, time_limit: float | None = None) -> Iterator[Meteor]:
    """Yield a METEOR program to score one set of captions, and keep it for the next block.

    The program is closed instead if something went wrong in it, if no block follows within ten
    minutes, and when Python exits.

    Args:
        images: Number of images that will be scored.
        time_limit: Seconds after which the program is killed; `None` for a generous limit.

    Raises:
        JavaError: There is no Java, or it cannot be started.
    """
    command = _meteor_command()
    program = _keeper.take()
    if program is not None and not (program.is_usable and program.command == command):
        program.close()
        program = None
    if program is None:
        program = Meteor(command)
    if time_limit is None:
        time_limit = START_SECONDS + images / IMAGES_PER_SECOND
    try:
        with program.limited_to(time_limit):
            yield program
    finally:
        if program.is_usable:
            _keeper.keep(program)
        else:
            program.close()


def close_kept_meteor() -> None:
    """Close the program that is kept for the next set of captions, if there is one."""
    _keeper.close()


def _meteor_command() -> list[str]:
    """Return the official command line, with the garbage collector that needs half the memory."""
    jar = str(library_folder("meteor") / JAR)
    options = ["-XX:+UseSerialGC", "-Xmx2G", "-jar", jar]
    return [find_java(), *options, "-", "-", "-stdio", "-l", "en", "-norm"]


def _batches(requests: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(requests), REQUESTS_PER_BATCH):
        yield requests[start : start + REQUESTS_PER_BATCH]
