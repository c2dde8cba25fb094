"""Scenes of the shapes world: the content of a picture, generated from one integer.

A scene is a few coloured shapes on a background. Coordinates are fractions of the picture's side,
x to the right and y downwards, so a scene has no resolution; `vl_lst.demo.rendering` draws it at
any size. The only source of randomness is `random.Random(seed).random()`, whose sequence is stable
across Python versions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import dist, hypot
from random import Random
from typing import Literal, TypeVar

__all__ = [
    "BENCHMARK_COLOURS",
    "BENCHMARK_SHAPES",
    "COLOURS",
    "SHAPES",
    "SIZES",
    "Purpose",
    "Relation",
    "Scene",
    "SceneObject",
    "holds",
    "pick",
    "sample_scene",
    "scene_seed",
]

Rgb = tuple[int, int, int]
Relation = Literal["left of", "right of", "above", "below"]
T = TypeVar("T")

SHAPES = ("circle", "square", "rectangle", "triangle", "star", "cross", "diamond", "heart")
SIZES = ("small", "large")

# A colour is sampled between its two shades, so that a name is not tied to a single RGB value.
COLOURS: dict[str, tuple[Rgb, Rgb]] = {
    "red": ((255, 0, 0), (222, 38, 44)),
    "green": ((0, 255, 0), (40, 150, 56)),
    "blue": ((0, 0, 255), (46, 98, 222)),
    "yellow": ((255, 255, 0), (242, 206, 30)),
    "black": ((0, 0, 0), (34, 34, 38)),
    "gray": ((112, 112, 112), (150, 150, 154)),
    "teal": ((0, 128, 128), (18, 152, 146)),
    "brown": ((165, 42, 42), (126, 74, 34)),
    "orange": ((255, 140, 0), (246, 118, 22)),
    "purple": ((128, 0, 128), (138, 52, 196)),
    "pink": ((255, 105, 180), (250, 150, 190)),
}

# Shapes and colours of the benchmark: fewer than those above, on which CLIP and T5 are pretrained,
# because a side network that trains for two minutes can learn to ground only a few words.
BENCHMARK_SHAPES = ("circle", "square", "triangle", "star")
BENCHMARK_COLOURS = ("red", "green", "blue", "yellow", "black", "pink")

# Half extents as fractions of the picture. The gap keeps "small" and "large" unambiguous; only a
# single object has room for the largest.
SMALL_RADIUS = (0.055, 0.085)
LARGE_RADIUS = (0.125, 0.17)
LARGE_RADIUS_ALONE = (0.125, 0.27)

# Minimum distance between two centres along an axis, as a fraction of the picture, for a spatial
# relation to hold.
MIN_SEPARATION = 0.12

MIN_CONTRAST = 85.0
PLACEMENT_TRIES = 40
BACKGROUND_TRIES = 20
SHARED_ATTRIBUTE_PROBABILITY = 0.3
UPRIGHT_PROBABILITY = 0.6
MAX_TILT = 18.0


class Purpose(Enum):
    """Purpose of a scene. Seed ranges of different purposes are disjoint."""

    BENCHMARK_TRAIN = 1
    BENCHMARK_VAL = 2
    PRETRAIN_CLIP = 3
    PRETRAIN_CLIP_HELD_OUT = 4
    PRETRAIN_T5 = 5
    PRETRAIN_T5_HELD_OUT = 6
    BENCHMARK_PAIRS_TRAIN = 7
    BENCHMARK_PAIRS_VAL = 8
    PRETRAIN_IMAGE_T5 = 9
    PRETRAIN_IMAGE_T5_HELD_OUT = 10


SEEDS_PER_PURPOSE = 2**40


def scene_seed(purpose: Purpose, index: int) -> int:
    """Return the seed of the `index`-th scene of a purpose.

    Raises:
        ValueError: The index is out of range.
    """
    if not 0 <= index < SEEDS_PER_PURPOSE:
        raise ValueError(f"scene index {index} is not in [0, {SEEDS_PER_PURPOSE})")
    return purpose.value * SEEDS_PER_PURPOSE + index


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One shape in a picture.

    Args:
        shape: One of `SHAPES`.
        colour: A key of `COLOURS`.
        size: One of `SIZES`.
        rgb: RGB value it is drawn in.
        x: Centre, fraction of the picture's width from its left edge.
        y: Centre, fraction of the picture's height from its top edge.
        radius: Half of its longer side, a fraction of the picture's side.
        aspect: Height over width of a rectangle, one for the other shapes.
        tilt: Rotation in degrees, clockwise.
    """

    shape: str
    colour: str
    size: str
    rgb: Rgb
    x: float
    y: float
    radius: float
    aspect: float
    tilt: float


