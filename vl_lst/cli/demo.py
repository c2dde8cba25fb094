"""`vl-lst demo`: the whole road on pictures made on the spot, with nothing to download."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vl_lst.cli._console import JsonOption, QuietOption, progress, results
from vl_lst.cli.leaderboard import write_page

__all__ = ["demo"]

# Of each task and run, on the page.
EXAMPLES = 12


def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for everything the demo makes.")
    ] = Path("demo-run"),
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAME[,NAME]...", help="Methods to train under the same protocol, or `all`."
        ),
    ] = "lst",
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Render shapes, extract features, train on four tasks, with LST and without the image, score.

    Needs no network: the pictures are made on the spot, a small CLIP and T5 come along. Ends in
    a few minutes on two CPU cores, or a few minutes for each two methods; interrupted, the same
    command goes on where it was.

    All methods side by side: vl-lst demo --methods all

    Example: vl-lst demo --out demo-run
    """
    from functools import partial

    from eval.files import write_json
    from feature_extraction.allocation import keep_freed_memory
    from tasks import get_task
    from vl_lst.demo.run import BLIND, LADDER, run_demo
    from vl_lst.methods import method_names

    # The ladder first: its examples are the ones that are drawn.
    names = sorted(method_names(), key=lambda name: name != LADDER)
    chosen = names if methods == "all" else [name.strip() for name in methods.split(",")]
    keep_freed_memory()
    result = run_demo(out, partial(progress, quiet=quiet), chosen)
    table = Table(title="shapes world, official metrics on the validation splits")
    table.add_column("method")
    tasks = [get_task(name) for name in result.scores]
    for task in tasks:
        metric = "CIDEr x 100" if task.primary_metric == "cider" else f"{task.primary_metric} %"
        table.add_column(f"{task.name}\n{metric}", justify="right")
    for name in (*chosen, BLIND):
        values = [f"{result.scores[each.name][name] * each.primary_factor:.2f}" for each in tasks]
        label = f"{BLIND} (no image)" if name == BLIND else name
        table.add_row(label, *values, style="bold" if name == LADDER else None)
    results.print(table)
    page = out / "leaderboard.html"
    write_page(
        result.runs,
        page,
        splits={},
        images=result.pictures,
        examples=EXAMPLES,
        title="Shapes world",
        quoted=None,
        include_dirty=True,
        quiet=True,
    )
    results.print(f"{result.seconds:.0f} seconds")
    results.print(f"examples with answers: {result.gallery}", markup=False)
    results.print(f"curves, costs and more examples: {page}", markup=False)
    results.print(
        f"ask it yourself: vl-lst predict {result.runs / chosen[0]} --task vqa --image FILE "
        "--question TEXT",
        markup=False,
    )
    if json_file is not None:
        write_json(json_file, {"tasks": result.scores, "seconds": round(result.seconds, 1)})
