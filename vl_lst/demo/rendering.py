"""Render scenes with Pillow: no fonts, no files, the same pixels on every machine."""

from functools import cache
from math import ceil, cos, floor, pi, radians, sin

from PIL import Image, ImageDraw, ImageOps

from vl_lst.demo.scenes import Scene, SceneObject

__all__ = ["render"]

SUPERSAMPLING = 4

Outline = tuple[tuple[float, float], ...]


def render(scene: Scene, size: int) -> Image.Image:
    """Return a scene as an RGB image of `size` x `size` pixels.

    Edges are antialiased: each shape's mask is drawn at four times the size and reduced.
    """
    image = _background(scene, size)
    for item in scene.objects:
        _draw(image, item, size)
    return image


def _background(scene: Scene, size: int) -> Image.Image:
    top, bottom = scene.background
    if top == bottom:
        return Image.new("RGB", (size, size), top)
    ramp = Image.linear_gradient("L").resize((size, size), Image.Resampling.BILINEAR)
    return ImageOps.colorize(ramp, black=top, white=bottom)


def _draw(image: Image.Image, item: SceneObject, size: int) -> None:
    half_width = item.radius * min(1.0, 1 / item.aspect)
    half_height = item.radius * min(1.0, item.aspect)
    turn, lean = cos(radians(item.tilt)), sin(radians(item.tilt))
    points = [
        (
            (item.x + half_width * u * turn - half_height * v * lean) * size,
            (item.y + half_width * u * lean + half_height * v * turn) * size,
        )
        for u, v in _outline(item.shape)
    ]
    left, top = floor(min(x for x, _ in points)), floor(min(y for _, y in points))
    right, bottom = ceil(max(x for x, _ in points)), ceil(max(y for _, y in points))
    extent = ((right - left) * SUPERSAMPLING, (bottom - top) * SUPERSAMPLING)
    mask = Image.new("L", extent, 0)
    ImageDraw.Draw(mask).polygon(
        [((x - left) * SUPERSAMPLING, (y - top) * SUPERSAMPLING) for x, y in points], fill=255
    )
    image.paste(item.rgb, (left, top), mask.reduce(SUPERSAMPLING))


@cache
def _outline(shape: str) -> Outline:
    """Return the corners of a shape in the square from -1 to 1, y downwards."""
    if shape == "circle":
        return tuple((cos(2 * pi * k / 40), sin(2 * pi * k / 40)) for k in range(40))
    if shape in ("square", "rectangle"):
        return ((-1, -1), (1, -1), (1, 1), (-1, 1))
    if shape == "triangle":
        return ((0, -0.95), (1, 0.85), (-1, 0.85))
    if shape == "diamond":
        return ((0, -1), (0.66, 0), (0, 1), (-0.66, 0))
    if shape == "cross":
        arm = 0.34
        return (
            *((-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm)),
            *((arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm)),
        )
    if shape == "star":
        return tuple(
            (
                (1 if k % 2 == 0 else 0.42) * sin(pi * k / 5),
                -(1 if k % 2 == 0 else 0.42) * cos(pi * k / 5),
            )
            for k in range(10)
        )
    if shape == "heart":
        angles = [2 * pi * k / 40 for k in range(40)]
        return tuple(
            (
                sin(a) ** 3,
                -(13 * cos(a) - 5 * cos(2 * a) - 2 * cos(3 * a) - cos(4 * a) + 2.5) / 15.5,
            )
            for a in angles
        )
    raise ValueError(f"no outline for the shape {shape!r}")
