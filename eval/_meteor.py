"""METEOR 1.5, by its authors' Java program."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from eval._java import JavaDialogue, library_folder

__all__ = ["Meteor"]

JAR = "meteor-1.5.jar"
# Answers to so many requests fit into any pipe, so neither side ever waits for the other to read.
REQUESTS_AT_ONCE = 16
START_SECONDS = 300.0
IMAGES_PER_SECOND = 50  # A twentieth of what is usual.


class Meteor(JavaDialogue):
    """The program, started; it reads its tables for some ten seconds before it answers.

    Args:
        images: How many images there will be to score.
        time_limit: Seconds until it is killed; `None` for a generous limit.

    Raises:
        JavaError: There is no Java, or it cannot be started.
    """

    def __init__(self, images: int, *, time_limit: float | None = None) -> None:
        jar = str(library_folder("meteor") / JAR)
        arguments = ["-jar", "-Xmx2G", jar, "-", "-", "-stdio", "-l", "en", "-norm"]
        if time_limit is None:
            time_limit = START_SECONDS + images / IMAGES_PER_SECOND
        super().__init__("METEOR", arguments, time_limit=time_limit)

    def score(
        self, captions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> tuple[float, list[float]]:
        """Return the score of all captions together and that of each.

        Args:
            captions: One tokenised caption per image.
            references: The tokenised references of each image.

        Raises:
            JavaError: The program ended, was killed, took too long or said something else.
        """
        requests = [
            " ||| ".join(["SCORE", *texts, caption.replace("|||", "").replace("  ", " ")])
            for caption, texts in zip(captions, references, strict=True)
        ]
        statistics: list[str] = []
        for batch in _batches(requests):
            statistics += self.ask(batch, answers=len(batch))
        for answer in statistics:
            self._numbers(answer)
        answers = self.ask([" ||| ".join(["EVAL", *statistics])], answers=len(requests) + 1)
        *each, overall = (self._numbers(answer)[0] for answer in answers)
        return overall, each

    def _numbers(self, answer: str) -> list[float]:
        with suppress(ValueError):
            if numbers := [float(number) for number in answer.split()]:
                return numbers
        raise self.misunderstood(answer)


def _batches(requests: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(requests), REQUESTS_AT_ONCE):
        yield requests[start : start + REQUESTS_AT_ONCE]
