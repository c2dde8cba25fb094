"""VQA-style questions about scenes, with their answers.

`questions_about` returns every question that a scene answers unambiguously, each in one of several
wordings. `vl_lst.demo.balance` chooses among them so that answers are balanced.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from vl_lst.demo.captions import PLURALS, RELATION_WORDS, noun_phrase, with_article
from vl_lst.demo.scenes import (
    BENCHMARK_COLOURS,
    BENCHMARK_SHAPES,
    SIZES,
    Relation,
    Scene,
    SceneObject,
    holds,
    pick,
)

__all__ = ["ANSWERS", "Question", "questions_about"]

OPPOSITES: dict[Relation, Relation] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}

# Minimum distance from the centre, as a fraction of the side, for a side to be unambiguous.
MIN_DISTANCE_FROM_CENTRE = 0.1

PRESENT = (
    "Is there {a}?",
    "Is there {a} in the image?",
    "Is there {a} in the picture?",
    "Is {a} present?",
    "Does the image contain {a}?",
    "Does the picture show {a}?",
    "Can you see {a}?",
)
ABSENT = (
    "Is there no {noun}?",
    "Is there no {noun} in the picture?",
    "Is there not {a}?",
    "Is there not {a} in the image?",
    "Is no {noun} present?",
    "Is {a} missing from the picture?",
    "Does the image not contain {a}?",
    "Does the picture lack {a}?",
)
COLOUR_OF = (
    "What color is the {noun}?",
    "What is the color of the {noun}?",
    "Which color is the {noun}?",
    "What color does the {noun} have?",
)
SHAPE_OF = (
    "What shape is the {colour} object?",
    "What is the {colour} shape?",
    "What is the shape of the {colour} object?",
    "Which shape is {colour}?",
    "What shape is {colour}?",
)
ONLY_SHAPE = (
    "What shape is in the image?",
    "What shape is present?",
    "What shape does the image contain?",
    "Which shape is this?",
    "What is this shape?",
)
HOW_MANY = (
    "How many {nouns} are there?",
    "How many {nouns} are in the image?",
    "How many {nouns} can you see?",
    "How many {nouns} are in this picture?",
)
IS_COLOUR = (
    "Is the {noun} {colour}?",
    "Is the color of the {noun} {colour}?",
    "Is that {noun} {colour}?",
)
SIZE_OF = (
    "Is the {noun} large or small?",
    "Is the {noun} small or large?",
    "What size is the {noun}?",
    "How big is the {noun}?",
)
SIDE_OF = (
    "Is the {noun} on the left or on the right?",
    "Which side of the picture is the {noun} on?",
    "On which side is the {noun}, left or right?",
)
IS_RELATED = ("Is the {noun} {relation} the {other}?", "Is there {a} {relation} the {other}?")

ANSWERS: tuple[str, ...] = (
    *("yes", "no", "left", "right", *SIZES),
    *BENCHMARK_COLOURS,
    *BENCHMARK_SHAPES,
    *(str(number) for number in range(7)),
)


@dataclass(frozen=True, slots=True)
class Question:
    """One question about a picture.

    Args:
        kind: Question type ("colour", "count", ...); answers are balanced within each kind.
        text: Question text.
        answer: One of `ANSWERS`.
        subject: Topic ("red circle"); a picture gets at most one question per kind and subject.
    """

    kind: str
    text: str
    answer: str
    subject: str

    @property
    def answer_type(self) -> str:
        """VQA's answer type: "yes/no", "number" or "other"."""
        if self.answer in ("yes", "no"):
            return "yes/no"
        return "number" if self.answer.isdigit() else "other"


def questions_about(scene: Scene, rng: Random) -> list[Question]:
    """Return every question that the scene answers.

    Args:
        scene: The scene.
        rng: Chooses wordings, and absent objects to ask about.
    """
    return [
        *_existence(scene, rng),
        *_colours(scene, rng),
        *_shapes(scene, rng),
        *_counts(scene, rng),
        *_attributes(scene, rng),
        *_places(scene, rng),
        *_relations(scene, rng),
    ]


