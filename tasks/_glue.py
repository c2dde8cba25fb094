"""What the tasks of GLUE have in common.

The official splits keep their names: `train`, `dev` and `test`, whose answers are secret. The LST
paper's splits are `paper_train`, `paper_validation` and `paper_test` (see `tasks._glue_splits`).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval.glue import average_without_each, glue_metrics, metric_names, read_number
from eval.intervals import accuracy_in_context
from eval.metrics import Metric
from eval.statistics.jackknife import pseudo_values
from eval.submissions import require_same_ids
from eval.text import counted
from tasks._arrow import cached_examples
from tasks._examples import Example, ExampleTable
from tasks._files import DataFile, Source, SplitSize
from tasks._glue_files import Columns, Row, line_problem, read_rows
from tasks._glue_labels import Classes, Labels
from tasks._glue_splits import PaperSplit, paper_sizes
from tasks._glue_submission import GlueForm, is_submission
from tasks._results import TEXT_RESULTS
from tasks._task import Head, HubDataset, PrepareFiles, Score, Submission, Task

__all__ = [
    "HOST",
    "GlueFiles",
    "data_files",
    "glue_task",
    "is_labelled",
    "learned_text",
    "readers_of",
]

HOST = "https://dl.fbaipublicfiles.com/glue/data/"
SERVER = "GLUE (https://gluebenchmark.com)"
# The longest answers in tokens of the paper: a space, a digit and the end of the text.
MAX_CLASS_TOKENS = 3
# As in the paper.
BATCH_SIZE = 100

# A correlation is not defined for fewer examples.
MIN_CORRELATED = 2

# What an invalid answer counts as, by metric.
INVALID = {
    "accuracy": "count as wrong",
    "f1": "count in F1 as the opposite of the correct class",
    "matthews": "count as classes of their own",
    "pearson": "count as -1 if they are not numbers",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GlueFiles:
    """The files of the official splits of a task.

    Args:
        files: {official split: its file}.
        labelled: Columns of files with labels.
        unlabelled: Columns of test files.
    """

    files: Mapping[str, DataFile]
    labelled: Columns
    unlabelled: Columns

    def sources(self, data_root: Path, split: str) -> list[Path]:
        """Return the files that a split is read from; they may be missing."""
        file = self.files[split]
        return [file.find(data_root) or data_root / file.path]

    def rows(self, data_root: Path, split: str) -> list[Row]:
        """Read the examples of a split.

        Raises:
            InputError: A file is missing or malformed.
        """
        columns = self.labelled if is_labelled(split) else self.unlabelled
        return read_rows(self.sources(data_root, split)[0], columns)


def is_labelled(split: str) -> bool:
    """Return whether the answers of a split are public."""
    return not split.startswith("test")


def data_files(
    folder: str,
    archive: str,
    *,
    splits: Sequence[str] = ("train", "dev", "test"),
    paper: Mapping[str, PaperSplit],
) -> dict[str, DataFile]:
    """Return {official split: its file} for the splits of an archive.

    Args:
        folder: Official name of the task's folder ("CoLA").
        archive: Name of the archive on the official host.
        splits: The official splits.
        paper: The paper's splits, as parts of the official ones.
    """
    return {
        split: DataFile(
            path=f"glue/{folder}/{split}.tsv",
            splits=readers_of(split, paper),
            source=Source(HOST + archive),
        )
        for split in splits
    }


def readers_of(split: str, paper: Mapping[str, PaperSplit]) -> tuple[str, ...]:
    """Return an official split and the paper's splits that are parts of it."""
    return (split, *(name for name, part in paper.items() if part.official == split))


