"""GQA's questions about one object: its colour, size, shape and place."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from vl_lst.demo.captions import with_article
from vl_lst.demo.gqa.asking import YES_NO, Facts, GqaQuestion, SceneView, Thing, worded
from vl_lst.demo.gqa.programs import joined, then
from vl_lst.demo.scenes import BENCHMARK_COLOURS, BENCHMARK_SHAPES, SIZES, SceneObject, pick

__all__ = ["ATTRIBUTES", "Attribute", "attribute_questions"]

VERIFY = ("Is the {noun} {value}?",)
CHOOSE = ("Is the {noun} {one} or {other}?",)
VERIFY_BOTH = ("Is the {noun} {one} and {other}?", "Is the {noun} both {one} and {other}?")

# Centres this far from the middle of the picture lie on one side of it without doubt.
CLEARLY_ASIDE = 0.1


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing that can be asked about an object.

    Args:
        values: What it can be.
        value_of: What it is of an object, or nothing where that is open to doubt.
        said: Turns a value into what stands behind "the circle is".
        semantic: GQA's semantic type of questions about it.
        detailed: GQA's detailed types of open questions, of yes/no ones and of choices.
        query: Open wordings, `{noun}` being the object; none where only choices are given.
    """

    values: tuple[str, ...]
    value_of: Callable[[SceneObject], str]
    said: Callable[[str], str]
    semantic: str
    detailed: tuple[str, str, str]
    query: tuple[str, ...]


def _side(at: float, low: str, high: str) -> str:
    if abs(at - 0.5) < CLEARLY_ASIDE:
        return ""
    return low if at < 0.5 else high


ATTRIBUTES = {
    "color": Attribute(
        values=BENCHMARK_COLOURS,
        value_of=lambda item: item.colour,
        said=str,
        semantic="attr",
        detailed=("directWhich", "verifyAttr", "chooseAttr"),
        query=(
            "What color is the {noun}?",
            "What is the color of the {noun}?",
            "Which color is the {noun}?",
        ),
    ),
    "size": Attribute(
        values=SIZES,
        value_of=lambda item: item.size,
        said=str,
        semantic="attr",
        detailed=("how", "verifyAttr", "chooseAttr"),
        query=("What size is the {noun}?", "How big is the {noun}?"),
    ),
    "name": Attribute(
        values=BENCHMARK_SHAPES,
        value_of=lambda item: item.shape,
        said=with_article,
        semantic="cat",
        detailed=("categoryAttr", "verifyCat", "categoryThatChoose"),
        query=("What is the {noun}?", "Which shape is the {noun}?"),
    ),
    "hposition": Attribute(
        values=("left", "right"),
        value_of=lambda item: _side(item.x, "left", "right"),
        said="on the {}".format,
        semantic="attr",
        detailed=("positionQuery", "positionVerify", "positionChoose"),
        query=("Which side of the picture is the {noun} on?",),
    ),
    "vposition": Attribute(
        values=("top", "bottom"),
        value_of=lambda item: _side(item.y, "top", "bottom"),
        said="at the {}".format,
        semantic="attr",
        detailed=("positionQuery", "positionVerify", "positionChoose"),
        query=(),
    ),
}


def attribute_questions(view: SceneView, rng: Random) -> Iterator[GqaQuestion]:
    """Yield open questions, yes/no ones and choices about each object that can be named."""
    for thing in (*view.by_shape, *view.by_colour):
        for name, attribute in ATTRIBUTES.items():
            value = attribute.value_of(thing.item)
            if value and value != thing.known_by:
                yield from _about(thing, name, attribute, value, rng)
    for thing in view.by_shape:
        yield from _about_two(thing, rng)


