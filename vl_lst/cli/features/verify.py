"""`vl-lst features verify`: compare stored features with newly extracted ones."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vl_lst.cli._console import QuietOption, announce_imports, progress, results, status
from vl_lst.cli._features import DeviceOption, FeatureFileArgument
from vl_lst.cli._outputs import JsonOption, write_json_report

if TYPE_CHECKING:
    from feature_extraction.exchange.verification import Difference

__all__ = ["verify"]


def verify(
    file: FeatureFileArgument,
    images: Annotated[
        Path,
        typer.Option(
            "--images", metavar="DIR", help="Folder of the photographs, or of some of them."
        ),
    ],
    sample: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Number of photographs to extract again.")
    ] = 8,
    encoder_weights: Annotated[
        Path | None,
        typer.Option(
            "--encoder-weights",
            metavar="PATH",
            help="Weights of the encoder, if the feature file names no pretrained tag: a "
            ".safetensors file, or the encoder's folder.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Extract a few photographs again and compare them with the stored features.

    Exits with 1 if a value differs by more than a change of machine explains: a twentieth of the
    value plus a twentieth of the root mean square of its image's values; a quarter of both if the
    encoder ran in bf16.

    Example: vl-lst features verify val2014.h5 --images coco/val2014
    """
    announce_imports(quiet=quiet)
    from feature_extraction.encoders.encoder import encoder_from_spec
    from feature_extraction.errors import StoreError
    from feature_extraction.exchange.verification import verify as compare
    from feature_extraction.images.finding import left_out_note
    from feature_extraction.store import open_features
    from vl_lst.bundled import ENCODER_FOLDERS

    store = open_features(file)
    if encoder_weights is None:
        encoder_weights = ENCODER_FOLDERS.get(store.spec.encoder)
    encoder = encoder_from_spec(store.spec, encoder_weights, device=device)
    with progress("comparing", quiet=quiet) as report:
        found = compare(store, images, encoder, sample=sample, on_progress=report)
    largest = found.largest
    if found.absent and not quiet:
        note = f" Note: {left_out_note(found.left_out)}." if found.left_out else ""
        status.print(
            f"note: {found.absent:,} images of {file} are not in {images}.{found.near_names}{note}",
            markup=False,
        )
    results.print(
        f"largest difference in {len(found.differences)} images: {largest.absolute:.6g}, in "
        f"{_location(largest)}",
        markup=False,
    )
    write_json_report(
        json_file,
        {
            "path": str(file),
            "encoder": encoder.spec.encoder,
            "weights": encoder.spec.weights,
            "agrees": not found.wrong,
            "largest": _document(largest),
            "images": {each.image_id: _document(each) for each in found.differences},
            "images_not_in_folder": found.absent,
            "left_out": found.left_out,
        },
    )
    made_by = f"{encoder.spec.encoder} (weights {encoder.spec.weights})"
    if found.wrong:
        worst = max(found.wrong, key=lambda each: each.excess)
        raise StoreError(
            f"{file} does not hold the features that {made_by} gives for {images}: "
            f"{len(found.wrong)} of {len(found.differences)} images differ by more than a change "
            f"of machine explains. {worst.image_id!r} exceeds the tolerance {worst.excess:.3g} "
            f"times, by {worst.absolute:.6g} in {_location(worst)}. The features were made with "
            "other weights, another activation, resize rule or image size, or from other "
            "photographs: find out which, or extract them again."
        )
    results.print(f"{file} holds the features that {made_by} gives for {images}", markup=False)


def _document(difference: "Difference") -> dict[str, object]:
    numbers = {
        "difference": difference.absolute,
        "stored": difference.stored,
        "made": difference.computed,
        "excess": difference.excess,
    }
    return {
        "image_id": difference.image_id,
        "token": difference.token,
        "channel": difference.channel,
        **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
    }


def _location(difference: "Difference") -> str:
    return (
        f"image {difference.image_id!r}, token {difference.token}, channel {difference.channel} "
        f"({difference.stored:.6g} stored, {difference.computed:.6g} extracted now)"
    )
