"""VQA v2: open-ended questions about one photograph, with ten human answers each.

`FILES` lists the files below the data root, under their official names. The splits of VL-T5
(`karpathy_*`) and LXMERT (`nominival`, `minival`) are subsets of the official questions. Their
answers come from the split's own file if it contains the human answers of every question, else
from the official annotations.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from eval.errors import FileFormatError
from eval.metrics import Metric
from eval.submissions import first_five, require_same_ids
from eval.text import counted
from eval.vqa import answer_weights, score_vqa
from tasks import _karpathy
from tasks._answers import MIN_ANSWER_COUNT, prepare_answer_list
from tasks._arrow import cached_examples
from tasks._examples import Example, ExampleTable
from tasks._files import LXMERT_LISTS, DataFile, Source, SplitSize
from tasks._records import Records, read_records
from tasks._results import ResultsFormat
from tasks._task import HubDataset, Prepared, Score, Submission, Task

__all__ = ["FILES", "SIZES", "TASK"]

# Official split -> the COCO split of its images.
OFFICIAL_SPLITS = {
    "train2014": "train2014",
    "val2014": "val2014",
    "test2015": "test2015",
    "test-dev2015": "test2015",
}
ANNOTATED_SPLITS = frozenset({"train2014", "val2014"})
LXMERT_SPLITS = ("nominival", "minival")
# Derived split -> the official splits that its questions come from.
DERIVED_SPLITS = {
    "karpathy_train": ("train2014", "val2014"),
    "karpathy_val": ("val2014",),
    "karpathy_test": ("val2014",),
    "nominival": ("val2014",),
    "minival": ("val2014",),
}
ANSWER_LIST = "vqa/trainval_label2ans.json"
# Size of LXMERT's answer list, which most programs use.
STANDARD_ANSWERS = 3_129

HOST = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa/"
LXMERT_HOST = "https://nlp.cs.unc.edu/data/lxmert_data/vqa/"
QUESTIONS = "vqa/v2_OpenEnded_mscoco_{}_questions.json"
ANNOTATIONS = "vqa/v2_mscoco_{}_annotations.json"
FILES = (
    *(
        DataFile(
            path=QUESTIONS.format(split),
            splits=(split,),
            source=Source(f"{HOST}v2_Questions_{part}_mscoco.zip"),
        )
        for split, part in (
            ("train2014", "Train"),
            ("val2014", "Val"),
            ("test2015", "Test"),
            ("test-dev2015", "Test"),
        )
    ),
    *(
        DataFile(
            path=ANNOTATIONS.format(split),
            splits=splits,
            source=Source(f"{HOST}v2_Annotations_{part}_mscoco.zip"),
        )
        for split, part, splits in (
            ("train2014", "Train", ("train2014",)),
            ("val2014", "Val", ("val2014", *LXMERT_SPLITS)),
        )
    ),
    *(
        DataFile(
            path=f"vqa/{split}.json",
            splits=(split,),
            derived_from=(
                *(QUESTIONS.format(official) for official in ("train2014", "val2014")),
                *(ANNOTATIONS.format(official) for official in ("train2014", "val2014")),
                _karpathy.FILE,
            ),
        )
        for split in _karpathy.MARKS
    ),
    *(
        DataFile(
            path=f"vqa/{split}.json",
            splits=(split,),
            source=Source(f"{LXMERT_HOST}{split}.json"),
        )
        for split in LXMERT_SPLITS
    ),
    DataFile(
        path=_karpathy.FILE,
        splits=tuple(_karpathy.MARKS),
        source=_karpathy.SOURCE,
        optional="to make the Karpathy splits",
    ),
    DataFile(
        path=ANSWER_LIST,
        splits=("train2014", "karpathy_train", "nominival"),
        source=Source(f"{LXMERT_LISTS}{ANSWER_LIST}"),
        optional=f"the standard list of {STANDARD_ANSWERS:,} answers",
    ),
)
SIZES = {
    "train2014": SplitSize(443_757, 82_783),
    "val2014": SplitSize(214_354, 40_504),
    "test2015": SplitSize(447_793, 81_434),
    "test-dev2015": SplitSize(107_394, 36_807),
    "karpathy_train": SplitSize(605_102),
    "karpathy_val": SplitSize(26_729),
    "karpathy_test": SplitSize(26_280),
    "nominival": SplitSize(188_360, 35_504),
    "minival": SplitSize(25_994, 5_000),
}

# Fields that an object needs to be scored against.
ANNOTATION_FIELDS = ("question_type", "answer_type", "answers")
RESULTS = ResultsFormat(
    id_field="question_id",
    answer_field="answer",
    sample='[{"question_id": 42, "answer": "yes"}]',
    id_kind=int,
)


@dataclass(frozen=True, slots=True)
class _Question:
    id: int
    image: str
    text: str


class _OfficialSplit:
    """A split in the official format: questions in one file, answers in another."""

    def __init__(self, data_root: Path, split: str) -> None:
        self._images = OFFICIAL_SPLITS[split]
        self._question_file = data_root / QUESTIONS.format(split)
        self._annotation_file = data_root / ANNOTATIONS.format(split)
        self.has_answers = split in ANNOTATED_SPLITS

    def sources(self) -> list[Path]:
        return [self._question_file, *([self._annotation_file] if self.has_answers else [])]

    def questions(self) -> list[_Question]:
        records = read_records(
            self._question_file, expected="the official VQA v2 questions", key="questions"
        )
        return [
            _Question(
                id=id_,
                image=f"COCO_{self._images}_{records.field(position, 'image_id', int):012d}",
                text=records.field(position, "question", str),
            )
            for position, id_ in enumerate(records.ids("question_id"))
        ]

    def annotations(self) -> dict[int, Mapping[str, Any]]:
        return _annotations_of(
            read_records(
                self._annotation_file, expected="the official VQA v2 annotations", key="annotations"
            )
        )


class _DerivedSplit:
    """A subset of the official questions, in the format of VL-T5 and LXMERT."""

    has_answers = True

    def __init__(self, data_root: Path, split: str) -> None:
        self._file = data_root / "vqa" / f"{split}.json"
        self._official = [_OfficialSplit(data_root, name) for name in DERIVED_SPLITS[split]]

    def sources(self) -> list[Path]:
        annotations = [official.sources()[-1] for official in self._official]
        return [self._file, *(path for path in annotations if path.exists())]

    def questions(self) -> list[_Question]:
        return [
            _Question(
                id=id_,
                image=self._records.field(position, "img_id", str),
                text=self._records.field(position, "sent", str),
            )
            for position, id_ in enumerate(self._records.ids("question_id"))
        ]

    def annotations(self) -> dict[int, Mapping[str, Any]]:
        ids = self._records.ids("question_id")
        if all(name in row for row in self._records.rows for name in ANNOTATION_FIELDS):
            return _annotations_of(self._records)
        official: dict[int, Mapping[str, Any]] = {}
        for split in self._official:
            official |= split.annotations()
        if missing := [id_ for id_ in ids if id_ not in official]:
            raise FileFormatError(
                f"{self._file} has {counted(len(missing), 'question')} without answers "
                f"({first_five(missing)}) in "
                f"{' or '.join(str(split.sources()[-1]) for split in self._official)}; expected "
                "a subset of the official questions"
            )
        return {id_: official[id_] for id_ in ids}

    @cached_property
    def _records(self) -> Records:
        return read_records(self._file, expected="the questions of the split, in VL-T5's format")


def _split(data_root: Path, split: str) -> _OfficialSplit | _DerivedSplit:
    if split in OFFICIAL_SPLITS:
        return _OfficialSplit(data_root, split)
    if split in DERIVED_SPLITS:
        return _DerivedSplit(data_root, split)
    raise TASK.unknown_split(split)


def _annotations_of(records: Records) -> dict[int, Mapping[str, Any]]:
    if not len(records):
        raise FileFormatError(f"{records.path} contains no annotations; expected at least one")
    annotations: dict[int, Mapping[str, Any]] = {}
    for position, id_ in enumerate(records.ids("question_id")):
        records.field(position, "question_type", str)
        records.field(position, "answer_type", str)
        answers = records.field(position, "answers", list)
        annotation = records.rows[position]
        if set(map(type, answers)) == {str}:
            answers = [{"answer": answer, "answer_id": n} for n, answer in enumerate(answers, 1)]
            annotation = {**annotation, "answers": answers}
        if not _are_answer_objects(answers):
            raise records.problem(
                position,
                f"(question {id_}) has answers {answers!r:.80}; "
                "expected at least one object with a string 'answer', and no other values",
            )
        annotations[id_] = annotation
    return annotations


def _are_answer_objects(answers: list[Any]) -> bool:
    kinds = set(map(type, answers))
    return kinds == {dict} and {type(each.get("answer")) for each in answers} == {str}


def _read_examples(data_root: Path, split: str) -> ExampleTable:
    source = _split(data_root, split)

    def examples() -> Iterator[Example]:
        questions = source.questions()
        annotations = source.annotations() if source.has_answers else {}
        if source.has_answers:
            _require_same_questions(questions, annotations, source.sources())
        for question in questions:
            annotation = annotations.get(question.id)
            yield Example(
                id=str(question.id),
                image_ids=(question.image,),
                prompt=question.text,
                targets=tuple(answer_weights(annotation["answers"])) if annotation else (),
            )

    return cached_examples(f"vqa-{split}", source.sources(), examples)


def _require_same_questions(
    questions: Sequence[_Question], annotations: Mapping[int, object], sources: Sequence[Path]
) -> None:
    asked = {question.id for question in questions}
    unanswered = [question.id for question in questions if question.id not in annotations]
    unasked = [id_ for id_ in annotations if id_ not in asked]
    if unanswered or unasked:
        raise FileFormatError(
            f"{' and '.join(str(path) for path in sources)} do not match: "
            f"{counted(len(unanswered), 'question has', 'questions have')} no annotation and "
            f"{counted(len(unasked), 'annotation has', 'annotations have')} no question "
            f"({first_five([*unanswered, *unasked])}); expected one annotation per question"
        )


def _score(predictions: Mapping[str, str], data_root: Path, split: str) -> Score:
    source = _split(data_root, split)
    if not source.has_answers:
        raise TASK.unlabelled_split(split)
    annotations = source.annotations()
    require_same_ids([str(id_) for id_ in annotations], predictions)
    scores = score_vqa(
        {int(id_): answer for id_, answer in predictions.items()}, list(annotations.values())
    )
    return Score(
        metrics={
            "accuracy": scores.accuracy,
            "per_answer_type": dict(scores.per_answer_type),
            "per_question_type": dict(scores.per_question_type),
            "lenient_accuracy": scores.lenient_accuracy,
        },
        examples=len(scores.per_question),
        per_example={str(id_): accuracy for id_, accuracy in scores.per_question.items()},
        protocol="vqa_v2 official",
    )


def _prepare(data_root: Path, *, min_count: int | None, overwrite: bool) -> Iterator[Prepared]:
    yield prepare_answer_list(
        TASK,
        data_root,
        splits=("train2014", "val2014"),
        min_count=min_count,
        standard_size=STANDARD_ANSWERS,
        overwrite=overwrite,
    )
    read_questions = partial(_answered_questions, data_root)
    yield from _karpathy.prepare_splits(data_root, read_questions, SIZES, overwrite=overwrite)


def _answered_questions(data_root: Path) -> Iterator[dict[str, Any]]:
    """Yield all questions with answers, in VL-T5's format."""
    for split in sorted(ANNOTATED_SPLITS):
        source = _OfficialSplit(data_root, split)
        questions, annotations = source.questions(), source.annotations()
        _require_same_questions(questions, annotations, source.sources())
        for question in questions:
            annotation = annotations[question.id]
            yield {
                "question_id": question.id,
                "img_id": question.image,
                "sent": question.text,
                **{name: annotation[name] for name in ANNOTATION_FIELDS},
                "answers": _compact(annotation["answers"], source.sources()[-1], question.id),
            }