def glue_task(
    *,
    name: str,
    files: GlueFiles,
    sizes: Mapping[str, SplitSize],
    paper: Mapping[str, PaperSplit],
    text_format: str,
    labels: Labels,
    submission: Mapping[str, str],
    heads: Sequence[Head] = ("generate", "classify"),
    value_range: tuple[float, float] | None = None,
    max_answer_tokens: int = MAX_CLASS_TOKENS,
    prompt_prefix: str | None = None,
    other_files: Sequence[DataFile] = (),
    prepare: PrepareFiles | None = None,
) -> Task:
    """Return a task of GLUE.

    Args:
        name: Name of the task, in `eval.glue` too.
        files: Files of the official splits.
        sizes: Published sizes of the official splits.
        paper: The paper's splits, as parts of the official ones.
        text_format: How the texts of an example form the text of its prompt.
        labels: What its labels are.
        submission: {official test split: official name of its file in a submission}.
        heads: See `Task`.
        value_range: See `Task`.
        max_answer_tokens: See `Task`.
        prompt_prefix: First word of each prompt and a space. Default: the name of the task.
        other_files: Files that are not those of a split.
        prepare: See `Task`.
    """
    splits = _Splits(files, paper, labels)
    rules = _Rules(name, labels)
    form = GlueForm(labels)

    def require_split(split: str) -> None:
        if split not in task.splits:
            raise task.unknown_split(split)

    def read_examples(data_root: Path, split: str) -> ExampleTable:
        require_split(split)

        def examples() -> Iterator[Example]:
            for row, target in splits.targets(data_root, split):
                yield Example(
                    id=row.id,
                    image_ids=(),
                    prompt=text_format.format(*row.texts),
                    targets=() if target is None else ((target, 1.0),),
                )

        return cached_examples(f"{name}-{split}", splits.sources(data_root, split), examples)

    def score(predictions: Mapping[str, str], data_root: Path, split: str) -> Score:
        require_split(split)
        if not is_labelled(split):
            raise task.unlabelled_split(split)
        answers = splits.official_answers(data_root, split)
        require_same_ids(answers, predictions)
        if split not in paper:
            return rules.score(predictions, answers, protocol="glue official")
        result = rules.score(predictions, answers, protocol="glue, splits of the LST paper")
        published = task.sizes[split].examples
        if len(answers) == published:
            return result
        note = (
            f"{split} has {counted(len(answers), 'example')}, not the published {published:,}, so "
            "they are not those of the paper."
        )
        return replace(result, notes=(*result.notes, note))

    task = Task(
        name=name,
        prompt_prefix=f"{name} " if prompt_prefix is None else prompt_prefix,
        splits=(*files.files, *paper),
        heads=heads,
        read_examples=read_examples,
        score=score,
        score_answers=rules.score,
        read_predictions=form.read_predictions,
        is_predictions_file=is_submission,
        write_predictions=TEXT_RESULTS.write,
        metric=Metric("average", factor=1.0),
        answer_words=tuple(labels.words) if isinstance(labels, Classes) else None,
        answer_meanings=labels.meanings if isinstance(labels, Classes) else {},
        value_range=value_range,
        files=(*files.files.values(), *other_files),
        sizes={**sizes, **paper_sizes(paper, sizes)},
        submission=Submission(
            server=SERVER,
            splits=tuple(submission),
            file_name="{split}.tsv",
            split_names=submission,
            form=form,
            suite="glue",
        ),
        hub_dataset=HubDataset("nyu-mll/glue", f"GLUE {name}", name),
        hub_task="text-classification",
        prepare=prepare,
        images_per_example=0,
        text_format=text_format,
        batch_size=BATCH_SIZE,
        loss_average="tokens",
        max_answer_tokens=max_answer_tokens,
    )
    return task


def learned_text(labels: Labels, path: Path, row: Row) -> str | None:
    """Return the text that models learn for the label of a row; `None` if labels are not read.

    Args:
        labels: Labels of the task.
        path: The file of the row, for messages.
        row: The row.

    Raises:
        FileFormatError: It is not a label of the task.
    """
    if row.label is None:
        return None
    text = labels.target(row.label)
    if text is None:
        raise line_problem(
            path, row.line, f"has the label {row.label!r:.40}; expected {labels.described}"
        )
    return text


