"""All examples of scored splits and the answers of runs, as data that the page's script reads.

The examples of a split are stored once, however many runs answered them; each run adds its
predictions and scores. A block is JSON, compressed with gzip and encoded as base64, so that it can
be part of an HTML page or of a script.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.leaderboard.runs import Run
from eval.text import escape_controls

__all__ = ["ExampleData", "RunAnswers", "SplitExamples", "pack"]

# Compressing harder takes several times longer and saves 2 %.
COMPRESSION_LEVEL = 6
# As many digits as the page shows.
SCORE_DIGITS = 2


@dataclass(frozen=True, slots=True)
class SplitExamples:
    """The examples of one task and split, in the order of the official file.

    Args:
        task: Task name.
        split: Split name.
        ids: Official ID of each example.
        prompts: Prompt of each example without the task's prefix.
        references: Correct answers of each example, best first.
        image_ids: IDs of the images of each example.
        is_graded: Whether answers are right or wrong individually, which captions are not.
    """

    task: str
    split: str
    ids: Sequence[str]
    prompts: Sequence[str]
    references: Sequence[Sequence[str]]
    image_ids: Sequence[Sequence[str]]
    is_graded: bool

    def pack(self) -> str:
        """Return the block of the examples; each distinct list of answers is stored once."""
        images = {id_: None for ids in self.image_ids for id_ in ids}
        position = {id_: index for index, id_ in enumerate(images)}
        answers: dict[tuple[str, ...], int] = {}
        references = [answers.setdefault(tuple(each), len(answers)) for each in self.references]
        return pack(
            {
                "task": self.task,
                "split": self.split,
                "is_graded": self.is_graded,
                "ids": self.ids,
                "prompts": self.prompts,
                "answers": list(answers),
                "references": references,
                "image_ids": list(images),
                "images": [[position[id_] for id_ in ids] for ids in self.image_ids],
            }
        )


@dataclass(frozen=True, slots=True)
class RunAnswers:
    """What one run answers to the examples of a split, in their order.

    Args:
        predictions: Predictions.
        percents: Score of each example in percent; `None` if it is unknown.
    """

    predictions: Sequence[str]
    percents: Sequence[float | None]

    def pack(self) -> str:
        """Return the block of the answers."""
        return pack(
            {
                "predictions": self.predictions,
                "scores": [each if each is None else _short(each) for each in self.percents],
            }
        )


@dataclass(slots=True)
class ExampleData:
    """Blocks of examples and answers, up to a size.

    Args:
        max_chars: Maximum size of all blocks together; `None` sets no limit. What comes first has
            priority: after the first block that does not fit, there are no more.
        blocks: Block by its key.
        answers: Keys of the blocks of the examples and of the answers, by run and task.
        left_out: Number of sets of answers that did not fit.
        image_ids: Images of the examples, in the order of use.
    """

    max_chars: int | None = None
    blocks: dict[str, str] = field(default_factory=dict)
    answers: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    left_out: int = 0
    image_ids: dict[str, None] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Characters of all blocks."""
        return sum(map(len, self.blocks.values()))

    def add(self, run: Run, examples: SplitExamples, packed: str, answers: RunAnswers) -> bool:
        """Add the answers of a run to a split, and the examples if they are new.

        Args:
            run: The run.
            examples: Examples of the split.
            packed: Their block.
            answers: Answers of the run.

        Returns:
            Whether they fit.
        """
        key = f"examples-{_digest(packed)}"
        block = answers.pack()
        new = {key: packed, f"answers-{_digest(key + block)}": block}
        added = sum(len(text) for name, text in new.items() if name not in self.blocks)
        is_full = self.max_chars is not None and self.size + added > self.max_chars
        if self.left_out or is_full:
            self.left_out += 1
            return False
        self.blocks |= new
        first, second = new
        self.answers[run.name, examples.task] = (first, second)
        self.image_ids |= dict.fromkeys(id_ for ids in examples.image_ids for id_ in ids)
        return True


def pack(value: object) -> str:
    """Return a value as compressed JSON in base64, with control characters in texts escaped."""
    content = json.dumps(_escaped(value), ensure_ascii=False, separators=(",", ":"))
    # A prediction may hold a lone surrogate, which UTF-8 cannot encode. A time of 0 makes the same
    # content the same bytes.
    compressed = gzip.compress(content.encode("utf-8", "replace"), COMPRESSION_LEVEL, mtime=0)
    return base64.b64encode(compressed).decode()


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return escape_controls(value)
    if isinstance(value, Mapping):
        return {escape_controls(key): _escaped(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(each) for each in value]
    return value


def _short(percent: float) -> float | int:
    rounded = round(percent, SCORE_DIGITS)
    return int(rounded) if rounded == int(rounded) else rounded


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
