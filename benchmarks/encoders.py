"""List image encoders with the shapes of their features, without computing or downloading.

    python benchmarks/encoders.py                  the encoder table
    python benchmarks/encoders.py --open-clip      every model of open_clip's list
    python benchmarks/encoders.py NAME [NAME ...]  these, as `vl-lst extract-features` takes them

Prints one Markdown row per encoder: image size, default weights, cells and channels of the grid,
length of the pooled vector, or the reason it is not supported.
"""

import argparse
from collections import Counter
from collections.abc import Sequence

import open_clip

from feature_extraction.encoders.registry import Tower, find_tower, output_shape
from feature_extraction.encoders.table import ENCODERS
from feature_extraction.errors import EncoderError
from feature_extraction.spec import Layer

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(ENCODERS), metavar="NAME")
    parser.add_argument("--open-clip", action="store_true", help="every model of open_clip")
    options = parser.parse_args(arguments)
    names = options.names
    if options.open_clip:
        names = [f"open_clip:{name}" for name in open_clip.list_models()]
    print("| encoder | image size | weights | grid | channels | pooled |")
    print("|---|---|---|---|---|---|")
    given: Counter[str] = Counter()
    for name in names:
        tower = find_tower(name)
        grid, channels = described(tower, "grid")
        pooled = described(tower, "pooled")[1]
        given.update(grid=bool(channels), pooled=bool(pooled))
        weights = tower.default_weights or "to be named"
        print(f"| {name} | {tower.image_size} | {weights} | {grid} | {channels} | {pooled} |")
    print(f"\n{given['grid']} of {len(names)} give a grid, {given['pooled']} a pooled vector")


def described(tower: Tower, layer: Layer) -> tuple[str, int | str]:
    """Return the cells and channels of a layer, or the reason it is not supported."""
    try:
        (rows, columns), channels = output_shape(tower, tower.image_size, layer)
    except EncoderError as error:
        return f"refused: {error}", ""
    return f"{rows} x {columns}", channels


if __name__ == "__main__":
    main()
