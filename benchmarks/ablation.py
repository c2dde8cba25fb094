"""Ablation of the ladder's improvements: every variant trained over several seeds.

    python benchmarks/ablation.py --out DIR [--jobs 2] [--variants "lst-paper;all;full"]

Without `--data-root`, trains on the demo's shapes world, all four tasks together. Otherwise trains
on official annotations, such as easy-VQA's in VQA's format:

    python benchmarks/ablation.py --out DIR --data-root easyvqa --images easyvqa/images --tasks vqa

All runs share the demo's recipe (a method's own recipe where there is one, such as `demo-full`) and
the changes of `--set`; only variant and seed differ. A run is scored once, at its end, on the
validation split, so no checkpoint is selected on the data it is scored on. The table shows mean
and sample standard deviation over seeds, in percent; a single seed has no deviation. Run the
command again to train only what is missing.

`--set KEY=VALUE` changes all variants (`method.options.*` only those of method lst), and
`--set "NAME:KEY=VALUE"` changes one variant. `--list` prints the names.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from _ablation_variants import OPTIONS, Variant, variants
from _run_pool import run_pool
from _shapes_runs import (
    ALL_TASKS,
    AT_THE_END_ONLY,
    AVERAGE,
    extract_features,
    percents,
    prepare_world,
    run,
)

from eval.outputs import atomic_path, write_json
from eval.run_files import RunRecord
from vl_lst.bundled import DEMO
from vl_lst.demo.run import demo_settings
from vl_lst.recipes import (
    Recipe,
    bundled_recipes,
    parse_override,
    read_recipe_file,
    resolve_recipe,
)

RECIPE = "demo"
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings shared by all variants.

    Args:
        tasks: Comma-separated task names.
        data_root: Folder of annotations.
        features: Feature files.
        given: Recipe fields set for all variants.
        of_variant: Recipe fields set for single variants, by variant name.
    """

    tasks: str
    data_root: Path
    features: tuple[Path, ...]
    given: tuple[tuple[str, Any], ...]
    of_variant: Mapping[str, list[tuple[str, Any]]]

    def recipe(self, variant: Variant, seed: int) -> Recipe:
        """Return the recipe of one run."""
        own = f"{RECIPE}-{variant.method}"
        base = read_recipe_file(own if own in bundled_recipes() else RECIPE)
        if base["method"]["name"] != variant.method:
            base["method"] = {"name": variant.method, "options": {}}
        given = [
            change
            for change in self.given
            if variant.method == "lst" or not change[0].startswith(OPTIONS)
        ]
        return resolve_recipe(
            base,
            [
                ("task", self.tasks),
                ("data.root", str(self.data_root)),
                ("features", [str(path) for path in self.features]),
                ("training.evaluate_every", AT_THE_END_ONLY),
                ("training.device", "cpu"),
                ("training.seed", seed),
                *given,
                *variant.changes.items(),
                *self.of_variant.get(variant.name, ()),
            ],
        )


