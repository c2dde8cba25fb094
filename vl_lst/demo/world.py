"""The benchmark of the shapes world: pictures on disk, annotations in the official formats."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

from eval.files import atomic_path, write_json
from vl_lst.demo.questions import Question, questions_about
from vl_lst.demo.rendering import render
from vl_lst.demo.scenes import Purpose, Scene, pick, sample_scene, scene_seed

__all__ = ["SPLITS", "Split", "WorldProgress", "ten_answers", "vqa_split", "write_world"]

PICTURE_SIZE = 128
JPEG_QUALITY = 92
OBJECT_COUNTS = (1, 2, 2, 3, 3)
PEOPLE = 10

# Shares of the kinds of questions. What can be answered by looking up one thing prevails: the
# demo has to learn it within a minute or two.
KIND_WEIGHTS = {
    "present": 16,
    "absent": 10,
    "attribute": 12,
    "colour": 20,
    "shape": 18,
    "count": 10,
    "size": 6,
    "side": 5,
    "relation": 3,
}

# People take these for one another now and then.
CONFUSED_WITH = {
    "teal": "green",
    "purple": "pink",
    "pink": "purple",
    "orange": "yellow",
    "brown": "red",
    "gray": "grey",
    "square": "rectangle",
    "rectangle": "square",
    "diamond": "square",
    "large": "big",
    "small": "little",
    **{str(n): str(n + 1) for n in range(1, 7)},
}
NUMBER_SPELLED = {"1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six"}
DISPUTED = 0.2

# Beginnings of questions that VQA v2 counts as types of their own, as far as they occur here.
QUESTION_TYPES = (
    "are the",
    "can you",
    "does the",
    "does this",
    "how",
    "how many",
    "is",
    "is that a",
    "is the",
    "is there",
    "is there a",
    "what",
    "what color",
    "what color is the",
    "what is the",
    "what is the color of the",
    "what is this",
    "which",
)

INFO = {
    "description": "Shapes world",
    "url": "",
    "version": "2.0",
    "year": 2026,
    "contributor": "vl-lst",
    "date_created": "2026-01-01 00:00:00",
}
LICENSE = {"url": "https://www.apache.org/licenses/LICENSE-2.0", "name": "Apache-2.0"}

WorldProgress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Split:
    """One part of the benchmark.

    Args:
        name: The official name, also the folder of its pictures.
        purpose: The range its scenes' seeds are from.
        images: Number of pictures.
        questions_per_image: At most so many questions about each.
        first_image_id: Id of its first picture.
    """

    name: str
    purpose: Purpose
    images: int
    questions_per_image: int
    first_image_id: int

    def scene(self, number: int) -> Scene:
        """Return the scene of the split's `number`-th picture."""
        return sample_scene(scene_seed(self.purpose, number), counts=OBJECT_COUNTS)

    def stem(self, number: int) -> str:
        """Return the official stem of the split's `number`-th picture."""
        return f"COCO_{self.name}_{self.first_image_id + number:012d}"


SPLITS = (
    Split("train2014", Purpose.BENCHMARK_TRAIN, 1200, 8, 1),
    Split("val2014", Purpose.BENCHMARK_VAL, 250, 8, 100_001),
)


def write_world(
    folder: Path,
    *,
    splits: tuple[Split, ...] = SPLITS,
    report: WorldProgress = lambda done, total, note: None,
) -> None:
    """Write pictures and VQA annotations; the same files each time.

    `folder` becomes a data root: pictures in `images/<split>/`, annotations in `vqa/`.

    Args:
        folder: Created where it does not exist; files of the same names are replaced.
        splits: What to write.
        report: Called with the number of pictures done, their total and the split's name.
    """
    total = sum(split.images for split in splits)
    done = 0
    for split in splits:
        pictures = folder / "images" / split.name
        pictures.mkdir(parents=True, exist_ok=True)
        for number in range(split.images):
            encoded = BytesIO()
            picture = render(split.scene(number), PICTURE_SIZE)
            picture.save(encoded, "JPEG", quality=JPEG_QUALITY, subsampling=0)
            with atomic_path(pictures / f"{split.stem(number)}.jpg") as temporary:
                temporary.write_bytes(encoded.getvalue())
            done += 1
            report(done, total, split.name)
        questions, annotations = vqa_split(split)
        prefix = folder / "vqa"
        write_json(
            prefix / f"v2_OpenEnded_mscoco_{split.name}_questions.json", questions, indent=None
        )
        write_json(prefix / f"v2_mscoco_{split.name}_annotations.json", annotations, indent=None)


