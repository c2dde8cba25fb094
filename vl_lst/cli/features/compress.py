"""`vl-lst features compress`: a smaller feature file."""

from pathlib import Path
from typing import Annotated

import typer

from vl_lst.cli._console import QuietOption, progress, results
from vl_lst.cli._outputs import JsonOption, binary_file, write_json_report

__all__ = ["compress"]


def compress(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.h5", help="Complete feature file, or a shard.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE.h5",
            help="File to write. Default: replace the input.",
            callback=binary_file("a feature file", is_checked=False, may_be_input=True),
        ),
    ] = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Compress a feature file with Zstandard, image by image.

    Features of encoders that end in a ReLU, such as RN50 and RN101, have many zeros and shrink
    considerably; those of transformers hardly do. Every command reads compressed files; other
    programs need `pip install hdf5plugin`. To decompress, run `vl-lst features join` with --copy
    on the file.

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
