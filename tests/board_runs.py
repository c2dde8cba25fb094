"""Run directories for tests of the leaderboard, written without training."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from eval.leaderboard.runs import Run
from eval.metrics import Metric
from eval.run_files import ExampleScores

METRICS = {
    "vqa": Metric("accuracy", 1.0),
    "gqa": Metric("accuracy", 1.0),
    "nlvr2": Metric("accuracy", 100.0),
    "caption": Metric("cider", 100.0),
}
SPLITS = {"vqa": "val2014", "gqa": "val", "nlvr2": "dev", "caption": "val2014"}
# The parts of a suite, whose tasks are in different runs.
SUITE = ("cola", "mnli", "stsb")
METRICS |= {task: Metric("average", 1.0) for task in SUITE}
SPLITS |= {"cola": "dev", "mnli": "dev_matched", "stsb": "dev"}
# A task of text alone, scored on the split of the paper.
METRICS["rte"], SPLITS["rte"] = Metric("average", 1.0), "paper_test"

# Examples of which `KeptScores` has scores, and how many share an image.
NUM_EXAMPLES, NUM_PER_IMAGE = 100, 2


def make_record(
    *,
    method: str = "lst",
    seed: int = 0,
    scores: dict[str, float] | None = None,
    saved: int | None = 1000,
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Return the record of a run.

    Args:
        method: Method.
        seed: Seed.
        scores: Primary metric of each task, on its official scale.
        saved: Bytes saved for the backward pass.
        options: Options of the method.
        changes: Other fields of the record; `recipe__training__epochs=3` sets a nested one.
    """
    scores = {"vqa": 60.0} if scores is None else scores
    tasks = list(scores)
    record: dict[str, Any] = {
        "schema_version": 1,
        "status": "success",
        "error": None,
        "method": method,
        "tasks": tasks,
        "protocol": {task: f"{task} official" for task in tasks},
        "scores": {
            task: {SPLITS[task]: {METRICS[task].name: value}} for task, value in scores.items()
        },
        "best_step": 10,
        "steps": 20,
        "total_steps": 20,
        "parameters": {"trainable": 75, "total": 1000, "percent_of_total": 7.5},
        "memory_bytes": {
            "parameters": 4000,
            "gradients": 300,
            "optimizer_state": 600,
            "saved_for_backward": None if saved is None else {"total": saved},
            "peak_allocated": None,
            "peak_reserved": None,
        },
        "examples_per_second": 12.5,
        "train_seconds": 90.0,
        "seed": seed,
        "feature_spec_sha256": "f" * 64,
        "backbone": "t5-base",
        "backbone_fingerprint": "b" * 64,
        "git": {"commit": "c" * 40, "dirty": False},
        "packages": {"torch": "2.9"},
        "python": "3.11.7",
        "device": "cpu: x86_64",
        "recipe": {
            "task": ",".join(tasks),
            "data": {
                "root": "data",
                "blind": False,
                "validation_split": {task: SPLITS[task] for task in tasks},
            },
            "features": ["a.h5"],
            "backbone": {"name": "t5-base", "precision": "fp32"},
            "method": {"name": method, "options": options or {}},
            "optimizer": {"lr": 1e-3},
            "training": {"epochs": 2, "seed": seed, "workers": 0, "device": "auto"},
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        fields = record
        for name in parents:
            fields = fields[name]
        fields[last] = value
    return deepcopy(record)


def write_run(folder: Path, name: str, **fields: Any) -> Path:
    """Write the record and the metrics of a run into `folder / name`; see `make_record`."""
    run = folder / name
    run.mkdir(parents=True)
    record = make_record(**fields)
    (run / "record.json").write_text(json.dumps(record), encoding="utf-8")
    lines = [{"step": step, "loss": 2.0 / step} for step in (5, 10, 15, 20)]
    lines += [
        {"step": 20, "task": task, "split": SPLITS[task], METRICS[task].name: 0.5}
        for task in record["scores"]
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def write_suite(
    folder: Path, scores: dict[str, float], *, seed: int = 0, method: str = "lst", **fields: Any
) -> None:
    """Write one run per task into `folder / TASK`, which differ in what belongs to a task.

    Args:
        folder: Folder of the runs.
        scores: Score of each task of `SUITE` to write a run of.
        seed: Seed.
        method: Method.
        fields: See `make_record`; a dictionary may have one value per task.
    """
    for number, (task, score) in enumerate(scores.items()):
        own = {
            name: value[task] if isinstance(value, dict) else value
            for name, value in fields.items()
        }
        settings = {
            "recipe__training__epochs": 20 if task == "cola" else 10,
            "recipe__training__batch_size": {task: 100},
            "recipe__data__prompt_prefix": {task: f"{task} "},
            "recipe__data__max_prompt_tokens": {task: 128},
            "total_steps": 100 * (number + 1),
        }
        write_run(
            folder,
            task,
            scores={task: score},
            seed=seed,
            method=method,
            **{**settings, **own},
        )


def write_card(run: Path, train: str, validation: str | None = None) -> None:
    """Write a run's `model.json` with the digests of its examples' ids."""
    task = {
        "train_examples": 3,
        "train_examples_sha256": train,
        "validation_examples_sha256": validation,
        "answers": None,
    }
    card = {
        "schema_version": 2,
        "backbone_fingerprint": "b" * 64,
        "feature_spec": {},
        "tasks": {"vqa": task},
    }
    (run / "model.json").write_text(json.dumps(card), encoding="utf-8")


class KeptScores:
    """The per-example scores of runs, by the name of the run."""

    def __init__(self) -> None:
        self._of_run: dict[str, ExampleScores] = {}

    def add(self, name: str, num_right: int, *, offset: int = 0, metric: str = "accuracy") -> float:
        """Keep scores of which `num_right` are right, beginning at an offset; return the mean."""
        right = {(offset + number) % NUM_EXAMPLES for number in range(num_right)}
        scores = {str(n): 100.0 * (n in right) for n in range(NUM_EXAMPLES)}
        value = 100.0 * num_right / NUM_EXAMPLES
        self._of_run[name] = ExampleScores(
            predictions_sha256="",
            metric=metric,
            scores=scores,
            value=value,
            clusters={str(n): f"image {n // NUM_PER_IMAGE}" for n in range(NUM_EXAMPLES)},
        )
        return value

    def read(self, run: Run, task: str, split: str) -> ExampleScores | None:
        return self._of_run.get(run.name)


# Names of methods and folders that a page must show as they are.
HOSTILE_NAMES = (
    '</script><script>alert(1)</script><img src="https://example.org/x.png" onerror=alert(2)>',
    "a\"b'c&d?e#f%20",
    "שלום عالم",
    "🦜🔥",
    "long" * 45,
    "C:\\..\\..",
)


def write_many_runs(folder: Path, count: int) -> None:
    """Write runs of five methods over sizes, learning rates and seeds, some with hostile names.

    Args:
        folder: Folder of the runs.
        count: Number of runs.
    """
    methods = {"lst": 62.0, "lora": 64.0, "full": 66.0, "adapter": 60.0, "side": 50.0}
    for number in range(count):
        method = list(methods)[number % 5]
        seed, size, rate = number // 5 % 3, 2 ** (1 + number // 15 % 5), 1 + number // 75
        score = methods[method] - size / 8 + (number * 7 % 11) / 11
        name = HOSTILE_NAMES[number] if number < len(HOSTILE_NAMES) else str(number)
        write_run(
            folder,
            name.replace("/", "∕"),
            method=HOSTILE_NAMES[number % 6] if number % 29 == 28 else method,
            seed=seed,
            saved=(number % 5 + 1) ** 4 * 2**20 // size,
            scores={"vqa": score, "gqa": score - 5, "nlvr2": score / 100, "caption": score / 50},
            options={"reduction": size},
            parameters={"trainable": 96 // size, "total": 1000, "percent_of_total": 9.6 / size},
            recipe__optimizer={"lr": rate * 1e-3},
        )
