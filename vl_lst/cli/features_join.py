"""`vl-lst features join`: the shards of an extraction become one file."""

from pathlib import Path
from typing import Annotated

import typer

from vl_lst.cli._console import QuietOption, results, status
from vl_lst.cli._outputs import JsonOption, binary_file, write_json_report

__all__ = ["join"]


def join(
    shards: Annotated[
        list[Path],
        typer.Argument(metavar="SHARDS...", help="All shards, in any order; or whole files."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE.h5",
            help="File to make, in the folder of the shards.",
            callback=binary_file("a feature file", is_checked=False),
        ),
    ],
    copy: Annotated[
        bool,
        typer.Option("--copy", help="Copy the features into one plain file, not an index."),
    ] = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Join the shards of an extraction into one feature file.

    Makes sure that no shard is missing, that each image is there exactly once
    and that all were made alike. The file is an index: it names the shards
    relative to itself, so move them together. With --copy it holds the
    features itself and the shards may go. Whole files made alike, such as those
    of train and of val images, are joined just so.

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
            f"{len(result.failures):,} images could not be read when the features were extracted "
            "and have none.",
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
