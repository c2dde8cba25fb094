"""`vl-lst features join`: one feature file from the shards of an extraction."""

from pathlib import Path
from typing import Annotated

import typer

from vl_lst.cli._console import QuietOption, results, status
from vl_lst.cli._outputs import JsonOption, binary_file, write_json_report

__all__ = ["join"]


def join(
    shards: Annotated[
        list[Path],
        typer.Argument(metavar="SHARD", help="All shards in any order, or complete files."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE.h5",
            help="File to write, in the folder of the shards.",
            callback=binary_file("a feature file", is_checked=False),
        ),
    ],
    copy: Annotated[
        bool,
        typer.Option("--copy", help="Copy the features into one file instead of an index."),
    ] = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Join the shards of an extraction into one feature file.

    The file is an index that names the shards relative to itself, so move them together. With
    --copy it holds the features itself, and the shards can be deleted. Complete files, such as
    those of the training and the validation images, can be joined too.

    The command checks that no shard is missing, that each image occurs exactly once, and that all
    shards were extracted with the same settings.

    Example: vl-lst features join val.shard-*.h5 --out val.h5
    """
    from feature_extraction.exchange.join import join_stores
    from feature_extraction.sizes import format_bytes

    result = join_stores(shards, out, copy=copy)
    kind = "copied from" if copy else "an index of"
    results.print(
        f"{out}: {result.images - len(result.failures):,} of {result.images:,} images, {kind} "
        f"{len(result.files):,} files, {format_bytes(result.file_bytes)}",
        markup=False,
    )
    if result.failures and not quiet:
        status.print(
            f"{len(result.failures):,} images have no features because they could not be read "
            "during extraction.",
            markup=False,
        )
    write_json_report(
        json_file,
        {
            "path": str(out),
            "kind": "copy" if copy else "index",
            "files": [str(path) for path in result.files],
            "images": result.images,
            "failures": dict(result.failures),
            "file_bytes": result.file_bytes,
        },
    )
