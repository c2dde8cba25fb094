"""`vl-lst join-states`: one file of states from the shards of an extraction."""

from pathlib import Path
from typing import Annotated

import typer

from vl_lst.cli._console import results
from vl_lst.cli._outputs import binary_file

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
            help="File to write, in the folder of the shards.",
            callback=binary_file("a file of states", is_checked=False),
        ),
    ],
) -> None:
    """Join the shards that `vl-lst extract-states --shard` has written into one file of states.

    The file is an index that names the shards relative to itself, so move them together. The
    command checks that no shard is missing, and that all were extracted with the same settings.

    Example: vl-lst join-states states.shard-*.h5 --out states.h5
    """
    from vl_lst.backbones.states.index import join_states as join

    join(shards, out)
    results.print(f"{out}: an index of {len(shards):,} files", markup=False)