def vqa_split(split: Split) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a split's official VQA v2 questions document and annotations document."""
    chosen = _balanced(split)
    questions, annotations = [], []
    for image_id, asked in chosen:
        for number, question in enumerate(asked):
            question_id = image_id * 1000 + number
            answers = ten_answers(question.answer, Random(f"people {split.name} {question_id}"))
            questions.append(
                {"image_id": image_id, "question": question.text, "question_id": question_id}
            )
            annotations.append(
                {
                    "question_type": _question_type(question.text),
                    "multiple_choice_answer": question.answer,
                    "answers": answers,
                    "image_id": image_id,
                    "answer_type": question.answer_type,
                    "question_id": question_id,
                }
            )
    shared = {
        "info": INFO,
        "data_type": "mscoco",
        "license": LICENSE,
        "data_subtype": split.name,
    }
    return (
        {**shared, "task_type": "Open-Ended", "questions": questions},
        {**shared, "annotations": annotations},
    )


def ten_answers(answer: str, rng: Random) -> list[dict[str, Any]]:
    """Return what ten people answer: mostly the same, in a minority of cases not all of them.

    At least six always give `answer` itself, so that it is the most common one.
    """
    others: list[str] = []
    if rng.random() < DISPUTED:
        alternatives = [
            CONFUSED_WITH.get(answer, ""),
            NUMBER_SPELLED.get(answer, ""),
            {"yes": "no", "no": "yes"}.get(answer, ""),
        ]
        known = [other for other in alternatives if other] or ["not sure"]
        others = [pick(rng, known) for _ in range(1 + int(rng.random() * 4))]
    given = sorted([*others, *[answer] * (PEOPLE - len(others))], key=lambda _: rng.random())
    return [
        {
            "answer": text,
            "answer_confidence": "yes" if text == answer else pick(rng, ("yes", "maybe", "no")),
            "answer_id": number,
        }
        for number, text in enumerate(given, start=1)
    ]


def _balanced(split: Split) -> list[tuple[int, list[Question]]]:
    """Choose questions so that within a kind of question no answer leads by much.

    Pictures are taken in order. Each question is the candidate whose answer has been given least
    often so far, within the wording's subject where the answer is yes or no: "is there a circle"
    is answered yes as often as no, so the text alone gives nothing away.
    """
    rng = Random(f"questions {split.name}")
    tallies: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    chosen = []
    for number in range(split.images):
        candidates = questions_about(split.scene(number), rng)
        asked: list[Question] = []
        while candidates and len(asked) < split.questions_per_image:
            kind = _pick_kind({question.kind for question in candidates}, rng)
            best = min(
                (question for question in candidates if question.kind == kind),
                key=lambda question: (_lead(question, tallies), rng.random()),
            )
            asked.append(best)
            for key in _keys(best):
                tallies[key][best.answer] += 1
            candidates = [
                question
                for question in candidates
                if (question.kind, question.subject) != (best.kind, best.subject)
            ]
        chosen.append((split.first_image_id + number, asked))
    return chosen


def _keys(question: Question) -> tuple[tuple[str, str], ...]:
    return (question.kind, ""), (question.kind, question.subject)


def _lead(question: Question, tallies: dict[tuple[str, str], Counter[str]]) -> float:
    """By how much the question's answer is ahead of the average of its rivals."""
    lead = 0.0
    for key in _keys(question):
        tally = tallies[key]
        lead += tally[question.answer] - tally.total() / max(2, len(tally))
    return lead


def _pick_kind(kinds: set[str], rng: Random) -> str:
    weighted = [(kind, weight) for kind, weight in KIND_WEIGHTS.items() if kind in kinds]
    at = rng.random() * sum(weight for _, weight in weighted)
    for kind, weight in weighted:
        at -= weight
        if at < 0:
            return kind
    return weighted[-1][0]


def _question_type(text: str) -> str:
    lowered = text.lower()
    fitting = [t for t in QUESTION_TYPES if lowered.startswith(f"{t} ")]
    return max(fitting, key=len) if fitting else "none of the above"
