"""Search of the demo's learning rates, with equal effort for every method.

    python benchmarks/learning_rates.py --out DIR [--methods lst,full] [--jobs 2]

Each method trains three times on all four tasks of the shapes world, with the learning rate of its
recipe, a third of it and three times as much; the schedule, shorter than the demo's, is the same
for all. A fifth of the training images is held out, and the rate with the best mean score on their
examples is chosen. The validation splits, which the demo scores, are not read. A run that ends with
a loss that is not finite has no score.

Finished runs are kept, so the same command continues an interrupted search, and one with more
methods adds to it. The table is written to `DIR/learning_rates.md`.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _held_out import HELD_OUT, TRAIN, write_parts
from _rates import best_rate, rates_around
from _run_pool import run_pool
from _shapes_runs import ALL_TASKS, AT_THE_END_ONLY, AVERAGE, percents, prepare_world, run

from eval.outputs import atomic_path, write_json
from vl_lst.bundled import DEMO
from vl_lst.demo.run import demo_settings
from vl_lst.errors import TrainingError
from vl_lst.methods import get_method, method_names
from vl_lst.recipes import Recipe, default_recipe, read_recipe_file, resolve_recipe

DEFAULT_STEPS = 500
SEED = 0


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of the search.

    Args:
        method: Name of the method.
        rate: Learning rate.
    """

    method: str
    rate: float

    def __str__(self) -> str:
        return f"{self.method} lr {self.rate:.1g}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run.

    Args:
        percents: Score of each task and their mean on the held-out examples, in percent; `None` if
            the loss was not finite.
        seconds: Training time.
    """

    percents: Mapping[str, float] | None
    seconds: float | None


def base_recipe(method: str) -> dict[str, Any]:
    """Return the recipe that the demo uses for a method."""
    return read_recipe_file(default_recipe(method, DEMO))


def trial_recipe(trial: Trial, out: Path, features: Path, steps: int) -> Recipe:
    """Return the recipe of a run.

    Args:
        trial: The run.
        out: Folder of the search.
        features: Feature file.
        steps: Number of training steps.
    """
    changes: list[tuple[str, Any]] = [
        *demo_settings(DEMO),
        ("method.name", trial.method),
        ("features", [str(features)]),
        ("optimizer.lr", trial.rate),
        ("training.steps", steps),
        ("training.evaluate_every", AT_THE_END_ONLY),
        ("training.device", "cpu"),
        ("training.seed", SEED),
    ]
    if "recompute" in get_method(trial.method).options.model_fields:
        # The same numbers in less time.
        changes.append(("method.options.recompute", False))
    for task in ALL_TASKS.split(","):
        changes += [
            (f"data.train_file.{task}", str(_file(out, task, TRAIN))),
            (f"data.validation_file.{task}", str(_file(out, task, HELD_OUT))),
        ]
    return resolve_recipe(base_recipe(trial.method), changes)


def _file(out: Path, task: str, part: str) -> Path:
    return out / "examples" / f"{task}-{part}.jsonl"


def run_trial(recipe: Recipe, folder: Path) -> Outcome:
    """Train a run, unless it is finished, and return its scores."""
    # The progress of parallel runs would be mixed.
    logging.disable(logging.INFO)
    try:
        record = run(recipe, folder)
    except TrainingError as error:
        print(f"{folder}: {error}", file=sys.stderr, flush=True)
        return Outcome(None, None)
    return Outcome(percents(record), record.train_seconds)


def table(outcomes: Mapping[Trial, Outcome], rates: Mapping[str, Sequence[float]]) -> str:
    """Return the search as Markdown: one row per method whose runs have all ended.

    Args:
        outcomes: Results so far.
        rates: Learning rates of each method; the second is its recipe's.
    """
    heads = ["method", *(f"{name}: mean %" for name in ("lower", "recipe's", "higher")), "chosen"]
    lines = [" | ".join(heads), " | ".join(["---", *["---:"] * (len(heads) - 1)])]
    for method, tried in rates.items():
        found = {rate: outcomes.get(Trial(method, rate)) for rate in tried}
        cells, means = [], {}
        for rate, outcome in found.items():
            if outcome is None:
                break
            if outcome.percents is None:
                cells.append(f"{rate:.0e}: diverged")
                continue
            means[rate] = outcome.percents[AVERAGE]
            cells.append(f"{rate:.0e}: {means[rate]:.2f}")
        if len(cells) == len(tried):
            chosen = f"{best_rate(means):.0e}" if means else "none"
            lines.append(" | ".join([method, *cells, chosen]))
    return "".join(f"| {line} |\n" for line in lines)


def write_results(
    outcomes: Mapping[Trial, Outcome], rates: Mapping[str, Sequence[float]], out: Path
) -> str:
    """Write `learning_rates.json` and `learning_rates.md`; return the text of the latter."""
    rows = [{**asdict(trial), **asdict(outcome)} for trial, outcome in outcomes.items()]
    write_json(out / "learning_rates.json", {"runs": rows})
    text = table(outcomes, rates)
    with atomic_path(out / "learning_rates.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument("--methods", default="all", metavar="NAME[,NAME]...|all")
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="steps of each run")
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs, one thread each")
    arguments = parser.parse_args()
    names = method_names() if arguments.methods == "all" else arguments.methods.split(",")
    if unknown := set(names) - set(method_names()):
        parser.error(
            f"no method {', '.join(sorted(unknown))}; expected: {', '.join(method_names())}"
        )
    arguments.methods = list(dict.fromkeys(names))
    return arguments


def main() -> None:
    """Train missing runs, then print and write the table."""
    arguments = parse_arguments()
    out: Path = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    root, features = prepare_world(out)
    write_parts(root, out / "examples", ALL_TASKS.split(","))
    rates = {
        name: rates_around(float(base_recipe(name)["optimizer"]["lr"]))
        for name in arguments.methods
    }
    outcomes: dict[Trial, Outcome] = {}
    with run_pool(arguments.jobs) as pool:
        trials = [Trial(name, rate) for name, tried in rates.items() for rate in tried]
        runs = {
            pool.submit(
                run_trial,
                trial_recipe(trial, out, features, arguments.steps),
                out / "runs" / f"{arguments.steps}-steps" / trial.method / f"{trial.rate:.1e}",
            ): trial
            for trial in trials
        }
        for done, future in enumerate(as_completed(runs), start=1):
            trial, outcome = runs[future], future.result()
            outcomes[trial] = outcome
            mean = "diverged" if outcome.percents is None else f"{outcome.percents[AVERAGE]:.2f}"
            seconds = "" if outcome.seconds is None else f", {outcome.seconds:.0f} s"
            print(f"{done}/{len(runs)} {trial}: {mean}{seconds}", file=sys.stderr, flush=True)
            write_results(outcomes, rates, out)
    print(write_results(outcomes, rates, out))


if __name__ == "__main__":
    main()