def _compact(answers: list[Any], path: Path, question: int) -> list[Any]:
    """Return the answers as strings if `_annotations_of` can restore their IDs."""
    if [answer.get("answer_id") for answer in answers] == list(range(1, len(answers) + 1)):
        return [answer["answer"] for answer in answers]
    try:
        json.dumps(answers, allow_nan=False)
    except ValueError:
        raise FileFormatError(
            f"{path}: an answer to question {question} holds NaN or an infinite number, which JSON "
            "does not allow; expected the official VQA v2 annotations. Download the file again."
        ) from None
    return answers


TASK = Task(
    name="vqa",
    prompt_prefix="vqa: ",
    splits=(*OFFICIAL_SPLITS, *DERIVED_SPLITS),
    heads=("classify", "generate"),
    read_examples=_read_examples,
    score=_score,
    read_predictions=RESULTS.read,
    write_predictions=RESULTS.write,
    metric=Metric("accuracy", factor=1.0),
    answer_list=ANSWER_LIST,
    min_answer_count=MIN_ANSWER_COUNT,
    answers_are="people",
    # Of the encoder-decoders in BLIP-2 (arXiv 2301.12597, section 4.1).
    zero_shot_prompt="Question: {} Short answer:",
    files=FILES,
    sizes=SIZES,
    submission=Submission(
        server="EvalAI (https://visualqa.org/challenge.html)",
        splits=("test-dev2015", "test2015"),
        file_name="vqa_OpenEnded_mscoco_{split}_{name}_results.json",
    ),
    hub_dataset=HubDataset("lmms-lab/VQAv2", "VQA v2"),
    prepare=_prepare,
)