def _about(
    thing: Thing, name: str, attribute: Attribute, value: str, rng: Random
) -> Iterator[GqaQuestion]:
    wrong = _another(value, attribute.values, rng)
    asked = pick(rng, (value, wrong))
    truth = f"the {thing.noun} is {attribute.said(value)}."
    open_detailed, verify_detailed, choose_detailed = attribute.detailed
    known = thing.facts(value)
    needed = thing.named | {f"{thing.number} is {value}"}
    if attribute.query:
        question = GqaQuestion(
            kind=f"query {name}",
            subject=thing.noun,
            answer=value,
            full_answer=truth.capitalize(),
            program=then(thing.program, "query", name),
            structural="query",
            semantic=attribute.semantic,
            detailed=open_detailed,
            options=attribute.values,
            told=known,
            settled_by=(needed,),
            things=(thing,),
            answer_id=thing.object_id if name == "name" else None,
            asks_for=name,
        )
        yield from worded(question, attribute.query, rng, noun=thing.noun)
    denied = thing.named | {f"{thing.number} is not {wrong}"}
    question = GqaQuestion(
        kind=f"verify {name}",
        subject=f"{thing.noun} {asked}",
        answer=YES_NO[asked != value],
        full_answer=f"{YES_NO[asked != value].capitalize()}, {truth}",
        program=then(thing.program, f"verify {name}", asked),
        structural="verify",
        semantic=attribute.semantic,
        detailed=verify_detailed,
        told=known if asked == value else thing.facts() | denied,
        settled_by=(needed,) if asked == value else (needed, denied),
        things=(thing,),
    )
    yield from worded(question, VERIFY, rng, noun=thing.noun, value=attribute.said(asked))
    one, other = (value, wrong) if rng.random() < 0.5 else (wrong, value)
    question = GqaQuestion(
        kind=f"choose {name}",
        subject=thing.noun,
        answer=value,
        full_answer=truth.capitalize(),
        program=then(thing.program, f"choose {name}", f"{one}|{other}"),
        structural="choose",
        semantic=attribute.semantic,
        detailed=choose_detailed,
        options=(one, other),
        told=known,
        settled_by=(needed,),
        things=(thing,),
        answer_id=thing.object_id if name == "name" else None,
    )
    said = {"one": attribute.said(one), "other": attribute.said(other)}
    yield from worded(question, CHOOSE, rng, noun=thing.noun, **said)


def _about_two(thing: Thing, rng: Random) -> Iterator[GqaQuestion]:
    colour, size = thing.item.colour, thing.item.size
    way = rng.random()
    if way < 0.25:
        colour = _another(colour, BENCHMARK_COLOURS, rng)
    elif way < 0.5:
        size = _another(size, SIZES, rng)
    yes = (colour, size) == (thing.item.colour, thing.item.size)
    settled_by: tuple[Facts, ...]
    if yes:
        told = thing.facts(colour, size)
        settled_by = (thing.named | {f"{thing.number} is {value}" for value in (colour, size)},)
    else:
        told = thing.facts()
        true, false = (
            (thing.item.size, size) if colour == thing.item.colour else (thing.item.colour, colour)
        )
        settled_by = (
            thing.named | {f"{thing.number} is {true}"},
            thing.named | {f"{thing.number} is not {false}"},
        )
    parts = (then(thing.program, "verify color", colour), then(thing.program, "verify size", size))
    question = GqaQuestion(
        kind="and attributes",
        subject=thing.noun,
        answer=YES_NO[not yes],
        full_answer=f"{YES_NO[not yes].capitalize()}, the {thing.noun} is {thing.item.colour} and "
        f"{thing.item.size}.",
        program=joined(*parts, "and"),
        structural="logical",
        semantic="attr",
        detailed="verifyAttrAnd",
        told=told,
        settled_by=settled_by,
        things=(thing,),
    )
    yield from worded(question, VERIFY_BOTH, rng, noun=thing.noun, one=colour, other=size)


def _another(value: str, values: Sequence[str], rng: Random) -> str:
    return pick(rng, [each for each in values if each != value])
