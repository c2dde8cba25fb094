"""Options, encoders and failure reports that the commands on feature files share."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vl_lst.bundled import ENCODER_FOLDERS
from vl_lst.cli._console import status
from vl_lst.cli._outputs import binary_file

if TYPE_CHECKING:
    from feature_extraction.encoders.encoder import Encoder

__all__ = [
    "DEFAULT_ENCODER",
    "DEMO_ENCODER",
    "DeviceOption",
    "FeatureFileArgument",
    "NewFileOption",
    "OutOption",
    "build_named_encoder",
    "exit_if_incomplete",
    "failure_lines",
]

DEFAULT_ENCODER = "RN101"
DEMO_ENCODER = "demo"
MAX_FAILURES_SHOWN = 5

FeatureFileArgument = Annotated[
    Path, typer.Argument(metavar="FILE.h5", help="Feature file.", show_default=False)
]
OutOption = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="FILE.h5",
        help="Feature file to write, or to complete if it exists.",
        callback=binary_file("a feature file", is_checked=False),
    ),
]
NewFileOption = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="FILE.h5",
        help="Feature file to write.",
        callback=binary_file("a feature file", is_checked=False),
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="Device of the image encoder: `auto` (CUDA if available), `cpu`, `cuda`, `cuda:1`, "
        "...",
    ),
]


def build_named_encoder(encoder: str, **settings: Any) -> "Encoder":
    """Build the image encoder that a user names.

    Args:
        encoder: Value of `--encoder`; `demo` is the bundled CLIP, `demo-image` what the bundled
            backbone that reads images is given.
        **settings: Settings for `feature_extraction.encoders.encoder.build_encoder`.

    Raises:
        EncoderError: There is no such encoder, or the settings do not fit it.
    """
    from feature_extraction.encoders.encoder import build_encoder

    if encoder in ENCODER_FOLDERS:
        return build_encoder(ENCODER_FOLDERS[encoder], name=encoder, **settings)
    return build_encoder(encoder, **settings)


def failure_lines(failures: Mapping[str, str]) -> Iterator[str]:
    """Yield lines on the first images without features.

    Args:
        failures: Reasons by image id.
    """
    for image_id, reason in islice(failures.items(), MAX_FAILURES_SHOWN):
        yield f"  failed {image_id}: {reason}"
    if len(failures) > MAX_FAILURES_SHOWN:
        yield f"  ... and {len(failures) - MAX_FAILURES_SHOWN:,} more"


def exit_if_incomplete(failures: Mapping[str, str], *, allow_missing: bool) -> None:
    """Exit with 1 if images have no features, unless `--allow-missing` is given."""
    if failures and not allow_missing:
        status.print(
            f"{len(failures):,} images have no features because their files could not be read. "
            "Replace the files and run the same command again, or pass --allow-missing.",
            markup=False,
        )
        raise typer.Exit(1)
