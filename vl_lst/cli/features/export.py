"""`vl-lst features export`: a feature file's images in the format of another program."""

from pathlib import Path
from typing import Annotated

import typer

from feature_extraction.choices import ExportFormat
from vl_lst.cli._console import QuietOption, progress, results
from vl_lst.cli._features import FeatureFileArgument
from vl_lst.cli._outputs import JsonOption, binary_file, write_json_report

__all__ = ["export"]

EXPORT_NAMES = ("export.json", "dataset_info.json", "state.json", "README.md")


def export(
    file: FeatureFileArgument,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder to write.",
            callback=binary_file("a folder", is_checked=False, holds=EXPORT_NAMES),
        ),
    ],
    export_format: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="h5: a file IMAGE_ID.h5 per image with the dataset IMAGE_ID/features; arrow: a "
            "folder for datasets.load_from_disk; parquet: Parquet files of 4,096 images for the "
            "Hugging Face Hub.",
        ),
    ],
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Export a feature file to the format of another program.

    Images without features are left out. The folder appears under its name once it is complete.

    An export to Parquet can be interrupted at any point. Run the same command again to resume.
    Upload the folder with `hf upload`; `vl-lst features import` restores features and settings.

    Example: vl-lst features export val2014.h5 --out val2014_parquet --format parquet
    """
    from feature_extraction.exchange.exporting import export_features
    from feature_extraction.store import open_features

    store = open_features(file)
    with progress("exporting", quiet=quiet) as report:
        result = export_features(store, out, export_format, on_progress=report)
    left_out = len(store.listed_ids) - len(store)
    results.print(
        f"{out}: {result.images:,} images in {result.files:,} files; {result.written:,} written "
        f"now, {left_out:,} without features left out",
        markup=False,
    )
    write_json_report(
        json_file,
        {
            "path": str(out),
            "format": export_format,
            "images": result.images,
            "written": result.written,
            "files": result.files,
            "left_out": left_out,
        },
    )
