"""The demo's questions in the format of GQA: balanced questions, all questions, and choices.

They are about the pictures of the VQA splits; the image id is the file's stem.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from eval.outputs import write_json
from vl_lst.demo.balance import choose_balanced
from vl_lst.demo.gqa.generate import gqa_questions_about
from vl_lst.demo.gqa.programs import as_json, as_text
from vl_lst.demo.gqa.question import GqaQuestion
from vl_lst.demo.splits import Split

__all__ = ["GqaDocuments", "gqa_split", "write_gqa"]

# Relative frequencies of the kinds of questions. Questions about a single attribute dominate, as in
# the other tasks.
KIND_WEIGHTS = {
    "exist": 18,
    "verify color": 10,
    "verify name": 4,
    "verify size": 3,
    "verify hposition": 2,
    "verify vposition": 2,
    "verify relation": 3,
    "verify background": 8,
    "query color": 18,
    "query name": 16,
    "query size": 3,
    "query hposition": 2,
    "query relation": 3,
    "choose color": 8,
    "choose name": 4,
    "choose size": 2,
    "choose hposition": 2,
    "choose vposition": 2,
    "choose relation": 2,
    "and exist": 4,
    "or exist": 4,
    "and attributes": 3,
    "compare color": 6,
    "compare size": 5,
    "compare sizes": 5,
    "compare common": 6,
}
BALANCED_PER_IMAGE = 6
QUESTIONS_PER_IMAGE = 14

# Ids have eight digits in shuffled order; one in ten begins with a zero, as official ids do.
NUM_IDS = 10**8
SCATTER = 7_654_321
MAX_QUESTIONS = 100


@dataclass(frozen=True, slots=True)
class GqaDocuments:
    """A split's official documents, each by question id.

    Args:
        balanced: Questions for training and scoring.
        all: The balanced questions, questions that they entail, and paraphrases.
        choices: Valid and plausible answers of every question.
    """

    balanced: dict[str, dict[str, Any]]
    all: dict[str, dict[str, Any]]
    choices: dict[str, dict[str, list[str]]]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question with its id."""

    id: str
    question: GqaQuestion
    is_balanced: bool


def write_gqa(data_root: Path, split: Split) -> None:
    """Write a split's questions, and the choices of "val", to `gqa/` in the official format."""
    documents = gqa_split(split)
    folder, name = data_root / "gqa", split.gqa_name
    write_json(folder / f"{name}_balanced_questions.json", documents.balanced, indent=None)
    write_json(folder / f"{name}_all_questions.json", documents.all, indent=None)
    if name == "val":
        write_json(folder / f"{name}_choices.json", documents.choices, indent=None)


def gqa_split(split: Split) -> GqaDocuments:
    """Return a split's official GQA documents."""
    questions: dict[str, dict[str, Any]] = {}
    asked_of: dict[str, GqaQuestion] = {}
    for number, asked in enumerate(_choose_questions(split)):
        for each in asked:
            questions[each.id] = _official(each, asked, split.stem(number))
            asked_of[each.id] = each.question
    return GqaDocuments(
        balanced={id_: each for id_, each in questions.items() if each["isBalanced"]},
        all=questions,
        choices=_choices(asked_of),
    )


def _choose_questions(split: Split) -> Iterator[list[_Asked]]:
    """Yield the questions of each picture: balanced ones first, then entailed ones, then others."""
    rng = Random(f"gqa {split.name}")
    candidates = [_candidates(split, number, rng) for number in range(split.images)]
    chosen = choose_balanced(
        candidates,
        per_picture=BALANCED_PER_IMAGE,
        kind_weights=KIND_WEIGHTS,
        rng=rng,
    )
    for number, (balanced, offered) in enumerate(zip(chosen, candidates, strict=True)):
        taken = set(map(id, balanced))
        others = sorted(
            (each for each in offered if id(each) not in taken),
            key=lambda each: (not any(one.entails(each) for one in balanced), rng.random()),
        )
        asked = [*balanced, *others[: QUESTIONS_PER_IMAGE - len(balanced)]]
        first = (split.first_image_id + number) * MAX_QUESTIONS
        yield [
            _Asked(_question_id(first + position), question, position < len(balanced))
            for position, question in enumerate(asked)
        ]


def _question_id(number: int) -> str:
    return f"{number * SCATTER % NUM_IDS:08d}"


def _candidates(split: Split, number: int, rng: Random) -> list[GqaQuestion]:
    scene = split.scene(number)
    image_id = split.first_image_id + number
    object_ids = [f"{image_id}{position:02d}" for position in range(len(scene.objects))]
    return gqa_questions_about(scene, rng, object_ids)


def _official(each: _Asked, asked: list[_Asked], image_id: str) -> dict[str, Any]:
    question = each.question
    entailed = [other.id for other in asked if question.entails(other.question)]
    equivalent = [other.id for other in asked if other.question.program == question.program]
    return {
        "semantic": as_json(question.program),
        "entailed": entailed,
        "equivalent": equivalent,
        "question": question.text,
        "imageId": image_id,
        "isBalanced": each.is_balanced,
        "groups": {"global": _global_group(question), "local": _local_group(question)},
        "answer": question.answer,
        "semanticStr": as_text(question.program),
        "annotations": _annotations(question),
        "types": {
            "detailed": question.detailed,
            "semantic": question.semantic,
            "structural": question.structural,
        },
        "fullAnswer": question.full_answer,
    }


def _global_group(question: GqaQuestion) -> str | None:
    return {"name": "shape"}.get(question.asks_for or "", question.asks_for)


def _local_group(question: GqaQuestion) -> str:
    steps = len(question.program)
    about = question.subject.replace(" ", "-")
    return f"{steps:02d}{question.structural[0]}-{about}_{question.kind.split()[-1]}"


def _annotations(question: GqaQuestion) -> dict[str, dict[str, str]]:
    """Return the object id of each word span: {"2": id} for one word, {"2:4": id} for several."""

    def spans(text: str) -> dict[str, str]:
        words = [word.strip(".,?") for word in text.split()]
        found = {}
        for thing in question.things:
            noun = thing.noun.split()
            for at in range(len(words) - len(noun) + 1):
                if words[at - 1 : at] == ["the"] and words[at : at + len(noun)] == noun:
                    span = str(at) if len(noun) == 1 else f"{at}:{at + len(noun)}"
                    found[span] = thing.object_id
        return found

    return {
        "answer": {} if question.answer_id is None else {"0": question.answer_id},
        "question": spans(question.text.lower()),
        "fullAnswer": spans(question.full_answer.lower()),
    }


def _choices(questions: dict[str, GqaQuestion]) -> dict[str, dict[str, list[str]]]:
    """Return all answers of the right type as valid, those that occur in the split as plausible."""
    given: defaultdict[str, set[str]] = defaultdict(set)
    for question in questions.values():
        given[_local_group(question)].add(question.answer)
    return {
        id_: {
            "valid": list(question.options),
            "plausible": [
                option
                for option in question.options
                if question.asks_for is None or option in given[_local_group(question)]
            ],
        }
        for id_, question in questions.items()
    }
