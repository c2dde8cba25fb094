"""`vl-lst join-states`: an index of the shards of an extraction of states."""

from pathlib import Path
from typing import Annotated

import typer

from vl_lst.cli._console import QuietOption, results
from vl_lst.cli._outputs import JsonOption, binary_file, write_json_report

__all__ = ["join_states"]


def join_states(
    shards: Annotated[
        list[Path], typer.Argument(metavar="SHARD", help="All shards, in any order.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE.h5",
            help="Index to write, in the folder of the shards.",
            callback=binary_file("an index of states", is_checked=False),
        ),
    ],
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Join the shards of `vl-lst extract-states` into one file of states.

    The file is an index that names the shards relative to itself, so move them together. The
    command checks that no shard is missing, and that all were extracted with the same settings.

    Example: vl-lst join-states states.shard-*.h5 --out states.h5
    """
    from vl_lst.backbones.states.index import join_states as join
    from vl_lst.backbones.states.reader import StateReader

    join(shards, out)
    reader = StateReader(out)
    pairs = 0 if reader.decoder is None else len(reader.decoder)
    if not quiet:
        results.print(
            f"{out}: {len(reader.encoder):,} prompts and {pairs:,} answers, an index of "
            f"{len(reader.files):,} files",
            markup=False,
        )
    write_json_report(
        json_file,
        {
            "path": str(out),
            "files": [str(path) for path in reader.files],
            "prompts": len(reader.encoder),
            "answers": pairs,
        },
    )
