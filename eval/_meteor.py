"""METEOR 1.5, by its authors' Java program."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from eval._java import JavaProcess, library_folder

__all__ = ["Meteor"]

JAR = "meteor-1.5.jar"
# The answers to this many requests fit into any pipe, so neither side waits for the other to read.
REQUESTS_PER_BATCH = 16
START_SECONDS = 300.0
IMAGES_PER_SECOND = 50  # A twentieth of the usual speed.


class Meteor(JavaProcess):
    """A running METEOR program. It loads its tables for about ten seconds before it answers.

    Args:
        images: Number of images that will be scored.
        time_limit: Seconds after which it is killed; `None` for a generous limit.

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
        """Return the score of the whole set and the score of each caption.

        Args:
            captions: One tokenized caption per image.
            references: The tokenized references of each image.

        Raises:
            JavaError: The program exited, was killed, took too long or gave an invalid answer.
        """
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
        return overall, each

    def _numbers(self, answer: str) -> list[float]:
        with suppress(ValueError):
            if numbers := [float(number) for number in answer.split()]:
                return numbers
        raise self.invalid_answer(answer)


def _batches(requests: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(requests), REQUESTS_PER_BATCH):
        yield requests[start : start + REQUESTS_PER_BATCH]
