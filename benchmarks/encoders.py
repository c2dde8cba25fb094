"""Print the feature shapes of encoders as a Markdown table, without computing or downloading them.

    python benchmarks/encoders.py                  all encoders of the encoder table
    python benchmarks/encoders.py --open-clip      all models of open_clip
    python benchmarks/encoders.py NAME [NAME ...]  these, in the notation of `--encoder`

Each row has the default image size, the default weights, the grid and its channels, and the length
of the pooled vector, or the reason why the encoder is refused.
"""

import argparse
from collections import Counter
from collections.abc import Sequence

import open_clip

from feature_extraction.encoders.architecture import Architecture
from feature_extraction.encoders.registry import find_architecture, output_shape
from feature_extraction.encoders.table import ENCODERS
from feature_extraction.errors import EncoderError
from feature_extraction.spec import Layer

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table for the command line's encoders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(ENCODERS), metavar="NAME")
    parser.add_argument("--open-clip", action="store_true", help="all models of open_clip")
    options = parser.parse_args(arguments)
    names = options.names
    if options.open_clip:
        names = [f"open_clip:{name}" for name in open_clip.list_models()]
    print("| encoder | image size | weights | grid | channels | pooled |")
    print("|---|---|---|---|---|---|")
    num_available: Counter[str] = Counter()
    for name in names:
        architecture = find_architecture(name)
        grid, channels = describe_layer(architecture, "grid")
        pooled = describe_layer(architecture, "pooled")[1]
        num_available.update(grid=bool(channels), pooled=bool(pooled))
        weights = architecture.default_weights or "required"
        size = architecture.image_size
        print(f"| {name} | {size} | {weights} | {grid} | {channels} | {pooled} |")
    print(
        f"\n{num_available['grid']} of {len(names)} have a grid, "
        f"{num_available['pooled']} a pooled vector"
    )


def describe_layer(architecture: Architecture, layer: Layer) -> tuple[str, int | str]:
    """Return the grid and channels of a layer, or the reason why there are none."""
    try:
        (rows, columns), channels = output_shape(architecture, architecture.image_size, layer)
    except EncoderError as error:
        return f"refused: {error}", ""
    return f"{rows} x {columns}", channels


if __name__ == "__main__":
    main()