def _existence(scene: Scene, rng: Random) -> Iterator[Question]:
    shapes = {item.shape for item in scene.objects}
    colours = {item.colour for item in scene.objects}
    pairs = {noun_phrase(item) for item in scene.objects}
    # Absent objects share a word with present ones; otherwise the questions would be too easy.
    near = [
        noun
        for item in scene.objects
        for noun in (
            f"{item.colour} {pick(rng, BENCHMARK_SHAPES)}",
            f"{pick(rng, BENCHMARK_COLOURS)} {item.shape}",
        )
    ]
    candidates = {
        **{noun: True for noun in pairs},
        **{shape: True for shape in shapes},
        **{f"{colour} shape": True for colour in colours},
    }
    for noun in (*near, pick(rng, BENCHMARK_SHAPES), f"{pick(rng, BENCHMARK_COLOURS)} shape"):
        candidates.setdefault(noun, False)
    for noun, there in sorted(candidates.items()):
        negated = rng.random() < 0.4
        wording = pick(rng, ABSENT if negated else PRESENT)
        yield Question(
            "absent" if negated else "present",
            wording.format(a=with_article(noun), noun=noun),
            "yes" if there != negated else "no",
            noun,
        )


def _colours(scene: Scene, rng: Random) -> Iterator[Question]:
    for item in _unique(scene.objects, "shape"):
        text = pick(rng, COLOUR_OF).format(noun=item.shape)
        yield Question("colour", text, item.colour, item.shape)
    if len(scene.objects) == 1:
        text = pick(rng, COLOUR_OF).format(noun="shape")
        yield Question("colour", text, scene.objects[0].colour, "shape")


def _shapes(scene: Scene, rng: Random) -> Iterator[Question]:
    for item in _unique(scene.objects, "colour"):
        text = pick(rng, SHAPE_OF).format(colour=item.colour)
        yield Question("shape", text, item.shape, f"{item.colour} shape")
    if len(scene.objects) == 1:
        yield Question("shape", pick(rng, ONLY_SHAPE), scene.objects[0].shape, "shape")


def _counts(scene: Scene, rng: Random) -> Iterator[Question]:
    shapes = Counter(item.shape for item in scene.objects)
    colours = Counter(item.colour for item in scene.objects)
    absent = pick(rng, BENCHMARK_SHAPES)
    counted = {
        **{PLURALS[shape]: number for shape, number in shapes.items()},
        **{f"{colour} shapes": number for colour, number in colours.items()},
        PLURALS[absent]: shapes[absent],
        "shapes": len(scene.objects),
    }
    for nouns, number in sorted(counted.items()):
        yield Question("count", pick(rng, HOW_MANY).format(nouns=nouns), str(number), nouns)


def _attributes(scene: Scene, rng: Random) -> Iterator[Question]:
    for item in _unique(scene.objects, "shape"):
        true = rng.random() < 0.5
        others = [c for c in BENCHMARK_COLOURS if c != item.colour]
        colour = item.colour if true else pick(rng, others)
        text = pick(rng, IS_COLOUR).format(noun=item.shape, colour=colour)
        yield Question("attribute", text, "yes" if true else "no", f"{item.shape} is {colour}")


def _places(scene: Scene, rng: Random) -> Iterator[Question]:
    for item in _unique(scene.objects, "shape"):
        noun = item.shape
        yield Question("size", pick(rng, SIZE_OF).format(noun=noun), item.size, f"{noun} size")
        if abs(item.x - 0.5) >= MIN_DISTANCE_FROM_CENTRE:
            side = "left" if item.x < 0.5 else "right"
            yield Question("side", pick(rng, SIDE_OF).format(noun=noun), side, f"{noun} side")


def _relations(scene: Scene, rng: Random) -> Iterator[Question]:
    items = _unique(scene.objects, "shape")
    for a in items:
        for b in items:
            relation = pick(rng, tuple(RELATION_WORDS))
            true, false = holds(relation, a, b), holds(OPPOSITES[relation], a, b)
            if a is b or not (true or false):
                continue
            text = pick(rng, IS_RELATED).format(
                noun=a.shape,
                a=with_article(a.shape),
                relation=RELATION_WORDS[relation],
                other=b.shape,
            )
            yield Question("relation", text, "yes" if true else "no", f"{a.shape} and {b.shape}")


def _unique(items: Sequence[SceneObject], attribute: str) -> list[SceneObject]:
    counts = Counter(getattr(item, attribute) for item in items)
    return [item for item in items if counts[getattr(item, attribute)] == 1]
