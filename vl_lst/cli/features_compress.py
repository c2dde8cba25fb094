"""`vl-lst features compress`: a feature file made smaller."""

from pathlib import Path
from typing import Annotated

import typer

from vl_lst.cli._console import QuietOption, progress, results
from vl_lst.cli._outputs import JsonOption, binary_file, write_json_report

__all__ = ["compress"]


def compress(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.h5", help="A finished feature file, or a shard.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE.h5",
            help="File to make. Default: FILE itself is replaced.",
            callback=binary_file("a feature file", is_checked=False, may_be_input=True),
        ),
    ] = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Compress the features of a file, each image for itself, with Zstandard.

    Features of towers with ReLU, such as RN50 and RN101, have many zeros and
    become much smaller; those of transformers hardly do. Every command reads
    the file as it reads others; h5py needs `pip install hdf5plugin` for it.
    The new file takes its name when it is whole. For a plain file again, join
    the one compressed file with --copy.

    Example: vl-lst features compress val2014.h5 --out val2014-small.h5
    """
    from feature_extraction.exchange.compression import compress_store
    from feature_extraction.sizes import format_bytes

    before = file.stat().st_size if file.is_file() else 0
    target = file if out is None else out
    with progress("compressing", quiet=quiet) as report:
        compress_store(file, target, on_progress=report)
    after = target.stat().st_size
    results.print(
        f"{target}: {format_bytes(after)}, {100 * after / before:.1f} % of {format_bytes(before)}",
        markup=False,
    )
    write_json_report(
        json_file,
        {
            "path": str(target),
            "compression": "zstd",
            "file_bytes": after,
            "file_bytes_before": before,
        },
    )
