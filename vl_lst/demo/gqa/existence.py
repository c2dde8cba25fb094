"""GQA questions about whether objects exist."""

from collections.abc import Iterator
from itertools import combinations
from random import Random

from vl_lst.demo.captions import PLURALS, with_article
from vl_lst.demo.gqa.programs import append_step, join_programs
from vl_lst.demo.gqa.question import (
    YES_NO,
    GqaQuestion,
    SceneView,
    deciding_facts,
    phrasings,
    presence_facts,
)
from vl_lst.demo.scenes import BENCHMARK_COLOURS, BENCHMARK_SHAPES, pick

__all__ = ["existence_questions"]

EXISTS = ("Is there {a}?", "Is there {a} in the picture?", "Are there any {nouns}?")
BOTH_EXIST = ("Are there both {nouns} and {others}?", "Is there {a} and {another}?")
EITHER_EXISTS = ("Are there either {nouns} or {others}?", "Is there {a} or {another}?")


def existence_questions(view: SceneView, rng: Random) -> Iterator[GqaQuestion]:
    """Yield questions about one object, and about two joined by "and" or "or"."""
    yield from _one(view, rng)
    yield from _two(view, rng)


def _one(view: SceneView, rng: Random) -> Iterator[GqaQuestion]:
    # Absent objects share a word with present ones; otherwise the questions would be too easy.
    asked = {("", pick(rng, BENCHMARK_SHAPES)), (pick(rng, BENCHMARK_COLOURS), "")}
    for item in view.scene.objects:
        asked |= {("", item.shape), (item.colour, ""), (item.colour, item.shape)}
        asked |= {
            (item.colour, pick(rng, BENCHMARK_SHAPES)),
            (pick(rng, BENCHMARK_COLOURS), item.shape),
        }
    for colour, shape in sorted(asked):
        noun = f"{colour} {shape or 'shape'}".strip()
        program, there = view.find_any(colour, shape)
        decided_by = deciding_facts(colour, shape, there=there)
        question = GqaQuestion(
            kind="exist",
            subject=noun,
            answer=YES_NO[not there],
            full_answer=f"Yes, there is {with_article(noun)}."
            if there
            else f"No, there is no {noun}.",
            program=append_step(program, "exist", "?"),
            structural="verify",
            semantic="obj",
            detailed="existAttr" if colour else "exist",
            stated=presence_facts(colour, shape) if there else decided_by[0],
            decided_by=decided_by,
        )
        nouns = f"{colour} {PLURALS[shape or 'shape']}".strip()
        yield from phrasings(question, EXISTS, rng, a=with_article(noun), nouns=nouns)


def _two(view: SceneView, rng: Random) -> Iterator[GqaQuestion]:
    present = {item.shape for item in view.scene.objects}
    shapes = sorted(present | {pick(rng, BENCHMARK_SHAPES), pick(rng, BENCHMARK_SHAPES)})
    for operation, wordings in (("and", BOTH_EXIST), ("or", EITHER_EXISTS)):
        # One pair per answer: random pairs are rarely both present or both absent.
        of_answer: dict[bool, list[tuple[str, str]]] = {}
        for pair in combinations(shapes, 2):
            there = [shape in present for shape in pair]
            yes = all(there) if operation == "and" else any(there)
            of_answer.setdefault(yes, []).append(pair)
        for yes, pairs in sorted(of_answer.items()):
            pair = pick(rng, pairs)
            (one, one_there), (other, other_there) = (view.find_any("", shape) for shape in pair)
            decisive = [
                deciding_facts("", shape, there=yes)[0]
                for shape, there in zip(pair, (one_there, other_there), strict=True)
                if there == yes
            ]
            # "Both exist" and "neither exists" need both facts; their negations need only one.
            needs_both = yes == (operation == "and")
            if needs_both:
                decisive = [frozenset.union(*decisive)]
            question = GqaQuestion(
                kind=f"{operation} exist",
                subject=" ".join(pair),
                answer=YES_NO[not yes],
                full_answer=f"{YES_NO[not yes].capitalize()}.",
                program=join_programs(
                    append_step(one, "exist", "?"), append_step(other, "exist", "?"), operation
                ),
                structural="logical",
                semantic="obj",
                detailed=f"exist{operation.capitalize()}",
                stated=decisive[0] if needs_both else frozenset(),
                decided_by=tuple(decisive),
            )
            yield from phrasings(
                question,
                wordings,
                rng,
                a=with_article(pair[0]),
                another=with_article(pair[1]),
                nouns=PLURALS[pair[0]],
                others=PLURALS[pair[1]],
            )
