"""The definition of a task: the contract that each task file of this package fulfils."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from eval.errors import InputError
from eval.metrics import Metric
from eval.text import unknown_name
from tasks._arguments import PARAMETERS, CheckedCall
from tasks._examples import Example, ExampleTable
from tasks._files import DataFile, SplitSize

__all__ = ["AnswerKind", "Head", "HubDataset", "Prepared", "Score", "Submission", "Task"]

Head = Literal["classify", "generate", "regress"]
# Longer than any official question or statement. A batch is padded to its longest prompt, so this
# bounds the memory that a single long prompt can cost: about four times that of usual questions.
MAX_PROMPT_TOKENS = 128
# Several people's answers to one question, a single correct answer, or several reference texts.
AnswerKind = Literal["people", "label", "references"]


@dataclass(frozen=True, slots=True)
class Score:
    """The result of an official evaluation.

    Args:
        metrics: Metrics by their official names in snake case, on the official script's scale;
            `None` for metrics that the given files do not allow.
        examples: Number of scored examples.
        per_example: Primary metric of each example, by example ID; empty if the metric is `None`.
        protocol: Name of the official rules that were followed ("vqa_v2 official").
        reasons: Why each metric that is `None` could not be computed, and how to get it.
        notes: Remarks about the predictions, one sentence each.
        averaged: What the primary metric is the mean of, by example ID, if that is not
            `per_example`: the examples that count, or the jackknife's pseudo-values of a metric
            that is not a mean; see `eval.statistics.jackknife`.
    """

    metrics: Mapping[str, object]
    examples: int
    per_example: Mapping[str, float]
    protocol: str
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    averaged: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """The submission format of a task's public test server.

    Args:
        server: Name and address of the server.
        splits: Splits it accepts predictions for.
        file_name: Official file name for one split, in which "{split}" and "{name}" stand for the
            split and the name of the method.
        archive_name: Name of the zip archive with one file for each of `splits`, in which
            "{name}" stands for the name of the method; `None` if files are submitted alone.
        split_names: What "{split}" stands for in the names of files, for splits that the server
            calls otherwise.
        form: Format of the files; `None` if it is that of predictions files.
        suite: Suite of tasks whose files the server takes in one archive; `None` if it takes the
            files of this task.
    """

    server: str
    splits: Sequence[str]
    file_name: str
    archive_name: str | None = None
    split_names: Mapping[str, str] = field(default_factory=dict)
    form: "SubmissionForm | None" = None
    suite: str | None = None

    def file_of(self, split: str, name: str) -> str:
        """Return the official file name for a split, predicted by the method `name`."""
        return self.file_name.format(split=self.split_names.get(split, split), name=name)


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A task's official examples as a dataset on the Hugging Face Hub, for model cards.

    Args:
        id: OWNER/NAME.
        title: Name of the benchmark.
        config: Configuration of the dataset; `None` if it has one.
    """

    id: str
    title: str
    config: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A derived file.

    Args:
        path: Path of the file.
        written: Whether the file was written now; if not, it already existed.
        note: What it contains, and how that compares with the published file.
    """

    path: Path
    written: bool
    note: str


class ReadExamples(Protocol):
    def __call__(self, data_root: Path, split: str) -> ExampleTable: ...


class ScorePredictions(Protocol):
    def __call__(self, predictions: Mapping[str, str], data_root: Path, split: str) -> Score: ...


class ReadPredictions(Protocol):
    def __call__(self, path: Path) -> dict[str, str]: ...


class WritePredictions(Protocol):
    def __call__(self, predictions: Mapping[str, str], path: Path) -> None: ...


class SubmissionForm(Protocol):
    """A format of submissions that differs from the format of predictions files."""

    @property
    def placeholder(self) -> str:
        """The answer to every example of a task that is not attempted."""
        ...

    def read(self, path: Path) -> dict[str, str]:
        """Read a file as strictly as the server does, as {example ID: answer}."""
        ...

    def write(self, predictions: Mapping[str, str], path: Path) -> Sequence[str]:
        """Write a file, and return remarks about answers that had to be changed."""
        ...


class ScoreAnswers(Protocol):
    def __call__(
        self, predictions: Mapping[str, str], answers: Mapping[str, str], *, protocol: str
    ) -> Score: ...


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

    The functions check their arguments: paths may be strings, and predictions must be
    {example ID: answer}.

    Args:
        name: Name of the task's file.
        prompt_prefix: Prefix of each prompt in the paper's code, with its trailing space
            ("vqa: ").
        splits: Splits that `load` accepts. By default the first is for training and the second
            for validation.
        heads: Heads the task can be trained with; the first is the default.
        read_examples: (data_root, split) -> examples, without prefix and suffix. `load` adds them.
        score: (predictions, data_root, split) -> official scores.
        read_predictions: Reads an official results file as {example ID: answer}.
        write_predictions: Writes such a file in the format of the public test server.
        metric: Primary metric, which selects the best checkpoint.
        require_evaluator: Raises an `InputError` if the primary metric cannot be computed on this
            machine; `None` if it always can.
        is_predictions_file: Returns whether a file is certainly meant to have the official format,
            which `read_predictions` then reads; for formats that resemble those of evaluation
            harnesses.
        score_answers: (predictions, correct answer of each example, name of the rules) -> scores,
            for tasks whose official metrics apply to users' own examples too, and which accept any
            text as a prediction; `None` for other tasks.
        score_strictly: (predictions file, data_root, split) -> scores of the official script,
            including what it silently misreads; `None` if they never differ from `score`.
        answer_list: Path of the official answer list, relative to the data root; `None` if there
            is none.
        answer_words: All possible answers, if there are only a few.
        answer_meanings: What answers stand for, if they do not tell ("0": "entailment").
        value_range: Smallest and largest answer, if answers are numbers that a head can regress.
        min_answer_count: Default for the number of training examples that must have an answer for
            it to enter an answer list; 1 keeps all answers.
        answers_are: What the answers of an example in a user's own file are.
        files: Files below the data root.
        sizes: Published size of each split.
        submission: Submission format of the public test server.
        hub_dataset: The official examples on the Hugging Face Hub; `None` if they are not there.
        hub_task: Identifier of the task on the Hub ("visual-question-answering").
        prepare: (data_root, minimum count of a listed answer or `None` for the default, whether
            to overwrite) -> files derived from the official ones.
        predictions_suffix: File name suffix of predictions files.
        images_per_example: Number of images per example: two for NLVR2, none for tasks of text
            alone.
        takes_text: Whether a prompt has a text after the prefix.
        cluster_of: Returns the cluster of an official example, if it is not its image or its text;
            see `tasks._clusters`.
        text_format: How the texts of an example form that text; each "{}" stands for one of them
            ("sentence1: {} sentence2: {}").
        prompt_suffix: Text after that of each prompt; it is kept if a prompt is truncated.
        zero_shot_prompt: Prompt for a model that was not trained on the task, in which "{}" stands
            for the text, if the task takes one.
        batch_size: Default number of examples per training step, as in the paper's code.
        batch_share: Batch size relative to `batch_size`, or to that of VQA if one number is given
            for all tasks, when several tasks train together (from the paper's code).
        loss_average: Whether the loss averages over "examples" (each the mean of its tokens) or
            over "tokens" (captions).
        max_prompt_tokens: Default for the maximum number of prompt tokens, including prefix and
            special tokens (20 in the paper's code).
        max_answer_tokens: Default for the maximum number of answer tokens, including
            special tokens, in training and generation.
        beams: Number of beams in generation, as in the paper's code; 1 is greedy search.
    """

    name: str
    prompt_prefix: str
    splits: Sequence[str]
    heads: Sequence[Head]
    read_examples: ReadExamples
    score: ScorePredictions
    read_predictions: ReadPredictions
    write_predictions: WritePredictions
    metric: Metric
    require_evaluator: RequireEvaluator | None = None
    is_predictions_file: Callable[[Path], bool] | None = None
    score_answers: ScoreAnswers | None = None
    score_strictly: ScoreFile | None = None
    answer_list: str | None = None
    answer_words: Sequence[str] | None = None
    answer_meanings: Mapping[str, str] = field(default_factory=dict)
    value_range: tuple[float, float] | None = None
    min_answer_count: int = 1
    answers_are: AnswerKind = "label"
    files: Sequence[DataFile] = ()
    sizes: Mapping[str, SplitSize] = field(default_factory=dict)
    submission: Submission | None = None
    hub_dataset: HubDataset | None = None
    hub_task: str = "visual-question-answering"
    prepare: PrepareFiles | None = None
    predictions_suffix: str = ".json"
    images_per_example: int = 1
    takes_text: bool = True
    cluster_of: Callable[[Example], str] | None = None
    text_format: str = "{}"
    prompt_suffix: str = ""
    zero_shot_prompt: str = "{}"
    batch_size: int = 300
    batch_share: float = 1.0
    loss_average: Literal["examples", "tokens"] = "examples"
    max_prompt_tokens: int = MAX_PROMPT_TOKENS
    max_answer_tokens: int = 10
    beams: int = 1

    def __post_init__(self) -> None:
        """Wrap the task's functions so that they check their arguments."""
        for name, parameters in PARAMETERS.items():
            function = getattr(self, name)
            if function is not None and not isinstance(function, CheckedCall):
                object.__setattr__(self, name, CheckedCall(function, parameters))

    @property
    def texts_per_example(self) -> int:
        """The number of texts that an example has besides the task's prefix and suffix."""
        return self.text_format.count("{}") if self.takes_text else 0

    @property
    def is_graded(self) -> bool:
        """Whether answers are right or wrong individually, which captions are not."""
        return self.answers_are != "references"

    @property
    def primary_metric(self) -> str:
        """The name of the primary metric, a key of `Score.metrics`."""
        return self.metric.name

    def load(self, data_root: Path, split: str) -> ExampleTable:
        """Load the examples of a split, with the task's prefix and suffix around each prompt.

        Args:
            data_root: Folder with the annotations.
            split: Name of the split.

        Raises:
            InputError: The task has no such split, or a file is missing or malformed.
        """
        return self.read_examples(data_root, split).with_prompt(
            self.prompt_prefix, self.prompt_suffix
        )

    def unknown_split(self, split: str) -> InputError:
        """Return the error for a split that the task does not have."""
        return InputError(f"{self.name} has {unknown_name('split', split, self.splits)}")

    def unlabelled_split(self, split: str) -> InputError:
        """Return the error for scoring a split whose answers are not public."""
        return InputError(
            f"the correct answers of {self.name} {split} are not public: submit the predictions to "
            "the official server, or score a split with public answers"
        )
