"""NLVR2-style statements about two pictures, true or false."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random

from vl_lst.demo.captions import NUMBER_WORDS, count_phrase, with_article
from vl_lst.demo.scenes import Scene, pick

__all__ = ["Statement", "statements_about"]

Predicate = Callable[[Scene, Scene], bool]

# These wordings occur in the pretraining text of the demo's T5.
CONTAINS = (
    "The {side} image contains {a}.",
    "The {side} image shows {a}.",
    "There is {a} in the {side} image.",
)
LACKS = (
    "The {side} image does not contain {a}.",
    "There is no {noun} in the {side} image.",
    "No {noun} is present in the {side} image.",
)
BOTH = (
    "Both images contain {a}.",
    "Each image contains {a}.",
    "There is {a} in both images.",
)
EITHER = (
    "At least one of the images contains {a}.",
    "At least one of the images shows {a}.",
    "There is {a} in at least one of the images.",
    "There is {a} in one image or in both.",
)
NEITHER = (
    "Neither of the images contains {a}.",
    "There is no {noun} in either image.",
)
ONE_ONLY = (
    "Exactly one of the images contains {a}.",
    "One image contains {a} and the other does not.",
)
FIRST_ONLY = ("The {side} image shows {a} and the {other} image does not.",)
EXACTLY = (
    "The {side} image contains exactly {counted}.",
    "There {are} exactly {counted} in the {side} image.",
)
MORE = (
    "The {side} image contains more shapes than the {other} image.",
    "There are more shapes in the {side} image than in the {other} image.",
)
AS_MANY = (
    "Both images contain the same number of shapes.",
    "There are as many shapes in the left image as in the right image.",
)
IN_ALL = ("There are exactly {number} shapes in the two images together.",)
SIDES = ("left", "right")
MAX_TOTAL = len(NUMBER_WORDS) - 1


@dataclass(frozen=True, slots=True)
class Statement:
    """One sentence about a pair of pictures.

    Args:
        kind: Type of statement ("one side", "both", ...).
        subject: Topic ("red shape").
        text: The sentence.
        holds: Returns whether it is true for a left and a right scene.
    """

    kind: str
    subject: str
    text: str
    holds: Predicate


def statements_about(colours: Iterable[str], rng: Random) -> list[Statement]:
    """Return candidate statements about these colours, about counts and comparisons.

    Args:
        colours: Names of colours.
        rng: Chooses wordings.
    """
    made: list[Statement] = []
    # Colours only: the model must ground every noun separately, and the demo has no time to learn
    # many of them.
    for colour in colours:
        made += _presence(f"{colour} shape", _Contains(colour), rng)
    return [*made, *_counts(rng), *_comparisons(rng)]


@dataclass(frozen=True, slots=True)
class _Contains:
    """Predicate: whether a scene has an object of a colour."""

    colour: str

    def __call__(self, scene: Scene) -> bool:
        return any(item.colour == self.colour for item in scene.objects)


def _presence(noun: str, contains: _Contains, rng: Random) -> Iterator[Statement]:
    def state(kind: str, wording: str, holds: Predicate, side: int = 0) -> Statement:
        text = wording.format(
            a=with_article(noun), noun=noun, side=SIDES[side], other=SIDES[1 - side]
        )
        return Statement(kind, noun, text, holds)

    for side in (0, 1):
        yield state("one side", pick(rng, CONTAINS), lambda *pair, n=side: contains(pair[n]), side)
        yield state("one side", pick(rng, LACKS), lambda *pair, n=side: not contains(pair[n]), side)
        yield state(
            "one alone",
            pick(rng, FIRST_ONLY),
            lambda *pair, n=side: contains(pair[n]) and not contains(pair[1 - n]),
            side,
        )
    yield state("both", pick(rng, BOTH), lambda left, right: contains(left) and contains(right))
    # The easiest statements use every wording.
    for wording in EITHER:
        yield state("either", wording, lambda left, right: contains(left) or contains(right))
    for wording in NEITHER:
        yield state("neither", wording, lambda left, right: not (contains(left) or contains(right)))
    yield state(
        "one alone", pick(rng, ONE_ONLY), lambda left, right: contains(left) != contains(right)
    )


def _counts(rng: Random) -> Iterator[Statement]:
    for side in (0, 1):
        for number in (1, 2, 3):
            text = pick(rng, EXACTLY).format(
                side=SIDES[side],
                counted=count_phrase(number, "shape"),
                are="is" if number == 1 else "are",
            )
            yield Statement(
                "count",
                f"{number} shapes",
                text,
                lambda *pair, n=side, wanted=number: len(pair[n].objects) == wanted,
            )


def _comparisons(rng: Random) -> Iterator[Statement]:
    def size(scene: Scene) -> int:
        return len(scene.objects)

    for side in (0, 1):
        text = pick(rng, MORE).format(side=SIDES[side], other=SIDES[1 - side])
        yield Statement(
            "compare", "shapes", text, lambda *pair, n=side: size(pair[n]) > size(pair[1 - n])
        )
    yield Statement(
        "compare", "shapes", pick(rng, AS_MANY), lambda left, right: size(left) == size(right)
    )
    for total in range(2, MAX_TOTAL + 1):
        text = pick(rng, IN_ALL).format(number=NUMBER_WORDS[total])
        yield Statement(
            "compare", "shapes", text, lambda *pair, wanted=total: sum(map(size, pair)) == wanted
        )
