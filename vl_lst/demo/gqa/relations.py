"""GQA questions about two objects: spatial relations and comparisons."""

from collections.abc import Iterator
from random import Random

from vl_lst.demo.gqa.programs import Program, append_step, find, join_programs
from vl_lst.demo.gqa.question import YES_NO, GqaQuestion, SceneView, Thing, phrasings
from vl_lst.demo.scenes import BENCHMARK_SHAPES, Relation, SceneObject, holds, pick

__all__ = ["relation_questions"]

NEIGHBOUR = ("What shape is {words} the {noun}?", "What is {words} the {noun}?")
RELATED = ("Is the {noun} {words} the {other}?",)
EITHER_WAY = ("Is the {noun} {either} the {other}?",)
SAME = (
    "Are the {noun} and the {other} the same {name}?",
    "Do the {noun} and the {other} have the same {name}?",
)
DIFFERENT = ("Do the {noun} and the {other} have different {name}s?",)
BIGGER = (
    "Which is bigger, the {noun} or the {other}?",
    "What is bigger, the {noun} or the {other}?",
)
IN_COMMON = ("What do the two shapes have in common?", "What do both shapes have in common?")
# Answers that the official script allows for questions of type "common".
COMMON_ANSWERS = ("color", "material", "shape")

WORDS: dict[Relation, str] = {
    "left of": "to the left of",
    "right of": "to the right of",
    "above": "above",
    "below": "below",
}
# A relation, its opposite, and the wording of the choice between them.
AXES: tuple[tuple[Relation, Relation, str], ...] = (
    ("left of", "right of", "to the left or to the right of"),
    ("above", "below", "above or below"),
)


def relation_questions(view: SceneView, rng: Random) -> Iterator[GqaQuestion]:
    """Yield questions about neighbours, and about pairs of objects that can be named."""
    for one in view.by_shape:
        yield from _neighbours(view, one, rng)
        for other in view.by_shape:
            if one is not other:
                yield from _places(one, other, rng)
                yield from _comparisons(one, other, rng)
    yield from _common(view, rng)


def _neighbours(view: SceneView, thing: Thing, rng: Random) -> Iterator[GqaQuestion]:
    for relation, words in WORDS.items():
        beyond = [
            (n, item)
            for n, item in enumerate(view.scene.objects)
            if n != thing.number and _leans(relation, item, thing.item)
        ]
        if len(beyond) != 1 or not holds(relation, beyond[0][1], thing.item):
            continue
        ((number, item),) = beyond
        fact = f"{number} is {item.shape}"
        place = _fact(relation, number, thing.number)
        object_id = view.object_ids[number]
        found = append_step(thing.program, "relate", f"shape,{words},s ({object_id})")
        question = GqaQuestion(
            kind="query relation",
            subject=f"{words} {thing.noun}",
            answer=item.shape,
            full_answer=f"The shape {words} the {thing.noun} is a {item.shape}.",
            program=append_step(found, "query", "name"),
            structural="query",
            semantic="rel",
            detailed="relS",
            options=BENCHMARK_SHAPES,
            stated=thing.facts() | {fact, place, f"there is {item.shape}"},
            decided_by=(thing.named | {fact, place},),
            things=(thing,),
            answer_id=object_id,
            asks_for="name",
        )
        yield from phrasings(question, NEIGHBOUR, rng, words=words, noun=thing.noun)


def _leans(relation: Relation, a: SceneObject, b: SceneObject) -> bool:
    """Return whether `a` is on that side of `b`, by any margin."""
    return {"left of": a.x < b.x, "right of": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}[
        relation
    ]


def _places(one: Thing, other: Thing, rng: Random) -> Iterator[GqaQuestion]:
    for *relations, either in AXES:
        true = next((r for r in relations if holds(r, one.item, other.item)), None)
        if true is None:
            continue
        asked = pick(rng, relations)
        place = _fact(true, one.number, other.number)
        named = one.named | other.named
        referred = one.facts() | other.facts()
        not_asked = f"not {_fact(asked, one.number, other.number)}"
        truth = f"the {one.noun} is {WORDS[true]} the {other.noun}."
        yes = asked == true
        question = GqaQuestion(
            kind="verify relation",
            subject=f"{one.noun} {other.noun}",
            answer=YES_NO[not yes],
            full_answer=f"{YES_NO[not yes].capitalize()}, {truth}",
            program=_related(one, other, "verify", WORDS[asked]),
            structural="verify",
            semantic="rel",
            detailed="relVerify",
            stated=referred | {place if yes else not_asked},
            decided_by=(named | {place},) if yes else (named | {place}, named | {not_asked}),
            things=(one, other),
        )
        yield from phrasings(
            question, RELATED, rng, noun=one.noun, words=WORDS[asked], other=other.noun
        )
        question = GqaQuestion(
            kind="choose relation",
            subject=f"{one.noun} {other.noun}",
            answer=true.removesuffix(" of"),
            full_answer=truth.capitalize(),
            program=_related(one, other, "choose", "|".join(WORDS[r] for r in relations)),
            structural="choose",
            semantic="rel",
            detailed="relChooser",
            options=tuple(relation.removesuffix(" of") for relation in relations),
            stated=referred | {place},
            decided_by=(named | {place},),
            things=(one, other),
        )
        yield from phrasings(
            question, EITHER_WAY, rng, noun=one.noun, either=either, other=other.noun
        )


