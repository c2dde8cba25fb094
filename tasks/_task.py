"""What a task is: the contract every file in this package fills."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

__all__ = ["Example", "ExampleTable", "Head", "Score", "Task"]

Head = Literal["classify", "generate"]


@dataclass(frozen=True, slots=True)
class Example:
    """One question to the model.

    Args:
        id: Official id as text; predictions are joined on it.
        image_ids: Ids in the feature store: two for NLVR2, one elsewhere.
        prompt: The text for the encoder, task prefix included ("vqa: what is this?").
        targets: (answer, weight in [0, 1]) pairs; empty where the split has no labels or no
            answer of the example can be scored.
    """

    id: str
    image_ids: tuple[str, ...]
    prompt: str
    targets: tuple[tuple[str, float], ...]


class ExampleTable(Protocol):
    """The examples of one split, in the order of the official file, memory-mapped (Arrow)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def __iter__(self) -> Iterator[Example]: ...

    def ids(self) -> list[str]:
        """Ids of all examples, in order."""
        ...

    def image_ids(self) -> list[str]:
        """Distinct ids of the images the examples refer to, in order of first use."""
        ...


@dataclass(frozen=True, slots=True)
class Score:
    """What an official evaluator says of predictions.

    Args:
        metrics: Official names in snake case, on the official script's own scale; `None` where
            the given files do not allow the metric.
        per_example: The primary metric of each example, keyed by example id.
        protocol: Which official rules were followed ("vqa_v2 official").
        reasons: Why each metric that is `None` could not be computed, and how to get it.
    """

    metrics: Mapping[str, object]
    per_example: Mapping[str, float]
    protocol: str
    reasons: Mapping[str, str] = field(default_factory=dict)


class LoadSplit(Protocol):
    def __call__(self, data_root: Path, split: str) -> ExampleTable: ...


class ScorePredictions(Protocol):
    def __call__(self, predictions: Mapping[str, str], data_root: Path, split: str) -> Score: ...


class ReadPredictions(Protocol):
    def __call__(self, path: Path) -> dict[str, str]: ...


class WritePredictions(Protocol):
    def __call__(self, predictions: Mapping[str, str], path: Path) -> None: ...


class ScoreFile(Protocol):
    def __call__(self, path: Path, data_root: Path, split: str) -> Score: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Everything that distinguishes one task from another.

    Args:
        name: The name of the task's file.
        prompt_prefix: What the paper's code puts before the text, with its space ("vqa: ").
        splits: The splits `load` knows; the first trains, the second validates.
        heads: Heads the task can be trained with; the first is the default.
        load: (data_root, split) -> examples.
        score: (predictions, data_root, split) -> official scores.
        read_predictions: Read an official results file as {example id: answer}.
        write_predictions: Write that file, as the public server takes it.
        primary_metric: The entry of `Score.metrics` that chooses the best checkpoint.
        score_strictly: (predictions file, data_root, split) -> what the official script says of the
            file, silent misreadings included; `None` where `score` never differs from it.
        answer_list: The official file of the answer vocabulary below the data root, or `None`.
        images_per_example: Two for NLVR2, one elsewhere.
        loss_average: Over "examples" (each the mean of its tokens) or over "tokens" (captions).
        max_prompt_tokens: Prompts are cut to this many tokens, end-of-sequence included.
        max_answer_tokens: Targets are cut, and generation stops, at this many tokens.
    """

    name: str
    prompt_prefix: str
    splits: Sequence[str]
    heads: Sequence[Head]
    load: LoadSplit
    score: ScorePredictions
    read_predictions: ReadPredictions
    write_predictions: WritePredictions
    primary_metric: str
    score_strictly: ScoreFile | None = None
    answer_list: str | None = None
    images_per_example: int = 1
    loss_average: Literal["examples", "tokens"] = "examples"
    max_prompt_tokens: int = 20
    max_answer_tokens: int = 10
