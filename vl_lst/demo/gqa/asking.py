"""What GQA's questions are made of: objects as they are referred to, facts, and what follows.

A question entails another of the same picture if whoever knows its answer knows the other's. To
find that out, each question lists the facts its answer tells and the sets of facts that settle it.
Facts are plain texts: "0 is red" of object 0, "0 left of 1", "there is red circle".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from vl_lst.demo.gqa.programs import Program, find
from vl_lst.demo.scenes import BENCHMARK_COLOURS, BENCHMARK_SHAPES, Scene, SceneObject

__all__ = ["YES_NO", "Facts", "GqaQuestion", "SceneView", "Thing", "presence", "settling", "worded"]

YES_NO = ("yes", "no")
REWORDED = 0.3

Facts = frozenset[str]


@dataclass(frozen=True, slots=True)
class Thing:
    """An object as a question refers to it, by what no other object of the picture shares.

    Args:
        number: Its position in the scene.
        object_id: Its id.
        item: The object.
        noun: "circle" or "red shape".
        known_by: The value that the noun gives away: "circle" or "red".
    """

    number: int
    object_id: str
    item: SceneObject
    noun: str
    known_by: str

    @property
    def program(self) -> Program:
        """The steps that find it."""
        return (
            find(self.item.shape, "", [self.object_id])
            if self.known_by == self.item.shape
            else find("shape", self.item.colour, [self.object_id])
        )

    @property
    def named(self) -> Facts:
        """What one has to know of it to understand the noun."""
        return frozenset([f"{self.number} is {self.known_by}"])

    def facts(self, *values: str) -> Facts:
        """What is known of the object once it is referred to and these values of it are known."""
        known = (self.known_by, *values)
        colour = next((value for value in known if value in BENCHMARK_COLOURS), "")
        shape = next((value for value in known if value in BENCHMARK_SHAPES), "")
        return presence(colour, shape).union(f"{self.number} is {value}" for value in known)


@dataclass(frozen=True, slots=True, kw_only=True)
class GqaQuestion:
    """One question about a picture.

    Args:
        kind: What answers are balanced within.
        subject: What it is about; a picture is asked once about one subject.
        text: The question.
        answer: The right answer.
        full_answer: The same as a sentence.
        program: How the answer is found.
        structural: "verify", "query", "choose", "logical" or "compare".
        semantic: "obj", "attr", "cat", "rel" or "global".
        detailed: GQA's name of the kind of question.
        options: Answers that could answer it.
        told: Facts that its answer tells.
        settled_by: Sets of facts; each is enough to know the answer.
        things: The objects it names.
        answer_id: Id of the object that its answer names.
        asks_for: Of an open question, what it asks for.
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
    told: Facts
    settled_by: tuple[Facts, ...]
    things: tuple[Thing, ...] = ()
    answer_id: str | None = None
    asks_for: str | None = None

    def entails(self, other: "GqaQuestion") -> bool:
        """Tell whether the answer of this question gives away the other's."""
        return any(facts <= self.told for facts in other.settled_by)


class SceneView:
    """A scene's objects by what they can be referred to with.

    Args:
        scene: What the picture shows.
        object_ids: Ids of its objects.
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
        """Return the program that looks for a colour and a shape, and whether it finds any."""
        ids = [
            self.object_ids[n]
            for n, item in enumerate(self.scene.objects)
            if colour in ("", item.colour) and shape in ("", item.shape)
        ]
        return find(shape or "shape", colour, ids), bool(ids)


def presence(colour: str, shape: str) -> Facts:
    """What is known once an object of a colour and a shape, either of them or none, was seen."""
    facts = set()
    if shape:
        facts.add(f"there is {shape}")
    if colour:
        facts.add(f"there is {colour} shape")
    if colour and shape:
        facts.add(f"there is {colour} {shape}")
    return frozenset(facts)


def settling(colour: str, shape: str, *, there: bool) -> tuple[Facts, ...]:
    """What tells that there is, or is not, an object of a colour and a shape or one of the two.

    What the answer itself tells comes first.
    """
    noun = f"{colour} {shape or 'shape'}".strip()
    if there:
        return (frozenset([f"there is {noun}"]),)
    wider = [f"{colour} shape", shape] if colour and shape else []
    return tuple(frozenset([f"there is no {each}"]) for each in (noun, *wider))


def worded(
    question: GqaQuestion, wordings: Sequence[str], rng: Random, **words: str
) -> Iterator[GqaQuestion]:
    """Yield a question in one of its wordings, and now and then in a second one as well."""
    at = int(rng.random() * len(wordings))
    yield replace(question, text=wordings[at].format(**words))
    if len(wordings) > 1 and rng.random() < REWORDED:
        yield replace(question, text=wordings[at - 1].format(**words))