def _related(one: Thing, other: Thing, operation: str, words: str) -> Program:
    argument = f"{other.noun},{words},o ({other.object_id})"
    return append_step(one.program, f"{operation} rel", argument)


def _fact(relation: Relation, number: int, other: int) -> str:
    """Return one canonical fact for a relation and its inverse."""
    if relation in ("right of", "below"):
        relation = "left of" if relation == "right of" else "above"
        number, other = other, number
    return f"{number} {relation} {other}"


def _comparisons(one: Thing, other: Thing, rng: Random) -> Iterator[GqaQuestion]:
    for name, value, other_value in (
        ("color", one.item.colour, other.item.colour),
        ("size", one.item.size, other.item.size),
    ):
        yield from _same(one, other, name, (value, other_value), rng)
    if one.item.size == other.item.size:
        return
    large, small = (one, other) if one.item.size == "large" else (other, one)
    fact = f"{large.number} bigger than {small.number}"
    sizes = {f"{large.number} is large", f"{small.number} is small"}
    named = one.named | other.named
    question = GqaQuestion(
        kind="compare sizes",
        subject=f"{one.noun} {other.noun}",
        answer=large.noun,
        full_answer=f"The {large.noun} is bigger than the {small.noun}.",
        program=join_programs(
            one.program, other.program, "choose bigger", f"{one.noun}|{other.noun}"
        ),
        structural="compare",
        semantic="attr",
        detailed="comparativeChoose",
        options=(one.noun, other.noun),
        stated=one.facts() | other.facts() | {fact},
        decided_by=(named | {fact}, named | sizes),
        things=(one, other),
        answer_id=large.object_id,
    )
    yield from phrasings(question, BIGGER, rng, noun=one.noun, other=other.noun)


def _same(
    one: Thing, other: Thing, name: str, values: tuple[str, str], rng: Random
) -> Iterator[GqaQuestion]:
    same = values[0] == values[1]
    asks_same = rng.random() < 0.5
    yes = same == asks_same
    fact = _alike(one.number, other.number, name, same=same)
    named = one.named | other.named
    both_known = {f"{one.number} is {values[0]}", f"{other.number} is {values[1]}"}
    question = GqaQuestion(
        kind=f"compare {name}",
        subject=f"{one.noun} {other.noun}",
        answer=YES_NO[not yes],
        full_answer=f"{YES_NO[not yes].capitalize()}, the {one.noun} is {values[0]} and the "
        f"{other.noun} is {values[1]}.",
        program=join_programs(
            one.program, other.program, f"{'same' if asks_same else 'different'} {name}"
        ),
        structural="compare",
        semantic="attr",
        detailed="twoSame" if asks_same else "twoDifferent",
        stated=one.facts() | other.facts() | {fact},
        decided_by=(named | {fact}, named | both_known),
        things=(one, other),
    )
    wordings = SAME if asks_same else DIFFERENT
    yield from phrasings(question, wordings, rng, noun=one.noun, other=other.noun, name=name)


def _common(view: SceneView, rng: Random) -> Iterator[GqaQuestion]:
    items = view.scene.objects
    if len(items) != 2:
        return
    one, other = items
    shared = [
        name
        for name, same in (
            ("color", one.colour == other.colour),
            ("shape", one.shape == other.shape),
        )
        if same
    ]
    if len(shared) != 1:
        return
    fact = frozenset([_alike(0, 1, shared[0], same=True)])
    found = (find("shape", "", [object_id]) for object_id in view.object_ids)
    question = GqaQuestion(
        kind="compare common",
        subject="shapes",
        answer=shared[0],
        full_answer=f"They have the same {shared[0]}.",
        program=join_programs(next(found), next(found), "common"),
        structural="compare",
        semantic="attr",
        detailed="twoCommon",
        options=COMMON_ANSWERS,
        stated=fact,
        decided_by=(fact,),
    )
    yield from phrasings(question, IN_COMMON, rng)


def _alike(number: int, other: int, name: str, *, same: bool) -> str:
    low, high = sorted((number, other))
    return f"{low} and {high} {'share' if same else 'do not share'} the {name}"
