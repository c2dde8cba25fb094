"""`vl-lst demo`: the full pipeline on generated images, without downloads."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vl_lst.bundled import DEMO, DEMO_IMAGE
from vl_lst.cli._choices import METHODS
from vl_lst.cli._console import QuietOption, announce_imports, progress, results
from vl_lst.cli._leaderboard_page import build_page
from vl_lst.cli._outputs import JsonOption, binary_file, write_json_report, write_report

__all__ = ["demo"]

# Number of examples per task and run on the page.
EXAMPLES = 12
MAX_SEED_DIGITS = 10
PAGE = "leaderboard.html"
DEMO_NAMES = (
    "data",
    "features.h5",
    f"features-{DEMO_IMAGE}.h5",
    "states.h5",
    "runs",
    "examples.png",
    PAGE,
)


def demo(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Output folder.",
            callback=binary_file("a folder", is_checked=False, holds=DEMO_NAMES),
        ),
    ] = Path("demo-run"),
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAME[,NAME]...",
            help=f"Methods to train under one protocol: {METHODS}, or `all`.",
        ),
    ] = "lst",
    seeds: Annotated[
        str,
        typer.Option(metavar="N[,N]...", help="Seeds to train each method with."),
    ] = "0",
    backbone: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"Bundled backbone: {DEMO} reads text, and image tokens enter the side network; "
            f"{DEMO_IMAGE} reads image tokens too.",
        ),
    ] = DEMO,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Run the full pipeline on generated images: extract features, train on four tasks, score.

    Trains each method and, for comparison, a ladder that does not see the image. Needs no network:
    images are rendered, and small pretrained models are bundled. Takes a few minutes on two CPU
    cores for one method. If it is interrupted, run the same command again to resume. If a run
    fails, the others continue, and the exit code is 1.

    Compare all methods over three seeds: vl-lst demo --methods all --seeds 0,1,2

    Example: vl-lst demo --out demo-run
    """
    announce_imports(quiet=quiet)
    from functools import partial

    from eval.leaderboard.quantities import Statistic
    from eval.leaderboard.units import score_text
    from feature_extraction.allocation import keep_freed_memory
    from tasks import get_task
    from vl_lst.demo.run import BLIND, LADDER, run_demo
    from vl_lst.errors import TrainingError
    from vl_lst.methods import method_names

    # The ladder first: the gallery shows the examples of the first method.
    names = sorted(method_names(), key=lambda name: name != LADDER)
    chosen = names if methods == "all" else [name.strip() for name in methods.split(",")]
    seed_list = _read_seeds(seeds)
    keep_freed_memory()
    result = run_demo(out, partial(progress, quiet=quiet), chosen, seed_list, backbone)
    table = Table(title="shapes world, official metrics on the validation splits")
    table.add_column("method")
    tasks = [get_task(name) for name in result.scores]
    for task in tasks:
        metric = "CIDEr x 100" if task.primary_metric == "cider" else f"{task.primary_metric} %"
        table.add_column(f"{task.name}\n{metric}", justify="right")
    for name in (*chosen, BLIND):
        percents = [
            [task.metric.percent(score) for score in result.scores[task.name][name]]
            for task in tasks
        ]
        label = f"{BLIND} (no image)" if name == BLIND else name
        cells = [score_text(Statistic.of(values)) if values else "failed" for values in percents]
        table.add_row(label, *cells, style="bold" if name == LADDER else None)
    results.print(table)
    page = out / PAGE
    _, content = build_page(
        result.runs,
        splits={},
        images=result.pictures,
        examples=EXAMPLES,
        title="Shapes world",
        reported=False,
        include_dirty=True,
        quiet=True,
    )
    is_written = write_report(page, content)
    results.print(f"{result.seconds:.0f} seconds")
    results.print(f"examples with answers: {result.gallery}", markup=False)
    if is_written:
        results.print(f"curves, costs and more examples: {page}", markup=False)
    results.print(
        f"ask it yourself: vl-lst predict {result.first_run} --task vqa --image FILE "
        "--question TEXT",
        markup=False,
    )
    means: dict[str, dict[str, float]] = {}
    deviations: dict[str, dict[str, float | None]] = {}
    for name, scores in result.scores.items():
        found = {trained: Statistic.of(values) for trained, values in scores.items() if values}
        means[name] = {trained: each.mean for trained, each in found.items()}
        deviations[name] = {trained: each.deviation for trained, each in found.items()}
    document = {
        "tasks": means,
        "standard_deviations": deviations,
        "seeds": seed_list,
        "seconds": round(result.seconds, 1),
        "failures": {name: str(error) for name, error in result.failures.items()},
    }
    write_json_report(json_file, document)
    if result.failures:
        listed = "; ".join(f"{name}: {error}" for name, error in result.failures.items())
        raise TrainingError(
            f"runs that failed: {len(result.failures)} ({listed}). The table shows the others. Run "
            "the same command again to resume those that failed."
        )


def _read_seeds(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) <= MAX_SEED_DIGITS for part in parts):
        raise typer.BadParameter(
            f"--seeds {text:.80}: expected comma-separated integers such as 0,1,2"
        )
    return [int(part) for part in parts]
