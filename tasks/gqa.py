"""GQA: compositional questions about one photograph, one answer each.

Below the data root lie, under their official names:

    gqa/{train,val,testdev,test,challenge}_balanced_questions.json    splits train, val, ...
    gqa/{train,val,testdev,test,challenge}_all_questions.json         splits train_all, val_all, ...
    gqa/submission_all_questions.json                                 split submission_all
    gqa/{train,val}_choices.json                                      optional
    gqa/trainval_label2ans.json                                       1,842 answers, optional

Instead of `train_all_questions.json` there may be the official folder `train_all_questions/` with
its chunks `train_all_questions_0.json`, ...; so with all questions and choices. The official names
of the balanced splits ("val_balanced") are understood too.

Where the official file of a split is absent, LXMERT's is taken: `gqa/train.json`, `valid.json`,
`testdev.json` or `submit.json` for train, val, testdev or submission_all. It says nothing but the
answer, so that scores against it are accuracy alone. It is parsed whole; official files are read
question by question.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eval.errors import FileFormatError, InputError
from eval.gqa import TypeAccuracy, score_gqa
from eval.submissions import first_five, require_same_ids
from tasks._arrow import cached_examples
from tasks._entries import read_entries
from tasks._files import GQA_FILES, GQA_SIZES
from tasks._forms import FormLosses
from tasks._prepare import answer_list
from tasks._records import Records, field_of, read_records
from tasks._results import ResultsFormat
from tasks._task import Example, ExampleTable, Prepared, Score, Submission, Task

__all__ = ["TASK"]

Problem = Callable[[str], FileFormatError]

PROMPT_PREFIX = "gqa: "
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
# How many answers LXMERT's list has: all of the balanced train and val questions.
STANDARD_ANSWERS = 1_842
INTEGER_ID = (
    "GQA ids are texts, and many begin with a zero that an integer cannot keep: ids were turned "
    "into integers somewhere. Keep them as texts from where the questions are read."
)
METRICS = (
    "accuracy",
    "binary",
    "open",
    "consistency",
    "validity",
    "plausibility",
    "distribution",
    "accuracy_per_structural_type",
    "accuracy_per_semantic_type",
    "accuracy_per_length",
    "accuracy_per_steps",
)
NO_ATTENTION = (
    "it compares the regions a model attended to with the scene graphs, and a predictions file "
    "holds answers alone"
)
ONLY_ANSWERS = (
    "LXMERT's {file} says nothing of questions but their answers; put the official "
    "{official} beside it"
)


class _Official:
    """A split as the organisers publish it: questions by id, in one file or in chunks."""

    def __init__(self, folder: Path, split: str) -> None:
        tier, _, rest = split.partition("_")
        self.has_answers = tier in TIERS_WITH_ANSWERS
        # What validates is scored long after it is loaded: its faults are told at once.
        self._checked_when_loaded = self.has_answers and tier != "train"
        self._questions = _whole_or_chunks(folder, f"{tier}_{rest or 'balanced'}_questions")
        self._choices = _whole_or_chunks(folder, f"{tier}_choices")

    def sources(self) -> list[Path]:
        return self._questions

    def examples(self) -> Iterator[Example]:
        entries = self._scorable() if self._checked_when_loaded else self._all()
        for id_, row, problem in entries:
            yield Example(
                id=id_,
                image_ids=(field_of(row, "imageId", str, problem),),
                prompt=PROMPT_PREFIX + field_of(row, "question", str, problem),
                targets=((field_of(row, "answer", str, problem), 1.0),) if self.has_answers else (),
            )

    def score(self, predictions: Mapping[str, str], *, strict_official: bool) -> Score:
        has_choices = all(path.exists() for path in self._choices)
        losses = FormLosses()
        scores = score_gqa(
            predictions,
            _watched(((id_, row) for id_, row, _ in self._scorable()), predictions, losses),
            self._listed_choices() if has_choices else None,
            strict_official=strict_official,
        )
        return Score(
            metrics={
                **{name: _metric(getattr(scores, name)) for name in METRICS},
                "grounding": None,
            },
            examples=len(scores.per_question),
            per_example={id_: 100.0 * right for id_, right in scores.per_question.items()},
            protocol="gqa official script" if strict_official else "gqa official",
            reasons={**scores.reasons, "grounding": NO_ATTENTION},
            notes=losses.notes(),
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
    """A split as LXMERT and VL-T5 keep it: a list of texts, images and answers."""

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
                prompt=PROMPT_PREFIX + records.field(position, "sent", str),
                targets=((_only_answer(records, position), 1.0),) if self.has_answers else (),
            )

    def score(self, predictions: Mapping[str, str], *, strict_official: bool) -> Score:
        if strict_official:
            raise InputError(
                f"the official script does not read {self._file}; put {self._official} beside it"
            )
        records = self._records()
        ids = _lxmert_ids(records)
        require_same_ids(ids, predictions)
        gold = {id_: _only_answer(records, position) for position, id_ in enumerate(ids)}
        right = {id_: predictions[id_] == answer for id_, answer in gold.items()}
        losses = FormLosses()
        for id_, answer in gold.items():
            losses.see(predictions[id_], [answer], partial(_exact, answer))
        nothing: dict[str, object] = dict.fromkeys((*METRICS, "grounding"))
        reason = ONLY_ANSWERS.format(file=self._file.name, official=self._official)
        return Score(
            metrics={**nothing, "accuracy": sum(right.values()) / len(right) * 100},
            examples=len(right),
            per_example={id_: 100.0 * each for id_, each in right.items()},
            protocol="gqa official, answers of LXMERT's file",
            reasons={name: reason for name in nothing if name != "accuracy"}
            | {"grounding": NO_ATTENTION},
            notes=losses.notes(),
        )

    def _records(self) -> Records:
        records = read_records(self._file, expected="the questions as LXMERT lists them")
        if not len(records):
            raise FileFormatError(f"{self._file}: no questions in it; expected at least one")
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


def _exact(answer: str, prediction: str) -> float:
    return float(prediction == answer)


def _watched(
    questions: Iterator[tuple[str, Any]], predictions: Mapping[str, str], losses: FormLosses
) -> Iterator[tuple[str, Any]]:
    """Pass questions on, and count what the form of answers to balanced ones costs."""
    for id_, row in questions:
        prediction = predictions.get(id_)
        if prediction is not None and row["isBalanced"]:
            losses.see(prediction, [row["answer"]], partial(_exact, row["answer"]))
        yield id_, row


def _whole_or_chunks(folder: Path, stem: str) -> list[Path]:
    whole = folder / f"{stem}.json"
    count = len(list((folder / stem).glob(f"{stem}_*.json")))
    if whole.exists() or not count:
        return [whole]
    chunks = [folder / stem / f"{stem}_{number}.json" for number in range(count)]
    if absent := [chunk.name for chunk in chunks if not chunk.exists()]:
        raise InputError(
            f"{folder / stem} holds {count} chunks but not {first_five(absent)}; expected them "
            "numbered from 0 without a gap. Get the missing ones from the data set's site."
        )
    return chunks


def _entries(paths: Sequence[Path], expected: str) -> Iterator[tuple[str, Any, Problem]]:
    seen: set[str] = set()
    for path in paths:
        for id_, row in read_entries(path, expected=expected):
            problem = partial(_problem, path, id_)
            if id_ in seen:
                raise problem("occurs more than once; expected each id once")
            seen.add(id_)
            yield id_, row, problem
    if not seen:
        raise FileFormatError(f"{paths[0]}: nothing in it; expected {expected}")


def _problem(path: Path, id_: str, message: str) -> FileFormatError:
    return FileFormatError(f"{path}: the entry {id_!r:.60} {message}")


def _require_scorable(row: Any, problem: Problem) -> None:
    field_of(row, "question", str, problem)
    types = field_of(row, "types", dict, problem)
    for name in ("structural", "semantic", "detailed"):
        field_of(types, name, str, problem)
    groups = field_of(row, "groups", dict, problem)
    if "global" not in groups:
        raise problem("has no 'global' in its groups; expected a text or null")
    group = groups["global"]
    if group is not None and not isinstance(group, str):
        raise problem(f"has the global group {group!r:.80}; expected a text or null")
    if set(map(type, field_of(row, "entailed", list, problem))) - {str}:
        raise problem("entails something other than ids, which are texts. " + INTEGER_ID)
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
    return {
        str(kind): {"accuracy": each.accuracy, "count": each.count} for kind, each in value.items()
    }


def _load(data_root: Path, split: str) -> ExampleTable:
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
    yield answer_list(
        TASK,
        data_root,
        splits=("train", "val"),
        min_count=TASK.min_answer_count if min_count is None else min_count,
        standard_size=STANDARD_ANSWERS,
        overwrite=overwrite,
    )


TASK = Task(
    name="gqa",
    prompt_prefix=PROMPT_PREFIX,
    splits=SPLITS,
    heads=("classify", "generate"),
    load=_load,
    score=_score,
    read_predictions=RESULTS.read,
    write_predictions=RESULTS.write,
    score_strictly=_score_strictly,
    primary_metric="accuracy",
    batch_share=100 / 60,
    answer_list="gqa/trainval_label2ans.json",
    # LXMERT's list holds every answer.
    min_answer_count=1,
    files=GQA_FILES,
    sizes=GQA_SIZES,
    submission=Submission(
        server="EvalAI (https://cs.stanford.edu/people/dorarad/gqa/evaluate.html)",
        splits=("submission_all",),
        file_name="{split}_{name}_predictions.json",
    ),
    prepare=_prepare,
)
