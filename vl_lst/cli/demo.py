"""`vl-lst demo`: the whole road on pictures made on the spot, with nothing to download."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vl_lst.cli._console import JsonOption, QuietOption, progress, results

__all__ = ["demo"]


def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for everything the demo makes.")
    ] = Path("demo-run"),
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Render shapes, extract features, train LST with and without the image, and score both.

    Needs no network: the pictures are made on the spot, a small CLIP and T5 come along. Ends in
    a few minutes on two CPU cores; interrupted, the same command goes on where it was.

    Example: vl-lst demo --out demo-run
    """
    from functools import partial

    from eval.files import write_json
    from vl_lst.demo.run import run_demo

    result = run_demo(out, partial(progress, quiet=quiet))
    table = Table(title="shapes world, official accuracy on val2014")
    table.add_column("task")
    table.add_column("LST", justify="right", style="bold")
    table.add_column("blind (no image)", justify="right")
    for task, scores in result.scores.items():
        table.add_row(task, f"{scores['lst']:.2f}", f"{scores['blind']:.2f}")
    results.print(table)
    results.print(f"{result.seconds:.0f} seconds; pictures with answers: {result.gallery}")
    results.print(
        f"ask it yourself: vl-lst predict {out / 'runs' / 'lst'} --image FILE --question TEXT"
    )
    if json_file is not None:
        write_json(json_file, {"tasks": result.scores, "seconds": round(result.seconds, 1)})
