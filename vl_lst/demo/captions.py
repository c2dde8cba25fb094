"""English descriptions of scenes: noun phrases, positions, counts, relations, captions."""

from collections import Counter
from collections.abc import Sequence
from random import Random

from vl_lst.demo.scenes import COLOURS, SHAPES, SIZES, Relation, Scene, SceneObject, holds, pick

__all__ = [
    "CAPTION_WORDS",
    "NUMBER_WORDS",
    "PLURALS",
    "RELATION_WORDS",
    "caption",
    "count_phrase",
    "join_phrases",
    "noun_phrase",
    "position",
    "with_article",
]

NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six")

PLURALS = {shape: f"{shape}es" if shape == "cross" else f"{shape}s" for shape in (*SHAPES, "shape")}

RELATION_WORDS: dict[Relation, str] = {
    "left of": "to the left of",
    "right of": "to the right of",
    "above": "above",
    "below": "below",
}

# Every word that `caption` can use: the vocabulary of the text encoder.
CAPTION_WORDS = tuple(
    sorted(
        {
            *COLOURS,
            *SHAPES,
            *SIZES,
            *NUMBER_WORDS,
            *PLURALS.values(),
            *"a an and above below bottom center in left of right shape the to top".split(),
        }
    )
)


def position(item: SceneObject) -> str:
    """Return the cell of a 3 x 3 grid that holds an object's centre: "top left", "center", ..."""
    row = ("top", "", "bottom")[min(2, int(item.y * 3))]
    column = ("left", "", "right")[min(2, int(item.x * 3))]
    return f"{row} {column}".strip() or "center"


def noun_phrase(item: SceneObject, *, size: bool = False) -> str:
    """Return an object's name without an article: "red circle", or "small red circle"."""
    return f"{item.size} {item.colour} {item.shape}" if size else f"{item.colour} {item.shape}"


def with_article(noun: str) -> str:
    """Put "a" or "an" before a noun phrase."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def count_phrase(number: int, shape: str, *, colour: str = "") -> str:
    """Return a count and a noun: "two red circles", "no stars", "one shape"."""
    noun = shape if number == 1 else PLURALS[shape]
    return " ".join(word for word in (NUMBER_WORDS[number], colour, noun) if word)


def join_phrases(phrases: Sequence[str]) -> str:
    """Join phrases into a list: "x", "x and y", "x, y and z"."""
    if len(phrases) == 1:
        return phrases[0]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def caption(scene: Scene, rng: Random, *, max_objects: int = 3, positions: bool = True) -> str:
    """Return a true description of a scene, in one of several styles.

    Args:
        scene: A scene with at least one object.
        rng: Chooses the style and the objects.
        max_objects: Maximum number of objects that a description names.
        positions: Whether some styles say where the objects are.
    """
    items = _shuffled(scene.objects, rng)
    style = rng.random()
    if style < 0.15:
        return _by_count(scene, rng)
    if style < 0.35:
        related = _by_relation(items, rng)
        if related:
            return related
    if style < 0.55 or not positions:
        named = [with_article(noun_phrase(item, size=rng.random() < 0.3)) for item in items]
        return join_phrases(named[:max_objects])
    size = rng.random() < 0.5
    named = [
        f"{with_article(noun_phrase(item, size=size))} in the {position(item)}" for item in items
    ]
    return join_phrases(named[: 1 + int(rng.random() * max_objects)])


def _by_count(scene: Scene, rng: Random) -> str:
    if rng.random() < 0.3:
        return count_phrase(len(scene.objects), "shape")
    if rng.random() < 0.3:
        colours = Counter(item.colour for item in scene.objects)
        return join_phrases(
            [count_phrase(n, "shape", colour=colour) for colour, n in colours.items()]
        )
    shapes = Counter(item.shape for item in scene.objects)
    return join_phrases([count_phrase(n, shape) for shape, n in shapes.items()])


def _by_relation(items: Sequence[SceneObject], rng: Random) -> str | None:
    if len(items) < 2:
        return None
    relation = pick(rng, tuple(RELATION_WORDS))
    for a, b in ((items[0], items[1]), (items[1], items[0])):
        if holds(relation, a, b):
            a_phrase, b_phrase = (with_article(noun_phrase(item)) for item in (a, b))
            return f"{a_phrase} {RELATION_WORDS[relation]} {b_phrase}"
    return None


def _shuffled(items: Sequence[SceneObject], rng: Random) -> list[SceneObject]:
    return sorted(items, key=lambda _: rng.random())
