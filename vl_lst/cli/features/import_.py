"""`vl-lst features import`: one feature file from features that another program extracted."""

import json
from typing import Annotated

import typer

from feature_extraction.choices import ResizeRule
from feature_extraction.encoders.table import MAX_IMAGE_SIZE
from vl_lst.cli._choices import RESIZE_RULES
from vl_lst.cli._console import QuietOption, progress, results, status
from vl_lst.cli._features import OutOption, exit_if_incomplete, failure_lines
from vl_lst.cli._outputs import JsonOption, write_json_report

__all__ = ["import_"]


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder, with subfolders, of files IMAGE_ID.h5 (dataset IMAGE_ID/features), .npy, "
            ".npz or .safetensors; the output of clip-retrieval; Parquet; or one HDF5, .npz, "
            ".safetensors or Parquet file with an entry, or a row and a name, per image; or "
            "Parquet on the Hugging Face Hub: hf://datasets/OWNER/NAME, optionally followed by "
            "/PATH and @REVISION.",
            show_default=False,
        ),
    ],
    out: OutOption,
    encoder: Annotated[
        str,
        typer.Option(metavar="NAME", help="Encoder that extracted the features, such as RN101."),
    ] = "imported",
    image_size: Annotated[
        int,
        typer.Option(
            min=1, max=MAX_IMAGE_SIZE, help="Side of that encoder's square input in pixels."
        ),
    ] = 224,
    resize: Annotated[
        ResizeRule,
        typer.Option(metavar="RULE", help=f"How photographs became squares: {RESIZE_RULES}."),
    ] = "squash",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Exit with 0 even if files are damaged.")
    ] = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Import features that another program extracted into one feature file.

    All features must have the same shape. Damaged files are listed with the reason. The command
    then exits with 1 after all other images are done, and retries them when it is run again.

    An import can be interrupted at any point. Run the same command again to resume; the finished
    file is byte-identical to that of an uninterrupted run.

    From the Hub, one Parquet file at a time is downloaded and removed again, so that the disk never
    holds all of them. The commit is recorded in the feature file.

    Example: vl-lst features import data_clip_RN101_att --out coco.h5 --encoder RN101

    From the Hub: vl-lst features import hf://datasets/OWNER/NAME --out coco.h5 --encoder RN101
    """
    from feature_extraction.exchange.hub_files import is_hub_address
    from feature_extraction.exchange.importing import import_features
    from feature_extraction.sizes import format_bytes

    if is_hub_address(source) and not quiet:
        status.print("reading schemas and image ids of all files on the Hub")
    with progress("importing", quiet=quiet) as report:
        result = import_features(
            source,
            out,
            encoder=encoder,
            image_size=image_size,
            resize=resize,
            on_progress=report,
        )
    failures = dict(result.failures)
    results.print(
        f"{out}: {result.images - len(failures):,} of {result.images:,} images of "
        f"{result.spec.tokens} x {result.spec.channels}, {format_bytes(result.file_bytes)}; "
        f"{result.imported:,} imported in {result.seconds:.1f} s",
        markup=False,
    )
    for line in failure_lines(failures):
        results.print(line, markup=False)
    if result.left_out and not quiet:
        counts = ", ".join(f"{count:,} {suffix}" for suffix, count in result.left_out.items())
        status.print(f"left out: {counts}", markup=False)
    write_json_report(
        json_file,
        {
            "path": str(out),
            "images": result.images,
            "left_out": dict(result.left_out),
            "imported": result.imported,
            "failures": failures,
            "file_bytes": result.file_bytes,
            "seconds": result.seconds,
            "spec": json.loads(result.spec.to_json()),
            "spec_sha256": result.spec.digest,
        },
    )
    exit_if_incomplete(failures, allow_missing=allow_missing)