@dataclass(frozen=True, slots=True)
class _Splits:
    """The official splits of a task and those of the paper.

    Args:
        files: Files of the official splits.
        paper: The paper's splits, as parts of the official ones.
        labels: What the labels are.
    """

    files: GlueFiles
    paper: Mapping[str, PaperSplit]
    labels: Labels

    def sources(self, data_root: Path, split: str) -> list[Path]:
        return self.files.sources(data_root, self._part(split).official)

    def targets(self, data_root: Path, split: str) -> Iterator[tuple[Row, str | None]]:
        """Yield each example of a split, and the text that models learn for it, if any."""
        path = self.sources(data_root, split)[0]
        for row in self._rows(data_root, split):
            yield row, learned_text(self.labels, path, row)

    def official_answers(self, data_root: Path, split: str) -> dict[str, str]:
        """Return {ID: text to compare predictions with}.

        The paper compares with the texts that models learn, GLUE with the labels of the file.
        """
        answers = {}
        for row, target in self.targets(data_root, split):
            assert row.label is not None, "the split has labels"
            assert target is not None, "the split has labels"
            answers[row.id] = target if split in self.paper else self.labels.official(row.label)
        return answers

    def _part(self, split: str) -> PaperSplit:
        return self.paper.get(split, PaperSplit(split))

    def _rows(self, data_root: Path, split: str) -> Sequence[Row]:
        part = self._part(split)
        return part.select(self.files.rows(data_root, part.official))


@dataclass(frozen=True, slots=True)
class _Rules:
    """The scores of a task.

    Args:
        name: Name of the task.
        labels: What the labels are.
    """

    name: str
    labels: Labels

    def score(
        self, predictions: Mapping[str, str], answers: Mapping[str, str], *, protocol: str
    ) -> Score:
        """Score predictions by the official metrics; there is one for each answer."""
        given = [predictions[id_] for id_ in answers]
        correct = list(answers.values())
        official = glue_metrics(self.name, given, correct)
        average = official["average"]
        metrics: dict[str, object] = dict(official)
        shares = list(map(self.labels.share, given, correct))
        if "accuracy" in metrics:
            is_right = [share == 1 for share in shares]
            metrics |= accuracy_in_context(is_right, correct, scale=100.0)
        return Score(
            metrics=metrics,
            examples=len(answers),
            per_example={id_: 100 * share for id_, share in zip(answers, shares, strict=True)},
            protocol=protocol,
            notes=self._notes(given),
            averaged=self._averaged(answers, given, correct, average),
        )

    def _averaged(
        self, ids: Iterable[str], given: Sequence[str], correct: Sequence[str], average: float
    ) -> Mapping[str, float] | None:
        """Return the jackknife's pseudo-values, by example, of metrics that are not means."""
        if metric_names(self.name) == ("accuracy",) or len(given) <= MIN_CORRELATED:
            return None
        without_each = average_without_each(self.name, given, correct)
        return dict(zip(ids, pseudo_values(average, without_each), strict=True))

    def _notes(self, given: Sequence[str]) -> Sequence[str]:
        metrics = metric_names(self.name)
        numbers = [read_number(text.strip()) for text in given] if "pearson" in metrics else []
        num_nan, num_infinite = (sum(map(test, numbers)) for test in (math.isnan, math.isinf))
        invalid = sum(not self.labels.is_valid(text) for text in given) - num_nan - num_infinite
        notes = []
        if invalid:
            effects = [INVALID[name] for name in metrics if name in INVALID]
            notes.append(
                f"{invalid:,} of {len(given):,} predictions are not {self.labels.answers}: they "
                f"{' and '.join(effects)}."
            )
        if num_nan:
            notes.append(f"{_predictions_are(num_nan)} 'nan', so both correlations are 0.")
        elif num_infinite:
            notes.append(f"{_predictions_are(num_infinite)} infinite, so Pearson is 0.")
        return tuple(notes)


def _predictions_are(number: int) -> str:
    return f"{number:,} prediction{' is' if number == 1 else 's are'}"
