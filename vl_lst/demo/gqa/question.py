"""The building blocks of GQA questions: references to objects, facts, and entailment.

A question entails another about the same picture if its answer determines the other's. To compute
that, each question lists the facts that its answer states and the sets of facts that decide it.
Facts are strings: "0 is red" for object 0, "0 left of 1", "there is red circle".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from vl_lst.demo.gqa.programs import Program, find
from vl_lst.demo.scenes import BENCHMARK_COLOURS, BENCHMARK_SHAPES, Scene, SceneObject

__all__ = [
    "YES_NO",
    "Facts",
    "GqaQuestion",
    "SceneView",
    "Thing",
    "deciding_facts",
    "phrasings",
    "presence_facts",
]

YES_NO = ("yes", "no")
SECOND_PHRASING_PROBABILITY = 0.3

Facts = frozenset[str]


@dataclass(frozen=True, slots=True)
class Thing:
    """An object that a question can refer to by a property that no other object has.

    Args:
        number: Index of the object in the scene.
        object_id: Id of the object.
        item: The object.
        noun: "circle" or "red shape".
        known_by: The value that the noun states: "circle" or "red".
    """

    number: int
    object_id: str
    item: SceneObject
    noun: str
    known_by: str

    @property
    def program(self) -> Program:
        """Program that selects the object."""
        return (
            find(self.item.shape, "", [self.object_id])
            if self.known_by == self.item.shape
            else find("shape", self.item.colour, [self.object_id])
        )

    @property
    def named(self) -> Facts:
        """Facts that identify the object."""
        return frozenset([f"{self.number} is {self.known_by}"])

    def facts(self, *values: str) -> Facts:
        """Return the facts known once a question refers to the object and states these values."""
        known = (self.known_by, *values)
        colour = next((value for value in known if value in BENCHMARK_COLOURS), "")
        shape = next((value for value in known if value in BENCHMARK_SHAPES), "")
        return presence_facts(colour, shape).union(f"{self.number} is {value}" for value in known)


@dataclass(frozen=True, slots=True, kw_only=True)
class GqaQuestion:
    """One question about a picture.

    Args:
        kind: Question type; answers are balanced within each kind.
        subject: Topic; a picture gets at most one question per kind and subject.
        text: Question text.
        answer: Correct answer.
        full_answer: The answer as a sentence.
        program: Functional program that computes the answer.
        structural: "verify", "query", "choose", "logical" or "compare".
        semantic: "obj", "attr", "cat", "rel" or "global".
        detailed: GQA's name for the question type.
        options: Valid answers.
        stated: Facts that the answer states.
        decided_by: Sets of facts; each set determines the answer.
        things: Objects that the question names.
        answer_id: Id of the object that the answer names.
        asks_for: The attribute that an open question asks for.
    """

    kind: str
    subject: str
    text: str = ""
    answer: str
    full_answer: str
    program: Program
    structural: str
    semantic: str
    detailed: str
    options: tuple[str, ...] = YES_NO
    stated: Facts
    decided_by: tuple[Facts, ...]
    things: tuple[Thing, ...] = ()
    answer_id: str | None = None
    asks_for: str | None = None

    def entails(self, other: "GqaQuestion") -> bool:
        """Return whether the answer to this question determines the answer to the other."""
        return any(facts <= self.stated for facts in other.decided_by)


class SceneView:
    """A scene's objects, grouped by the property that identifies them.

    Args:
        scene: The scene.
        object_ids: Ids of its objects, in order.
    """

    def __init__(self, scene: Scene, object_ids: Sequence[str]) -> None:
        self.scene = scene
        self.object_ids = object_ids
        self.by_shape = [
            Thing(n, object_ids[n], item, item.shape, item.shape)
            for n, item in enumerate(scene.objects)
            if sum(item.shape == each.shape for each in scene.objects) == 1
        ]
        self.by_colour = [
            Thing(n, object_ids[n], item, f"{item.colour} shape", item.colour)
            for n, item in enumerate(scene.objects)
            if sum(item.colour == each.colour for each in scene.objects) == 1
        ]

    def find_any(self, colour: str, shape: str) -> tuple[Program, bool]:
        """Return the program that selects a colour and a shape, and whether it finds any object."""
        ids = [
            self.object_ids[n]
            for n, item in enumerate(self.scene.objects)
            if colour in ("", item.colour) and shape in ("", item.shape)
        ]
        return find(shape or "shape", colour, ids), bool(ids)


def presence_facts(colour: str, shape: str) -> Facts:
    """Return the facts implied by an object of this colour and shape; either may be empty."""
    facts = set()
    if shape:
        facts.add(f"there is {shape}")
    if colour:
        facts.add(f"there is {colour} shape")
    if colour and shape:
        facts.add(f"there is {colour} {shape}")
    return frozenset(facts)


def deciding_facts(colour: str, shape: str, *, there: bool) -> tuple[Facts, ...]:
    """Return the sets of facts that decide whether an object of this colour and shape exists.

    The first set is the one that the answer itself states. Colour or shape may be empty.
    """
    noun = f"{colour} {shape or 'shape'}".strip()
    if there:
        return (frozenset([f"there is {noun}"]),)
    wider = [f"{colour} shape", shape] if colour and shape else []
    return tuple(frozenset([f"there is no {each}"]) for each in (noun, *wider))


def phrasings(
    question: GqaQuestion, wordings: Sequence[str], rng: Random, **words: str
) -> Iterator[GqaQuestion]:
    """Yield a question in one of its wordings, and sometimes in a second one as well."""
    at = int(rng.random() * len(wordings))
    yield replace(question, text=wordings[at].format(**words))
    if len(wordings) > 1 and rng.random() < SECOND_PHRASING_PROBABILITY:
        yield replace(question, text=wordings[at - 1].format(**words))