def summarise(runs: Mapping[int, RunRecord]) -> dict[str, Any]:
    """Return one row of the table: scores over the seeds, and costs."""
    scores = {seed: percents(record) for seed, record in sorted(runs.items())}
    names = next(iter(scores.values())).keys()
    first = next(iter(runs.values()))
    saved = first.memory_bytes and first.memory_bytes.saved_for_backward
    return {
        "seeds": list(scores),
        "scores": {name: spread([each[name] for each in scores.values()]) for name in names},
        "trainable_percent": first.parameters and first.parameters.percent_of_total,
        "saved_for_backward": saved and saved["total"],
        "train_seconds": [record.train_seconds for record in runs.values()],
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return mean and sample standard deviation, which is `None` for a single value."""
    return {
        "mean": fmean(values),
        "std": stdev(values) if len(values) > 1 else None,
        "values": list(values),
    }


def markdown(table: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table as Markdown."""
    names = list(next(iter(table.values()))["scores"])
    heads = ["variant", *names, "seeds", "trainable %", "saved MiB"]
    lines = [" | ".join(heads), " | ".join(["---", *["---:"] * (len(heads) - 1)])]
    for variant, row in table.items():
        cells = [variant]
        for name in names:
            score = row["scores"][name]
            deviation = "" if score["std"] is None else f" ± {score['std']:.2f}"
            cells.append(f"{score['mean']:.2f}{deviation}")
        cells.append(str(len(row["seeds"])))
        cells.append(f"{row['trainable_percent']:.2f}")
        saved = row["saved_for_backward"]
        cells.append("" if saved is None else f"{saved / MIB:.1f}")
        lines.append(" | ".join(cells))
    return "".join(f"| {line} |\n" for line in lines)


def prepare(arguments: argparse.Namespace) -> tuple[Path, tuple[Path, ...]]:
    """Return data root and feature files, created if they are not given."""
    root: Path | None = arguments.data_root
    if arguments.features:
        assert root is not None, "checked by the parser"
        return root, tuple(arguments.features)
    if root is None:
        root, features = prepare_world(arguments.out)
        return root, (features,)
    assert arguments.images is not None, "checked by the parser"
    return root, (extract_features(arguments.images, arguments.out),)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="official annotations")
    parser.add_argument("--features", type=Path, nargs="+", metavar="FILE.h5")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="image folder, instead of --features"
    )
    parser.add_argument("--tasks", default=ALL_TASKS, metavar="TASK[,TASK]...")
    parser.add_argument("--variants", metavar="NAME;NAME...", help="default: all; see --list")
    parser.add_argument("--seeds", default="0,1,2", metavar="N,N...")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int)
    length.add_argument("--epochs", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="[NAME:]KEY=VALUE")
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs, one thread each")
    parser.add_argument("--list", action="store_true", help="list the variants")
    arguments = parser.parse_args()
    if not arguments.list:
        if arguments.out is None:
            parser.error("--out DIR is missing")
        if (arguments.data_root is None) != (not arguments.features and arguments.images is None):
            parser.error(
                "--data-root requires --features or --images, and they require --data-root"
            )
        unknown = set(chosen(arguments.variants)) - set(variants())
        if unknown:
            parser.error(
                f"no variant {', '.join(sorted(unknown))}; expected one of: {variant_names()}"
            )
    return arguments


def chosen(text: str | None) -> list[str]:
    """Return the names of the variants to run; names may contain commas."""
    return list(variants()) if text is None else [name.strip() for name in text.split(";")]


def variant_names() -> str:
    """Return the names of all variants, separated by semicolons."""
    return "; ".join(variants())


def read_settings(arguments: argparse.Namespace) -> Settings:
    """Group `--set` values by the variant they apply to."""
    known = variants()
    # On the shapes world, use the demo's settings.
    given: list[tuple[str, Any]] = [] if arguments.data_root else list(demo_settings(DEMO))
    of_variant: dict[str, list[tuple[str, Any]]] = {}
    if arguments.steps is not None:
        given += [("training.epochs", None), ("training.steps", arguments.steps)]
    if arguments.epochs is not None:
        given += [("training.steps", None), ("training.epochs", arguments.epochs)]
    for text in arguments.set:
        name, colon, change = text.partition(":")
        if colon and name in known:
            of_variant.setdefault(name, []).append(parse_override(change))
        else:
            given.append(parse_override(text))
    root, features = prepare(arguments)
    return Settings(arguments.tasks, root, features, tuple(given), of_variant)


def main() -> None:
    """Train missing runs, then print and write the table."""
    arguments = parse_arguments()
    if arguments.list:
        print("\n".join(variants()))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = read_settings(arguments)
    names = chosen(arguments.variants)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    found: dict[str, dict[int, RunRecord]] = {name: {} for name in names}
    with run_pool(arguments.jobs) as pool:
        # Seed by seed, so that an interrupted ablation still has every variant for the same seeds.
        runs = {
            pool.submit(
                run,
                settings.recipe(variants()[name], seed),
                arguments.out / "runs" / variants()[name].folder / str(seed),
            ): (name, seed)
            for seed in seeds
            for name in names
        }
        for done, future in enumerate(as_completed(runs), start=1):
            name, seed = runs[future]
            found[name][seed] = future.result()
            average = percents(found[name][seed])[AVERAGE]
            print(
                f"{done}/{len(runs)} {name}, seed {seed}: {average:.2f}",
                file=sys.stderr,
                flush=True,
            )
            write_tables(found, arguments.out)
    print(write_tables(found, arguments.out))


def write_tables(found: Mapping[str, Mapping[int, RunRecord]], out: Path) -> str:
    """Write `ablation.json` and `ablation.md`; return the text of the latter."""
    table = {name: summarise(runs) for name, runs in found.items() if runs}
    changes = {name: dict(variants()[name].changes) for name in table}
    write_json(
        out / "ablation.json",
        {name: {"changes": changes[name], **row} for name, row in table.items()},
    )
    text = markdown(table)
    with atomic_path(out / "ablation.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    main()
