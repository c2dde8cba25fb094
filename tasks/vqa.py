"""VQA v2: open questions about one photograph, ten human answers each.

Below the data root lie, under their official names:

    vqa/v2_OpenEnded_mscoco_{train2014,val2014,test2015,test-dev2015}_questions.json
    vqa/v2_mscoco_{train2014,val2014}_annotations.json
    vqa/{karpathy_train,karpathy_val,karpathy_test}.json    VL-T5's splits, if used
    vqa/{nominival,minival}.json                            LXMERT's splits, if used
    vqa/trainval_label2ans.json                             the usual 3,129 answers, optional

The splits of VL-T5 and LXMERT choose among the official questions. Their answers come from the
split's own file where every question has its human answers there, else from the official files.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from eval.errors import FileFormatError
from eval.submissions import first_five, require_same_ids
from eval.vqa import answer_weights, score_vqa
from tasks._answers import MIN_ANSWER_COUNT
from tasks._arrow import cached_examples
from tasks._files import VQA_FILES, VQA_SIZES
from tasks._prepare import answer_list, karpathy_splits
from tasks._records import Records, read_records
from tasks._results import ResultsFormat
from tasks._task import Example, ExampleTable, Prepared, Score, Submission, Task

__all__ = ["TASK"]

PROMPT_PREFIX = "vqa: "
# Official split -> the COCO images its questions are about.
OFFICIAL_SPLITS = {
    "train2014": "train2014",
    "val2014": "val2014",
    "test2015": "test2015",
    "test-dev2015": "test2015",
}
ANNOTATED_SPLITS = frozenset({"train2014", "val2014"})
# Derived split -> the official splits its questions are from.
DERIVED_SPLITS = {
    "karpathy_train": ("train2014", "val2014"),
    "karpathy_val": ("val2014",),
    "karpathy_test": ("val2014",),
    "nominival": ("val2014",),
    "minival": ("val2014",),
}
# How many answers LXMERT's list has, which nearly everyone uses.
STANDARD_ANSWERS = 3_129
# What an object must hold to be scored against.
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
    """A split as the organisers publish it: questions in one file, answers in another."""

    def __init__(self, folder: Path, split: str) -> None:
        self._images = OFFICIAL_SPLITS[split]
        self._question_file = folder / f"v2_OpenEnded_mscoco_{split}_questions.json"
        self._annotation_file = folder / f"v2_mscoco_{split}_annotations.json"
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
    """A choice among official questions, in the format VL-T5 and LXMERT share."""

    has_answers = True

    def __init__(self, folder: Path, split: str) -> None:
        self._file = folder / f"{split}.json"
        self._official = [_OfficialSplit(folder, name) for name in DERIVED_SPLITS[split]]

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
                f"{self._file}: {len(missing):,} questions are in none of "
                f"{', '.join(str(split.sources()[-1]) for split in self._official)} "
                f"({first_five(missing)}); expected questions of the official files"
            )
        return {id_: official[id_] for id_ in ids}

    @cached_property
    def _records(self) -> Records:
        return read_records(self._file, expected="the questions of the split, as VL-T5 lists them")


def _split(data_root: Path, split: str) -> _OfficialSplit | _DerivedSplit:
    folder = data_root / "vqa"
    if split in OFFICIAL_SPLITS:
        return _OfficialSplit(folder, split)
    if split in DERIVED_SPLITS:
        return _DerivedSplit(folder, split)
    raise TASK.unknown_split(split)


def _annotations_of(records: Records) -> dict[int, Mapping[str, Any]]:
    if not len(records):
        raise FileFormatError(f"{records.path}: no annotations in it; expected at least one")
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
                "expected objects with a text 'answer', at least one",
            )
        annotations[id_] = annotation
    return annotations


def _are_answer_objects(answers: list[Any]) -> bool:
    kinds = set(map(type, answers))
    return kinds == {dict} and {type(each.get("answer")) for each in answers} == {str}


def _load(data_root: Path, split: str) -> ExampleTable:
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
                prompt=PROMPT_PREFIX + question.text,
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
            f"{' and '.join(str(path) for path in sources)} do not belong together: "
            f"{len(unanswered):,} questions have no annotation and {len(unasked):,} annotations no "
            f"question ({first_five([*unanswered, *unasked])}); expected one for each"
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
    yield answer_list(
        TASK,
        data_root,
        splits=("train2014", "val2014"),
        min_count=TASK.min_answer_count if min_count is None else min_count,
        standard_size=STANDARD_ANSWERS,
        overwrite=overwrite,
    )
    yield from karpathy_splits(data_root, partial(_asked, data_root), overwrite=overwrite)


def _asked(data_root: Path) -> Iterator[dict[str, Any]]:
    """All questions with answers, as VL-T5 lists them."""
    for split in sorted(ANNOTATED_SPLITS):
        source = _OfficialSplit(data_root / "vqa", split)
        questions, annotations = source.questions(), source.annotations()
        _require_same_questions(questions, annotations, source.sources())
        for question in questions:
            annotation = annotations[question.id]
            yield {
                "question_id": question.id,
                "img_id": question.image,
                "sent": question.text,
                **{name: annotation[name] for name in ANNOTATION_FIELDS},
                "answers": _as_texts(annotation["answers"], source.sources()[-1], question.id),
            }


def _as_texts(answers: list[Any], path: Path, question: int) -> list[Any]:
    """The answers without their numbers, where these are as `_annotations_of` gives them back."""
    if [answer.get("answer_id") for answer in answers] == list(range(1, len(answers) + 1)):
        return [answer["answer"] for answer in answers]
    try:
        json.dumps(answers, allow_nan=False)
    except ValueError:
        raise FileFormatError(
            f"{path}: an answer to the question {question} holds NaN or an infinite number, which "
            "JSON does not have; expected the official VQA v2 annotations. Fetch the file again."
        ) from None
    return answers


TASK = Task(
    name="vqa",
    prompt_prefix=PROMPT_PREFIX,
    splits=(*OFFICIAL_SPLITS, *DERIVED_SPLITS),
    heads=("classify", "generate"),
    load=_load,
    score=_score,
    read_predictions=RESULTS.read,
    write_predictions=RESULTS.write,
    primary_metric="accuracy",
    answer_list="vqa/trainval_label2ans.json",
    min_answer_count=MIN_ANSWER_COUNT,
    answers_are="people",
    files=VQA_FILES,
    sizes=VQA_SIZES,
    submission=Submission(
        server="EvalAI (https://visualqa.org/challenge.html)",
        splits=("test-dev2015", "test2015"),
        file_name="vqa_OpenEnded_mscoco_{split}_{name}_results.json",
    ),
    prepare=_prepare,
)
