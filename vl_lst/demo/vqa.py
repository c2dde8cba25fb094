"""The demo's questions in the format of VQA v2."""

from pathlib import Path
from random import Random
from typing import Any

from eval.outputs import write_json
from vl_lst.demo.balance import choose_balanced
from vl_lst.demo.questions import questions_about
from vl_lst.demo.scenes import pick
from vl_lst.demo.splits import Split

__all__ = ["INFO", "LICENSE", "ten_answers", "vqa_split", "write_vqa"]

NUM_PEOPLE = 10

# Relative frequencies of the kinds of questions. Questions about a single attribute dominate: the
# demo has only a minute or two to learn them. Negated ones ("absent") are learned last, and not on
# every seed.
KIND_WEIGHTS = {
    "present": 9,
    "absent": 1,
    "attribute": 5,
    "colour": 45,
    "shape": 22,
    "count": 5,
    "size": 4,
    "side": 3,
    "relation": 2,
}

# Answers that annotators sometimes give instead.
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
DISAGREEMENT_PROBABILITY = 0.2

# The question types of VQA v2 (prefixes of the question) that occur here.
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


def write_vqa(data_root: Path, split: Split) -> None:
    """Write a split's questions and annotations to `vqa/` in the official format."""
    questions, annotations = vqa_split(split)
    folder = data_root / "vqa"
    write_json(folder / f"v2_OpenEnded_mscoco_{split.name}_questions.json", questions, indent=None)
    write_json(folder / f"v2_mscoco_{split.name}_annotations.json", annotations, indent=None)


def vqa_split(split: Split) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a split's official VQA v2 questions document and annotations document."""
    rng = Random(f"questions {split.name}")
    chosen = choose_balanced(
        (questions_about(split.scene(number), rng) for number in range(split.images)),
        per_picture=split.questions_per_image,
        kind_weights=KIND_WEIGHTS,
        rng=rng,
    )
    questions, annotations = [], []
    for image_id, asked in enumerate(chosen, start=split.first_image_id):
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
    """Return the answers of ten simulated annotators, who sometimes disagree.

    At least six give `answer` itself, so it is always the most common one.
    """
    others: list[str] = []
    if rng.random() < DISAGREEMENT_PROBABILITY:
        alternatives = [
            CONFUSED_WITH.get(answer, ""),
            NUMBER_SPELLED.get(answer, ""),
            {"yes": "no", "no": "yes"}.get(answer, ""),
        ]
        known = [other for other in alternatives if other] or ["not sure"]
        others = [pick(rng, known) for _ in range(1 + int(rng.random() * 4))]
    given = sorted([*others, *[answer] * (NUM_PEOPLE - len(others))], key=lambda _: rng.random())
    return [
        {
            "answer": text,
            "answer_confidence": "yes" if text == answer else pick(rng, ("yes", "maybe", "no")),
            "answer_id": number,
        }
        for number, text in enumerate(given, start=1)
    ]


def _question_type(text: str) -> str:
    lowered = text.lower()
    fitting = [t for t in QUESTION_TYPES if lowered.startswith(f"{t} ")]
    return max(fitting, key=len) if fitting else "none of the above"
