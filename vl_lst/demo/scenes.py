"""Scenes of the shapes world: what is in a picture, decided by one integer.

A scene is a handful of coloured shapes on a background. Coordinates are fractions of the picture's
side, x to the right and y downwards, so a scene has no resolution; `vl_lst.demo.rendering` draws
it at any. Only `random.Random(seed).random()` is drawn from, whose sequence Python keeps from
version to version.
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

# Each name covers the segment between its two shades, so that no single shade stands for a colour.
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

# What the benchmark's pictures show and its questions name. The encoders know all of the above;
# a side network that has two minutes to learn what a word looks like learns fewer.
BENCHMARK_SHAPES = ("circle", "square", "triangle", "star")
BENCHMARK_COLOURS = ("red", "green", "blue", "yellow", "black", "pink")

# Half extents as fractions of the picture. The gap between the two keeps "small" and "large"
# answerable; crowded pictures have no room for the largest.
SMALL_RADIUS = (0.055, 0.085)
LARGE_RADIUS = (0.125, 0.17)
LARGE_RADIUS_ALONE = (0.125, 0.27)

# Two objects stand left and right of (above and below) each other only if their centres are at
# least this far apart, a fraction of the picture.
CLEARLY_APART = 0.12

LEAST_CONTRAST = 85.0
PLACEMENT_TRIES = 40
BACKGROUND_TRIES = 20
SHARE_ATTRIBUTE = 0.3
UPRIGHT = 0.6
LARGEST_TILT = 18.0


class Purpose(Enum):
    """What scenes are made for. Each purpose has its own range of seeds, so no two share one."""

    BENCHMARK_TRAIN = 1
    BENCHMARK_VAL = 2
    PRETRAIN_CLIP = 3
    PRETRAIN_CLIP_HELD_OUT = 4
    PRETRAIN_T5 = 5
    PRETRAIN_T5_HELD_OUT = 6
    BENCHMARK_PAIRS_TRAIN = 7
    BENCHMARK_PAIRS_VAL = 8


SEEDS_PER_PURPOSE = 2**40


def scene_seed(purpose: Purpose, index: int) -> int:
    """Return the seed of the `index`-th scene of a purpose; ranges of purposes are disjoint.

    Raises:
        ValueError: The index lies outside the purpose's range.
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
        rgb: The very shade it is drawn in.
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
    """What one picture shows.

    Args:
        seed: The number it was made from.
        objects: From back to front; they hardly overlap.
        background: Colour of the top and of the bottom edge; equal for a plain background.
    """

    seed: int
    objects: tuple[SceneObject, ...]
    background: tuple[Rgb, Rgb]


def pick(rng: Random, choices: Sequence[T]) -> T:
    """Choose one of `choices` with a single draw of `rng.random()`."""
    return choices[int(rng.random() * len(choices))]


def holds(relation: Relation, a: SceneObject, b: SceneObject) -> bool:
    """Tell whether `a` stands clearly left of, right of, above or below `b`."""
    if relation == "left of":
        return b.x - a.x >= CLEARLY_APART
    if relation == "right of":
        return a.x - b.x >= CLEARLY_APART
    if relation == "above":
        return b.y - a.y >= CLEARLY_APART
    return a.y - b.y >= CLEARLY_APART


def sample_scene(
    seed: int,
    *,
    counts: Sequence[int] = (1, 2, 3),
    shapes: Sequence[str] = SHAPES,
    colours: Sequence[str] = tuple(COLOURS),
) -> Scene:
    """Make the scene of a seed.

    Args:
        seed: From `scene_seed`.
        counts: Numbers of objects to choose from, each entry as likely as the others. A picture
            that has no room left ends with fewer.
        shapes: What its objects may be.
        colours: What colours they may have.
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
    # Pictures where everything differs would make counting and "the same" trivial.
    if others and rng.random() < SHARE_ATTRIBUTE:
        shape = pick(rng, others).shape
    if others and rng.random() < SHARE_ATTRIBUTE:
        colour = pick(rng, others).colour
    large = LARGE_RADIUS_ALONE if alone else LARGE_RADIUS
    radius = _between(rng, *(SMALL_RADIUS if size == "small" else large))
    aspect = 1.0
    if shape == "rectangle":
        longer = _between(rng, 1.45, 2.3)
        aspect = longer if rng.random() < 0.5 else 1 / longer
    tilt = 0.0 if rng.random() < UPRIGHT else _between(rng, -LARGEST_TILT, LARGEST_TILT)
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
        if all(dist(o.rgb, edge) >= LEAST_CONTRAST for o in objects for edge in (top, bottom)):
            return top, bottom
    return (255, 255, 255), (255, 255, 255)


def _shade(rng: Random, colour: str) -> Rgb:
    one, other = COLOURS[colour]
    # Squared, so that the first shade, the colour at its purest, is the more common one.
    share = rng.random() ** 2
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _any_rgb(rng: Random, darkest: int, brightest: int) -> Rgb:
    red, green, blue = (round(_between(rng, darkest, brightest)) for _ in range(3))
    return red, green, blue


def _between(rng: Random, low: float, high: float) -> float:
    return low + rng.random() * (high - low)
