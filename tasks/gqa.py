"""GQA: compositional questions about one photograph, with one answer each.

`FILES` lists the files below the data root, under their official names. The splits train, val,
testdev, test and challenge are the balanced ones ("val_balanced" is accepted too); train_all, ...
hold all questions.

A large file may be an official folder of chunks instead: `train_all_questions/` with
`train_all_questions_0.json`, ... If the official file of a split is missing, LXMERT's file is read.
It contains only the answers, so accuracy is the only metric. It is parsed as a whole, while
official files are read one question at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from eval.errors import FileFormatError, InputError
from eval.gqa import TypeAccuracy, score_gqa
from eval.metrics import Metric
from eval.submissions import first_five, require_same_ids
from tasks._answers import prepare_answer_list
from tasks._arrow import cached_examples
from tasks._entries import read_entries
from tasks._examples import Example, ExampleTable
from tasks._files import LXMERT_LISTS, DataFile, Source, SplitSize
from tasks._formatting import FormattingLosses
from tasks._records import Records, field_of, read_records
from tasks._results import ResultsFormat
from tasks._task import HubDataset, Prepared, Score, Submission, Task

__all__ = ["FILES", "SIZES", "TASK"]

Problem = Callable[[str], FileFormatError]

TIERS = ("train", "val", "testdev", "test", "challenge")
SPLITS = (*TIERS, *(f"{tier}_all" for tier in TIERS), "submission_all")
OFFICIAL_NAMES = {f"{tier}_balanced": tier for tier in TIERS}
TIERS_WITH_ANSWERS = frozenset({"train", "val", "testdev"})
LXMERT_FILES = {
    "train": "train.json",
    "val": "valid.json",
    "testdev": "testdev.json",
    "submission_all": "submit.json",
}
ANSWER_LIST = "gqa/trainval_label2ans.json"
# Size of LXMERT's answer list: all answers of the balanced train and val questions.
STANDARD_ANSWERS = 1_842

QUESTIONS = Source("https://downloads.cs.stanford.edu/nlp/data/gqa/questions1.2.zip")
FILES = (
    *(
        DataFile(
            path=f"gqa/{tier}_balanced_questions.json",
            splits=(tier,),
            source=QUESTIONS,
            alternatives=(f"gqa/{LXMERT_FILES[tier]}",) if tier in LXMERT_FILES else (),
        )
        for tier in TIERS
    ),
    *(
        DataFile(
            path=f"gqa/{tier}_all_questions{suffix}",
            splits=(f"{tier}_all",),
            source=QUESTIONS,
            alternatives=(f"gqa/{tier}_all_questions{other_suffix}",),
        )
        for tier in TIERS
        # The official archive has a folder of chunks for train, and a file for the others.
        for suffix, other_suffix in [("/", ".json") if tier == "train" else (".json", "/")]
    ),
    DataFile(
        path="gqa/submission_all_questions.json",
        splits=("submission_all",),
        source=QUESTIONS,
        alternatives=(f"gqa/{LXMERT_FILES['submission_all']}",),
    ),
    *(
        DataFile(
            path=f"gqa/{tier}_choices.json",
            splits=(tier, f"{tier}_all"),
            source=Source("https://downloads.cs.stanford.edu/nlp/data/gqa/eval.zip"),
            alternatives=(f"gqa/{tier}_choices/",),
            optional="validity and plausibility",
        )
        for tier in ("train", "val")
    ),
    DataFile(
        path=ANSWER_LIST,
        splits=("train", "train_all"),
        source=Source(f"{LXMERT_LISTS}{ANSWER_LIST}"),
        optional=f"the standard list of {STANDARD_ANSWERS:,} answers",
    ),
)
SIZES = {
    "train": SplitSize(943_000, 72_140),
    "val": SplitSize(132_062, 10_234),
    "testdev": SplitSize(12_578, 398),
    "test": SplitSize(95_336, 2_987),
    "challenge": SplitSize(50_726, 1_590),
    "train_all": SplitSize(14_305_356),
    "val_all": SplitSize(2_011_853),
    "testdev_all": SplitSize(172_174, 398),
    "test_all": SplitSize(1_340_048),
    "challenge_all": SplitSize(713_449, 1_590),
    "submission_all": SplitSize(4_237_524),
}

INTEGER_ID = (
    "GQA IDs are strings, and many begin with a zero that an integer cannot keep. Keep them as "
    "strings from where the questions are read."
)
METRICS = (
    *("accuracy", "binary", "open", "consistency", "validity", "plausibility", "distribution"),
    *(f"accuracy_per_{kind}" for kind in ("structural_type", "semantic_type", "length", "steps")),
)
NO_ATTENTION = (
    "it compares the attended image regions with the scene graphs, and a predictions file contains "
    "only answers"
)


class _Official:
    """A split in the official format: questions by ID, in one file or in chunks."""

    def __init__(self, folder: Path, split: str) -> None:
        tier, _, rest = split.partition("_")
        self.has_answers = tier in TIERS_WITH_ANSWERS
        # A validation split is scored long after it is loaded, so its errors are raised at once.
        self._is_checked_on_load = self.has_answers and tier != "train"
        self._questions = _whole_or_chunks(folder, f"{tier}_{rest or 'balanced'}_questions")
        self._choices = _whole_or_chunks(folder, f"{tier}_choices")

    def sources(self) -> list[Path]:
        return self._questions

    def examples(self) -> Iterator[Example]:
        entries = self._scorable() if self._is_checked_on_load else self._all()
        for id_, row, problem in entries:
            yield Example(
                id=id_,
                image_ids=(field_of(row, "imageId", str, problem),),
                prompt=field_of(row, "question", str, problem),
                targets=((field_of(row, "answer", str, problem), 1.0),) if self.has_answers else (),
            )

    def score(self, predictions: Mapping[str, str], *, strict_official: bool) -> Score:
        has_choices = all(path.exists() for path in self._choices)
        losses = FormattingLosses()
        scores = score_gqa(
            predictions,
            _counted(((id_, row) for id_, row, _ in self._scorable()), predictions, losses),
            self._listed_choices() if has_choices else None,
            strict_official=strict_official,
        )
        metrics = {name: _metric(getattr(scores, name)) for name in METRICS}
        return Score(
            metrics={**metrics, "grounding": None},
            examples=len(scores.per_question),
            per_example={id_: 100.0 * correct for id_, correct in scores.per_question.items()},
            protocol="gqa official script" if strict_official else "gqa official",
            reasons={**scores.reasons, "grounding": NO_ATTENTION},
            notes=losses.notes(),
            averaged={
                id_: 100.0 * correct for id_, correct in scores.per_balanced_question.items()
            },
        )

    def _all(self) -> Iterator[tuple[str, Any, Problem]]:
        return _entries(self._questions, "the official GQA questions")

    def _scorable(self) -> Iterator[tuple[str, Any, Problem]]:
        for id_, row, problem in self._all():
            field_of(row, "answer", str, problem)
            if field_of(row, "isBalanced", bool, problem):
                _require_scorable(row, problem)
            yield id_, row, problem

    def _listed_choices(self) -> Iterator[tuple[str, Mapping[str, Sequence[str]]]]:
        for id_, row, problem in _entries(self._choices, "the official GQA choices"):
            field_of(row, "valid", list, problem)
            field_of(row, "plausible", list, problem)
            yield id_, row


class _Lxmert:
    """A split in the format of LXMERT and VL-T5: a list of questions with image and answer."""

    def __init__(self, folder: Path, split: str) -> None:
        self.has_answers = split in TIERS_WITH_ANSWERS
        self._file = folder / LXMERT_FILES[split]
        self._official = f"{split}_balanced_questions.json"

    def sources(self) -> list[Path]:
        return [self._file]

    def examples(self) -> Iterator[Example]:
        records = self._records()
        for position, id_ in enumerate(_lxmert_ids(records)):
            yield Example(
                id=id_,
                image_ids=(records.field(position, "img_id", str),),
                prompt=records.field(position, "sent", str),
                targets=((_only_answer(records, position), 1.0),) if self.has_answers else (),
            )

    def score(self, predictions: Mapping[str, str], *, strict_official: bool) -> Score:
        if strict_official:
            raise InputError(
                f"the official script cannot read {self._file}; add the official {self._official}"
            )
        records = self._records()
        ids = _lxmert_ids(records)
        require_same_ids(ids, predictions)
        gold = {id_: _only_answer(records, position) for position, id_ in enumerate(ids)}
        correct = {id_: predictions[id_] == answer for id_, answer in gold.items()}
        losses = FormattingLosses()
        for id_, answer in gold.items():
            losses.add(predictions[id_], [answer])
        nothing: dict[str, object] = dict.fromkeys((*METRICS, "grounding"))
        reason = f"LXMERT's {self._file.name} has only answers; add the official {self._official}"
        return Score(
            metrics={**nothing, "accuracy": sum(correct.values()) / len(correct) * 100},
            examples=len(correct),
            per_example={id_: 100.0 * each for id_, each in correct.items()},
            protocol="gqa official, answers of LXMERT's file",
            reasons={name: reason for name in nothing if name != "accuracy"}
            | {"grounding": NO_ATTENTION},
            notes=losses.notes(),
        )

    def _records(self) -> Records:
        records = read_records(self._file, expected="the questions in LXMERT's format")
        if not len(records):
            raise FileFormatError(f"{self._file} contains no questions; expected at least one")
        return records


def _split(data_root: Path, split: str) -> _Official | _Lxmert:
    folder = data_root / "gqa"
    name = OFFICIAL_NAMES.get(split, split)
    if name not in SPLITS:
        raise TASK.unknown_split(split)
    official = _Official(folder, name)
    if name in LXMERT_FILES and not official.sources()[0].exists():
        lxmert = _Lxmert(folder, name)
        if lxmert.sources()[0].exists():
            return lxmert
    return official


def _counted(
    questions: Iterator[tuple[str, Any]], predictions: Mapping[str, str], losses: FormattingLosses
) -> Iterator[tuple[str, Any]]:
    """Yield the questions, counting the formatting losses of the balanced ones."""
    for id_, row in questions:
        if id_ in predictions and row["isBalanced"]:
            losses.add(predictions[id_], [row["answer"]])
        yield id_, row


def _whole_or_chunks(folder: Path, stem: str) -> list[Path]:
    whole = folder / f"{stem}.json"
    count = len(list((folder / stem).glob(f"{stem}_*.json")))
    if whole.exists() or not count:
        return [whole]
    chunks = [folder / stem / f"{stem}_{number}.json" for number in range(count)]
    if absent := [chunk.name for chunk in chunks if not chunk.exists()]:
        raise InputError(
            f"{folder / stem} contains {count} chunks but not {first_five(absent)}; expected "
            "chunks numbered from 0 without gaps. Get the missing ones from the data set's site."
        )
    return chunks


def _entries(paths: Sequence[Path], expected: str) -> Iterator[tuple[str, Any, Problem]]:
    seen: set[str] = set()
    for path in paths:
        for id_, row in read_entries(path, expected=expected):
            problem = partial(_problem, path, id_)
            if id_ in seen:
                raise problem("occurs more than once; expected each ID once")
            seen.add(id_)
            yield id_, row, problem
    if not seen:
        raise FileFormatError(f"{paths[0]} contains no entries; expected {expected}")


def _problem(path: Path, id_: str, message: str) -> FileFormatError:
    return FileFormatError(f"{path}: the entry {id_!r:.60} {message}")


def _require_scorable(row: Any, problem: Problem) -> None:
    field_of(row, "question", str, problem)
    types = field_of(row, "types", dict, problem)
    for name in ("structural", "semantic", "detailed"):
        field_of(types, name, str, problem)
    groups = field_of(row, "groups", dict, problem)
    if not isinstance(groups.get("global", 0), str | None):
        raise problem(f"has the groups {groups!r:.80}; expected 'global', a string or null")
    if set(map(type, field_of(row, "entailed", list, problem))) - {str}:
        raise problem("has an 'entailed' that is no list of string IDs. " + INTEGER_ID)
    for operation in field_of(row, "semantic", list, problem):
        field_of(operation, "operation", str, problem)
        field_of(operation, "argument", str, problem)


def _text_id(name: str, records: Records, position: int) -> str:
    row = records.rows[position]
    if isinstance(row, dict) and type(row.get(name)) is int:
        raise records.problem(position, f"has {name} {row[name]}, an integer. {INTEGER_ID}")
    return records.field(position, name, str)


RESULTS = ResultsFormat(
    id_field="questionId",
    answer_field="prediction",
    sample='[{"questionId": "0042", "prediction": "yes"}]',
    id_kind=str,
    read_id=partial(_text_id, "questionId"),
)


def _lxmert_ids(records: Records) -> list[str]:
    ids = [_text_id("question_id", records, position) for position in range(len(records))]
    records.require_distinct("question_id", ids)
    return ids


def _only_answer(records: Records, position: int) -> str:
    label = records.field(position, "label", dict)
    if len(label) != 1:
        raise records.problem(position, f"has {len(label)} answers in 'label'; expected one")
    (answer,) = label
    return str(answer)


def _metric(value: float | Mapping[object, TypeAccuracy] | None) -> object:
    if not isinstance(value, Mapping):
        return value
    return {str(kind): asdict(each) for kind, each in value.items()}


def _read_examples(data_root: Path, split: str) -> ExampleTable:
    source = _split(data_root, split)
    return cached_examples(f"gqa-{split}", source.sources(), source.examples)


def _score(
    predictions: Mapping[str, str], data_root: Path, split: str, *, strict_official: bool = False
) -> Score:
    source = _split(data_root, split)
    if not source.has_answers:
        raise TASK.unlabelled_split(split)
    return source.score(predictions, strict_official=strict_official)


def _score_strictly(path: Path, data_root: Path, split: str) -> Score:
    predictions = RESULTS.read(path, last_wins=True)
    return _score(predictions, data_root, split, strict_official=True)


def _prepare(data_root: Path, *, min_count: int | None, overwrite: bool) -> Iterator[Prepared]:
    yield prepare_answer_list(
        TASK,
        data_root,
        splits=("train", "val"),
        min_count=min_count,
        standard_size=STANDARD_ANSWERS,
        overwrite=overwrite,
    )


TASK = Task(
    name="gqa",
    prompt_prefix="gqa: ",
    splits=SPLITS,
    heads=("classify", "generate"),
    read_examples=_read_examples,
    score=_score,
    read_predictions=RESULTS.read,
    write_predictions=RESULTS.write,
    score_strictly=_score_strictly,
    metric=Metric("accuracy", factor=1.0),
    batch_share=100 / 60,
    # Of the encoder-decoders in BLIP-2 (arXiv 2301.12597, section 4.1).
    zero_shot_prompt="Question: {} Short answer:",
    answer_list=ANSWER_LIST,
    min_answer_count=1,  # LXMERT's list contains every answer.
    files=FILES,
    sizes=SIZES,
    submission=Submission(
        server="EvalAI (https://cs.stanford.edu/people/dorarad/gqa/evaluate.html)",
        splits=("submission_all",),
        file_name="{split}_{name}_predictions.json",
    ),
    hub_dataset=HubDataset("lmms-lab/GQA", "GQA"),
    prepare=_prepare,
)
