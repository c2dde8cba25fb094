"""What a task is: the contract every file in this package fills."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from eval.errors import InputError
from tasks._calls import PARAMETERS, CheckedCall
from tasks._files import DataFile, SplitSize

__all__ = [
    "AnswerKind",
    "Example",
    "ExampleTable",
    "Head",
    "Prepared",
    "Score",
    "Submission",
    "Task",
]

Head = Literal["classify", "generate"]
# More than any official question or statement has. A batch is padded to its longest prompt, so this
# bounds the memory that a single long one can cost: about four times that of usual questions.
MAX_PROMPT_TOKENS = 128
# Several people's answers to one question, the one right answer, or several texts to compare with.
AnswerKind = Literal["people", "label", "references"]


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
        examples: How many examples were scored.
        per_example: The primary metric of each example, keyed by example id; empty where it is
            `None`.
        protocol: Which official rules were followed ("vqa_v2 official").
        reasons: Why each metric that is `None` could not be computed, and how to get it.
        notes: Further sentences about the predictions.
    """

    metrics: Mapping[str, object]
    examples: int
    per_example: Mapping[str, float]
    protocol: str
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What the public test server of a task takes.

    Args:
        server: Who takes it, and where.
        splits: The splits it takes predictions of.
        file_name: The official name of the file of one split; "{split}" and "{name}" stand for the
            split and for what the method is called.
        archive_name: The zip archive that must hold a file of each of `splits`, with "{name}" too;
            `None` where each file is handed in alone.
    """

    server: str
    splits: Sequence[str]
    file_name: str
    archive_name: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of one derived file.

    Args:
        path: The file.
        written: Whether it was made now; if not, it was there.
        note: What is in it, and how that compares with the published one.
    """

    path: Path
    written: bool
    note: str


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


class RequireEvaluator(Protocol):
    def __call__(self) -> None: ...


class PrepareFiles(Protocol):
    def __call__(
        self, data_root: Path, *, min_count: int | None, overwrite: bool
    ) -> Iterator[Prepared]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Everything that distinguishes one task from another.

    Its functions also take paths as texts, and refuse predictions other than {example id: answer}.

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
        primary_factor: What the primary metric is multiplied by before a mean is taken over tasks:
            1 where it is a percentage, 100 where it is a share of one or CIDEr.
        require_evaluator: Raises an `InputError` where the primary metric cannot be computed on
            this machine; `None` where it can on any.
        score_strictly: (predictions file, data_root, split) -> what the official script says of the
            file, silent misreadings included; `None` where `score` never differs from it.
        answer_list: The official file of the answer vocabulary below the data root, or `None`.
        answer_words: All answers there are, where there are only a few.
        min_answer_count: Training examples an answer needs to enter an answer list that is counted
            from them, unless a recipe says otherwise; 1 leaves no answer out.
        answers_are: What the answers of one example in a user's own file are.
        files: The files below the data root.
        sizes: The published size of each split.
        submission: What the public test server takes.
        prepare: (data_root, least count of a listed answer, or `None` for the usual one, whether
            to replace what is there) -> what was made of the official files.
        predictions_suffix: How the names of predictions files end, as their content is.
        images_per_example: Two for NLVR2, one elsewhere.
        takes_text: Whether people say something about the image, which follows the prefix.
        batch_share: Examples a step among several tasks, as a share of VQA's (the paper's code).
        loss_average: Over "examples" (each the mean of its tokens) or over "tokens" (captions).
        max_prompt_tokens: Prompts are cut to this many tokens, prefix and end-of-sequence included,
            unless a recipe says otherwise (the paper's code cuts to 20).
        max_answer_tokens: Targets are cut to this many tokens, end-of-sequence included, and
            generation stops there, unless a recipe says otherwise.
        beams: Of the search for answers, as the paper's code sets it; 1 is greedy.
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
    primary_factor: float = 1.0
    require_evaluator: RequireEvaluator | None = None
    score_strictly: ScoreFile | None = None
    answer_list: str | None = None
    answer_words: Sequence[str] | None = None
    min_answer_count: int = 1
    answers_are: AnswerKind = "label"
    files: Sequence[DataFile] = ()
    sizes: Mapping[str, SplitSize] = field(default_factory=dict)
    submission: Submission | None = None
    prepare: PrepareFiles | None = None
    predictions_suffix: str = ".json"
    images_per_example: int = 1
    takes_text: bool = True
    batch_share: float = 1.0
    loss_average: Literal["examples", "tokens"] = "examples"
    max_prompt_tokens: int = MAX_PROMPT_TOKENS
    max_answer_tokens: int = 10
    beams: int = 1

    def __post_init__(self) -> None:
        """Wrap the task's functions so that their arguments are checked."""
        for name, parameters in PARAMETERS.items():
            function = getattr(self, name)
            if function is not None and not isinstance(function, CheckedCall):
                object.__setattr__(self, name, CheckedCall(function, parameters))

    def unknown_split(self, split: str) -> InputError:
        """Return the error about a split the task does not have."""
        return InputError(
            f"{self.name} has no split {split!r}; there are: {', '.join(self.splits)}"
        )

    def unlabelled_split(self, split: str) -> InputError:
        """Return the error about scoring a split whose answers only the test server knows."""
        return InputError(
            f"the right answers of {self.name} {split} are not public: submit the predictions to "
            "the official server, or score a split with answers"
        )
