"""How far the scores of the demo's ladder spread over seeds, threads, processors and precisions.

    python benchmarks/steadiness.py --out DIR [--seeds 0,1,2,3,4] [--jobs 2]

Each seed trains once, as in `vl-lst demo`. The first seed trains again with two threads, with the
instructions of an older processor (AVX2), and in bfloat16, all of which round differently. A run
is scored once, at its end. The table shows each run's scores on the validation splits in percent
(CIDEr x 100), then mean and sample standard deviation over the seeds, and the distance of the
highest from the lowest score of all runs. Finished runs are kept, so the same command continues an
interrupted comparison.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from _shapes_runs import AT_THE_END_ONLY, percents, prepare_world, run

from eval.outputs import atomic_path
from vl_lst.bundled import DEMO
from vl_lst.demo.run import LADDER, demo_settings
from vl_lst.extraction import extract_states
from vl_lst.recipes import Recipe, default_recipe, read_recipe_file, resolve_recipe

Scores = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to train the demo's ladder.

    Args:
        name: What it is called in the table, also its folder.
        seed: Seed.
        environment: Variables that libraries read when they are loaded.
        threads: Number of threads.
        changes: Changes of the recipe. Without any, the backbone's states are read from a file.
    """

    name: str
    seed: int
    environment: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1
    changes: tuple[tuple[str, Any], ...] = ()


def variants(seeds: list[int]) -> list[Variant]:
    """Return all runs, those of the seeds first."""
    first = seeds[0]
    avx2 = dict.fromkeys(("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"), "AVX2")
    bf16 = (("training.precision", "bf16"), ("backbone.precision", "bf16"))
    return [
        *(Variant(f"seed {seed}", seed) for seed in seeds),
        Variant(f"seed {first}, two threads", first, threads=2),
        Variant(f"seed {first}, AVX2", first, {**avx2, "ATEN_CPU_CAPABILITY": "avx2"}),
        Variant(f"seed {first}, bf16", first, changes=bf16),
    ]


def recipe(variant: Variant, root: Path, features: Path, states: Path | None) -> Recipe:
    """Return the recipe of one run."""
    return resolve_recipe(
        read_recipe_file(default_recipe(LADDER, DEMO)),
        [
            *demo_settings(DEMO),
            ("method.name", LADDER),
            ("data.root", str(root)),
            ("features", [str(features)]),
            ("states", str(states) if states and not variant.changes else None),
            ("training.evaluate_every", AT_THE_END_ONLY),
            ("training.device", "cpu"),
            ("training.seed", variant.seed),
            *variant.changes,
        ],
    )


def train_one(variant: Variant, out: Path) -> Scores:
    """Train a run, or return the scores of a finished one."""
    settings = recipe(variant, out / "shapes", out / "features.h5", out / "states.h5")
    return percents(run(settings, out / "runs" / variant.name, threads=variant.threads))


def start(variant: Variant, out: Path) -> None:
    """Train a run in a process of its own, whose libraries are loaded in its environment."""
    environment = {**os.environ, **variant.environment, "OMP_NUM_THREADS": str(variant.threads)}
    command = [sys.executable, __file__, "--out", str(out), "--only", variant.name]
    command += ["--seeds", str(variant.seed)]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    print(f"finished: {variant.name}", file=sys.stderr, flush=True)


def table(scores: Mapping[str, Scores], num_seeds: int) -> str:
    """Return the comparison as Markdown.

    Args:
        scores: Percents by run and task; the runs of the seeds first.
        num_seeds: Number of seeds.
    """
    tasks = list(next(iter(scores.values())))
    rows = {name: [f"{each[task]:.2f}" for task in tasks] for name, each in scores.items()}
    columns = [[each[task] for each in scores.values()] for task in tasks]
    rows["mean over seeds"] = [_mean_and_deviation(column[:num_seeds]) for column in columns]
    rows["highest - lowest"] = [f"{max(column) - min(column):.2f}" for column in columns]
    lines = [["run", *tasks], ["---", *["---:"] * len(tasks)]]
    lines += [[name, *cells] for name, cells in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _mean_and_deviation(values: list[float]) -> str:
    mean = f"{fmean(values):.2f}"
    return f"{mean} ± {stdev(values):.2f}" if len(values) > 1 else mean


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument("--seeds", default="0,1,2,3,4", metavar="N,N...")
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Train missing runs, then print and write the table."""
    arguments = parse_arguments()
    out: Path = arguments.out
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    chosen = variants(seeds)
    if arguments.only:
        train_one(next(each for each in chosen if each.name == arguments.only), out)
        return
    out.mkdir(parents=True, exist_ok=True)
    root, features = prepare_world(out)
    states = out / "states.h5"
    extract_states(recipe(chosen[0], root, features, None), states)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda each: start(each, out), chosen))
    text = table({each.name: train_one(each, out) for each in chosen}, len(seeds))
    with atomic_path(out / "steadiness.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
