"""GQA questions about one object: its colour, size, shape and position."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from vl_lst.demo.captions import with_article
from vl_lst.demo.gqa.programs import append_step, join_programs
from vl_lst.demo.gqa.question import YES_NO, Facts, GqaQuestion, SceneView, Thing, phrasings
from vl_lst.demo.scenes import BENCHMARK_COLOURS, BENCHMARK_SHAPES, SIZES, SceneObject, pick

__all__ = ["ATTRIBUTES", "Attribute", "attribute_questions"]

VERIFY = ("Is the {noun} {value}?",)
CHOOSE = ("Is the {noun} {one} or {other}?",)
VERIFY_BOTH = ("Is the {noun} {one} and {other}?", "Is the {noun} both {one} and {other}?")

# Minimum distance from the centre, as a fraction of the side, for a position to be unambiguous.
MIN_DISTANCE_FROM_CENTRE = 0.1


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute that questions can ask about.

    Args:
        values: Possible values.
        value_of: Returns an object's value, or an empty string where it is ambiguous.
        said: Formats a value so that it completes "the circle is ...".
        semantic: GQA's semantic type.
        detailed: GQA's detailed types of open, yes/no and choice questions.
        query: Wordings of open questions with `{noun}`; empty if there are none.
    """

    values: tuple[str, ...]
    value_of: Callable[[SceneObject], str]
    said: Callable[[str], str]
    semantic: str
    detailed: tuple[str, str, str]
    query: tuple[str, ...]


def _side(at: float, low: str, high: str) -> str:
    if abs(at - 0.5) < MIN_DISTANCE_FROM_CENTRE:
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
    """Yield open, yes/no and choice questions about each object that can be named."""
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
            program=append_step(thing.program, "query", name),
            structural="query",
            semantic=attribute.semantic,
            detailed=open_detailed,
            options=attribute.values,
            stated=known,
            decided_by=(needed,),
            things=(thing,),
            answer_id=thing.object_id if name == "name" else None,
            asks_for=name,
        )
        yield from phrasings(question, attribute.query, rng, noun=thing.noun)
    denied = thing.named | {f"{thing.number} is not {wrong}"}
    question = GqaQuestion(
        kind=f"verify {name}",
        subject=f"{thing.noun} {asked}",
        answer=YES_NO[asked != value],
        full_answer=f"{YES_NO[asked != value].capitalize()}, {truth}",
        program=append_step(thing.program, f"verify {name}", asked),
        structural="verify",
        semantic=attribute.semantic,
        detailed=verify_detailed,
        stated=known if asked == value else thing.facts() | denied,
        decided_by=(needed,) if asked == value else (needed, denied),
        things=(thing,),
    )
    yield from phrasings(question, VERIFY, rng, noun=thing.noun, value=attribute.said(asked))
    one, other = (value, wrong) if rng.random() < 0.5 else (wrong, value)
    question = GqaQuestion(
        kind=f"choose {name}",
        subject=thing.noun,
        answer=value,
        full_answer=truth.capitalize(),
        program=append_step(thing.program, f"choose {name}", f"{one}|{other}"),
        structural="choose",
        semantic=attribute.semantic,
        detailed=choose_detailed,
        options=(one, other),
        stated=known,
        decided_by=(needed,),
        things=(thing,),
        answer_id=thing.object_id if name == "name" else None,
    )
    said = {"one": attribute.said(one), "other": attribute.said(other)}
    yield from phrasings(question, CHOOSE, rng, noun=thing.noun, **said)


def _about_two(thing: Thing, rng: Random) -> Iterator[GqaQuestion]:
    colour, size = thing.item.colour, thing.item.size
    draw = rng.random()
    if draw < 0.25:
        colour = _another(colour, BENCHMARK_COLOURS, rng)
    elif draw < 0.5:
        size = _another(size, SIZES, rng)
    yes = (colour, size) == (thing.item.colour, thing.item.size)
    decided_by: tuple[Facts, ...]
    if yes:
        stated = thing.facts(colour, size)
        decided_by = (thing.named | {f"{thing.number} is {value}" for value in (colour, size)},)
    else:
        stated = thing.facts()
        true, false = (
            (thing.item.size, size) if colour == thing.item.colour else (thing.item.colour, colour)
        )
        decided_by = (
            thing.named | {f"{thing.number} is {true}"},
            thing.named | {f"{thing.number} is not {false}"},
        )
    parts = (
        append_step(thing.program, "verify color", colour),
        append_step(thing.program, "verify size", size),
    )
    question = GqaQuestion(
        kind="and attributes",
        subject=thing.noun,
        answer=YES_NO[not yes],
        full_answer=f"{YES_NO[not yes].capitalize()}, the {thing.noun} is {thing.item.colour} and "
        f"{thing.item.size}.",
        program=join_programs(*parts, "and"),
        structural="logical",
        semantic="attr",
        detailed="verifyAttrAnd",
        stated=stated,
        decided_by=decided_by,
        things=(thing,),
    )
    yield from phrasings(question, VERIFY_BOTH, rng, noun=thing.noun, one=colour, other=size)


def _another(value: str, values: Sequence[str], rng: Random) -> str:
    return pick(rng, [each for each in values if each != value])
