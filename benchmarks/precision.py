"""Scores of the ladder trained in float32 and in bfloat16 on the shapes world, over seeds.

    python benchmarks/precision.py --out DIR [--seeds 0,1,2] [--method lst] [--jobs 2]

Each seed trains once in either precision, with the demo's recipe and settings; backbone and
arithmetic have the same precision, as `precision: auto` chooses them. A run is scored once, at its
end, on the validation splits. The table shows the mean and the sample standard deviation over the
seeds, in percent, and the mean difference with that of the seeds' differences. bfloat16 agrees if
the difference is within the noise, which is the deviation in float32.

Finished runs are kept, so the same command continues an interrupted comparison.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, get_args

from _run_pool import run_pool
from _shapes_runs import AT_THE_END_ONLY, AVERAGE, percents, prepare_world, run

from eval.outputs import atomic_path, write_json
from vl_lst.bundled import DEMO
from vl_lst.choices import ArithmeticPrecision
from vl_lst.demo.run import demo_settings
from vl_lst.methods import method_names
from vl_lst.recipes import Recipe, default_recipe, read_recipe_file, resolve_recipe

PRECISIONS: tuple[ArithmeticPrecision, ...] = get_args(ArithmeticPrecision)
Scores = Mapping[ArithmeticPrecision, Mapping[int, Mapping[str, float]]]
"""Percents by precision, seed and task."""


def recipe(
    method: str,
    precision: ArithmeticPrecision,
    seed: int,
    root: Path,
    features: Path,
    steps: int | None,
) -> Recipe:
    """Return the recipe of one run.

    Args:
        method: Name of the method.
        precision: Precision of arithmetic, and of the backbone unless the method trains it.
        seed: Seed.
        root: Data root.
        features: Feature file.
        steps: Number of training steps; `None` for the demo's.
    """
    changes: list[tuple[str, Any]] = [
        *demo_settings(DEMO),
        ("method.name", method),
        ("data.root", str(root)),
        ("features", [str(features)]),
        ("training.evaluate_every", AT_THE_END_ONLY),
        ("training.device", "cpu"),
        ("training.seed", seed),
        ("training.precision", precision),
        ("backbone.precision", "auto"),
    ]
    if steps is not None:
        changes.append(("training.steps", steps))
    return resolve_recipe(read_recipe_file(default_recipe(method, DEMO)), changes)


def table(scores: Scores) -> str:
    """Return the comparison as Markdown, over the seeds that both precisions have."""
    exact, rounded = (scores[precision] for precision in PRECISIONS)
    seeds = sorted(exact.keys() & rounded.keys())
    lines = [f"task | {' | '.join(PRECISIONS)} | difference", "--- | ---: | ---: | ---:"]
    for name in exact[seeds[0]] if seeds else ():
        columns = [[each[seed][name] for seed in seeds] for each in (exact, rounded)]
        differences = [after - before for before, after in zip(*columns, strict=True)]
        cells = [name, *map(spread, columns), spread(differences, signed=True)]
        lines.append(" | ".join(cells))
    rows = "".join(f"| {line} |\n" for line in lines)
    return f"Seeds: {', '.join(map(str, seeds)) or 'none in both precisions yet'}\n\n{rows}"


def spread(values: Sequence[float], *, signed: bool = False) -> str:
    """Return the mean and, of several values, the sample standard deviation."""
    mean = f"{fmean(values):+.2f}" if signed else f"{fmean(values):.2f}"
    return f"{mean} ± {stdev(values):.2f}" if len(values) > 1 else mean


def write_results(scores: Scores, seconds: Mapping[str, float | None], out: Path) -> str:
    """Write `precision.json` and `precision.md`; return the text of the latter."""
    write_json(out / "precision.json", {"percents": scores, "train_seconds": seconds})
    text = table(scores)
    with atomic_path(out / "precision.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument("--method", default="lst", choices=method_names())
    parser.add_argument("--seeds", default="0,1,2", metavar="N,N...")
    parser.add_argument("--steps", type=int, help="steps of each run; default: the demo's")
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs, one thread each")
    return parser.parse_args()


def main() -> None:
    """Train missing runs, then print and write the table."""
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    root, features = prepare_world(arguments.out)
    scores: dict[ArithmeticPrecision, dict[int, Mapping[str, float]]] = {
        precision: {} for precision in PRECISIONS
    }
    seconds: dict[str, float | None] = {}
    with run_pool(arguments.jobs) as pool:
        # Seed by seed, so that an interrupted comparison still has pairs.
        runs = {
            pool.submit(
                run,
                recipe(arguments.method, precision, seed, root, features, arguments.steps),
                arguments.out / "runs" / f"{arguments.method}-{precision}" / str(seed),
            ): (precision, seed)
            for seed in map(int, arguments.seeds.split(","))
            for precision in PRECISIONS
        }
        for done, future in enumerate(as_completed(runs), start=1):
            precision, seed = runs[future]
            record = future.result()
            scores[precision][seed] = percents(record)
            seconds[f"{precision}, seed {seed}"] = record.train_seconds
            average = scores[precision][seed][AVERAGE]
            print(
                f"{done}/{len(runs)} {precision}, seed {seed}: {average:.2f}",
                file=sys.stderr,
                flush=True,
            )
            text = write_results(scores, seconds, arguments.out)
    print(text)


if __name__ == "__main__":
    main()