@dataclass(frozen=True, slots=True)
class Scene:
    """The content of one picture.

    Args:
        seed: Seed it was generated from.
        objects: Objects from back to front; they barely overlap.
        background: RGB of the top and bottom edges; equal for a plain background.
    """

    seed: int
    objects: tuple[SceneObject, ...]
    background: tuple[Rgb, Rgb]


def pick(rng: Random, choices: Sequence[T]) -> T:
    """Return one of `choices`, using a single draw of `rng.random()`."""
    return choices[int(rng.random() * len(choices))]


def holds(relation: Relation, a: SceneObject, b: SceneObject) -> bool:
    """Return whether `a` is clearly left of, right of, above or below `b`."""
    if relation == "left of":
        return b.x - a.x >= MIN_SEPARATION
    if relation == "right of":
        return a.x - b.x >= MIN_SEPARATION
    if relation == "above":
        return b.y - a.y >= MIN_SEPARATION
    return a.y - b.y >= MIN_SEPARATION


def sample_scene(
    seed: int,
    *,
    counts: Sequence[int] = (1, 2, 3),
    shapes: Sequence[str] = SHAPES,
    colours: Sequence[str] = tuple(COLOURS),
) -> Scene:
    """Generate the scene of a seed.

    Args:
        seed: Seed from `scene_seed`.
        counts: Numbers of objects, sampled uniformly. A picture without enough room gets fewer.
        shapes: Allowed shapes.
        colours: Allowed colours.
    """
    rng = Random(seed)
    wanted = pick(rng, counts)
    objects: list[SceneObject] = []
    for _ in range(wanted):
        placed = _place(rng, objects, shapes, colours, alone=wanted == 1)
        if placed is not None:
            objects.append(placed)
    return Scene(seed, tuple(objects), _background(rng, objects))


def _place(
    rng: Random,
    others: Sequence[SceneObject],
    shapes: Sequence[str],
    colours: Sequence[str],
    *,
    alone: bool,
) -> SceneObject | None:
    shape, colour, size = pick(rng, shapes), pick(rng, colours), pick(rng, SIZES)
    # Without shared attributes, questions about counts and "the same" would be trivial.
    if others and rng.random() < SHARED_ATTRIBUTE_PROBABILITY:
        shape = pick(rng, others).shape
    if others and rng.random() < SHARED_ATTRIBUTE_PROBABILITY:
        colour = pick(rng, others).colour
    large = LARGE_RADIUS_ALONE if alone else LARGE_RADIUS
    radius = _between(rng, *(SMALL_RADIUS if size == "small" else large))
    aspect = 1.0
    if shape == "rectangle":
        longer = _between(rng, 1.45, 2.3)
        aspect = longer if rng.random() < 0.5 else 1 / longer
    tilt = 0.0 if rng.random() < UPRIGHT_PROBABILITY else _between(rng, -MAX_TILT, MAX_TILT)
    rgb = _shade(rng, colour)
    for _ in range(PLACEMENT_TRIES):
        x, y = _between(rng, radius, 1 - radius), _between(rng, radius, 1 - radius)
        if all(hypot(x - o.x, y - o.y) > 1.05 * (radius + o.radius) for o in others):
            return SceneObject(shape, colour, size, rgb, x, y, radius, aspect, tilt)
    return None


def _background(rng: Random, objects: Sequence[SceneObject]) -> tuple[Rgb, Rgb]:
    for _ in range(BACKGROUND_TRIES):
        darkest = pick(rng, (222, 222, 222, 222, 150, 20))
        brightest = min(255, darkest + 60)
        top = _any_rgb(rng, darkest, brightest)
        gradient = rng.random() < 0.2
        bottom = _any_rgb(rng, darkest, brightest) if gradient else top
        if all(dist(o.rgb, edge) >= MIN_CONTRAST for o in objects for edge in (top, bottom)):
            return top, bottom
    return (255, 255, 255), (255, 255, 255)


def _shade(rng: Random, colour: str) -> Rgb:
    one, other = COLOURS[colour]
    # Squared, so that shades near the first, purest one are more common.
    share = rng.random() ** 2
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _any_rgb(rng: Random, darkest: int, brightest: int) -> Rgb:
    red, green, blue = (round(_between(rng, darkest, brightest)) for _ in range(3))
    return red, green, blue


def _between(rng: Random, low: float, high: float) -> float:
    return low + rng.random() * (high - low)
