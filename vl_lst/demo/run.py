"""The full pipeline on the shapes world: images, features, training, official scores."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.run_files import RunRecord
from feature_extraction.cores import usable_cores
from feature_extraction.encoders.encoder import build_encoder
from feature_extraction.extract import extract
from feature_extraction.pipeline import default_workers
from tasks import Task, get_task
from vl_lst.bundled import BACKBONE_FOLDERS, DEMO, ENCODER_FOLDERS
from vl_lst.demo.gallery import Card, draw_gallery
from vl_lst.demo.splits import picture_path
from vl_lst.demo.world import write_world
from vl_lst.errors import RecipeError, VlLstError
from vl_lst.extraction import extract_states
from vl_lst.launch import require_one_process
from vl_lst.methods import get_method
from vl_lst.progress import ProgressReport
from vl_lst.recipes import Recipe, default_recipe, read_recipe_file, resolve_recipe
from vl_lst.runs.directory import RunDirectory, make_folder
from vl_lst.runs.lock import exclusive_folder
from vl_lst.training.parallel_runs import train_in_parallel

__all__ = ["BLIND", "LADDER", "TASKS", "DemoResult", "demo_settings", "run_demo"]

TASKS = ("vqa", "gqa", "nlvr2", "caption")
LADDER, BLIND = "lst", "blind"
FIRST_SEED = 0
EXTRACTION_BATCH_SIZE = 50
CARDS_PER_TASK = 4
# Sized for a few minutes on two cores. Few image tokens and stored states of the backbone make a
# step cheap. NLVR2 needs the most steps, so its batches are small. All tasks are learned on every
# seed after about 3,000 steps; before, a seed can be ahead of another by 10 points
# (`benchmarks/steadiness.py`). An epoch has about 750 steps. Short captions need no beams.
DEMO_SETTINGS: tuple[tuple[str, Any], ...] = (
    ("task", ",".join(TASKS)),
    # No prompt of the shapes world is longer.
    ("data.max_prompt_tokens", 20),
    ("training.epochs", None),
    ("training.steps", 4000),
    ("training.batch_size", {"vqa": 32, "gqa": 48, "nlvr2": 12, "caption": 48}),
    ("training.evaluate_every", 1),
    ("generation.beams", 1),
    ("generation.max_length", {"caption": 16}),
)
# Settings of a single backbone. One that reads images has no visual embedding.
BACKBONE_SETTINGS: Mapping[str, tuple[tuple[str, Any], ...]] = {DEMO: (("visual.pooled_grid", 3),)}


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Results of the demo.

    Args:
        scores: Primary metric on the official script's scale, by task and then by trained model:
            each method, and `blind`, the ladder with all image features zero. One number per seed
            whose run has not failed.
        seconds: Wall time of this call.
        pictures: Folder of the rendered images.
        runs: Folder that holds the run directories.
        first_run: Run directory of the first method and seed.
        gallery: PNG file of examples with the first run's answers.
        failures: Error of each run that failed, by the name of its folder.
    """

    scores: dict[str, dict[str, list[float]]]
    seconds: float
    pictures: Path
    runs: Path
    first_run: Path
    gallery: Path
    failures: Mapping[str, VlLstError] = field(default_factory=dict)


def run_demo(
    out: Path,
    stage: Callable[[str], AbstractContextManager[ProgressReport]],
    methods: Sequence[str] = (LADDER,),
    seeds: Sequence[int] = (FIRST_SEED,),
    backbone: str = DEMO,
) -> DemoResult:
    """Render images, extract features, train every method and a blind ladder, and score them.

    If it is interrupted, the next call with the same folder resumes. If a run fails, the others
    continue.

    Args:
        out: Output folder.
        stage: Opens the progress report of a stage, given its description.
        methods: Names of the methods to train.
        seeds: Seeds to train each method with.
        backbone: Name of a bundled backbone. The results of several backbones can share a folder.

    Raises:
        RecipeError: A method or the backbone is unknown, a method or seed is repeated, or the
            folder's runs were made by another version.
        VlLstError: All runs failed.
        CheckpointError: The folder cannot be created, or another process is using it.
        LaunchError: A launcher started this as one of several processes.
    """
    require_one_process(os.environ)
    if backbone not in BACKBONE_FOLDERS:
        raise RecipeError(
            f"no bundled backbone {backbone!r:.80}: expected one of {', '.join(BACKBONE_FOLDERS)}"
        )
    for name in methods:
        get_method(name)
    _require_distinct("methods", methods)
    _require_distinct("seeds", seeds)
    make_folder(out)
    with exclusive_folder(out):
        return _run_in(out, stage, methods, seeds, backbone)


def _run_in(
    out: Path,
    stage: Callable[[str], AbstractContextManager[ProgressReport]],
    methods: Sequence[str],
    seeds: Sequence[int],
    backbone: str,
) -> DemoResult:
    started = time.monotonic()
    data, runs = out / "data", out / "runs"
    features = out / ("features.h5" if backbone == DEMO else f"features-{backbone}.h5")

    def run_name(name: str, seed: int) -> str:
        """Return the name of a run's folder."""
        name = name if backbone == DEMO else f"{name}-{backbone}"
        return name if seed == FIRST_SEED else f"{name}-seed-{seed}"

    with stage("rendering pictures") as report:
        write_world(data, report=report)
    pictures = data / "images"
    encoder = build_encoder(str(ENCODER_FOLDERS[backbone]), name=backbone)
    with stage("extracting features") as report:
        extract(
            pictures,
            features,
            encoder,
            batch_size=EXTRACTION_BATCH_SIZE,
            workers=default_workers(usable_cores(), encoder.device),
            on_progress=report,
        )
    # Where the backbone reads images, hardly any two examples have the same states.
    states = out / "states.h5" if backbone == DEMO else None
    if states is not None:
        with stage("storing the backbone's states") as report:
            extract_states(
                _recipe(LADDER, FIRST_SEED, backbone, data, features), states, report=report
            )
    # Seed by seed, so that an interrupted comparison still has every method for the same seeds.
    trained = {
        run_name(name, seed): (
            _recipe(name, seed, backbone, data, features, states),
            runs / run_name(name, seed),
        )
        for seed in seeds
        for name in (*methods, BLIND)
    }
    failures: dict[str, VlLstError] = {}
    with stage("training") as report:
        records = train_in_parallel(trained, report=report, failures=failures)
    if not records:
        raise next(iter(failures.values()))
    gallery = out / "examples.png"
    first_recipe, first_run = trained[next(name for name in trained if name in records)]
    draw_gallery(_cards(data, first_recipe, first_run), gallery)
    scores = {
        task: {
            name: [
                _primary(get_task(task), records[run_name(name, seed)])
                for seed in seeds
                if run_name(name, seed) in records
            ]
            for name in (*methods, BLIND)
        }
        for task in TASKS
    }
    seconds = time.monotonic() - started
    return DemoResult(scores, seconds, pictures, runs, first_run, gallery, failures)


def _require_distinct(kind: str, given: Sequence[object]) -> None:
    if len(set(given)) < len(given):
        raise RecipeError(
            f"the {kind} {', '.join(map(str, given))} repeat a value; give each one once"
        )


def demo_settings(backbone: str) -> tuple[tuple[str, Any], ...]:
    """Return the settings of a run on the shapes world, as overrides of a recipe."""
    return *DEMO_SETTINGS, *BACKBONE_SETTINGS.get(backbone, ()), ("backbone.name", backbone)


def _recipe(
    name: str, seed: int, backbone: str, data: Path, features: Path, states: Path | None = None
) -> Recipe:
    method = LADDER if name == BLIND else name
    return resolve_recipe(
        read_recipe_file(default_recipe(method, backbone)),
        [
            *demo_settings(backbone),
            ("method.name", method),
            ("data.root", str(data)),
            ("data.blind", name == BLIND),
            ("training.seed", seed),
            ("features", [str(features)]),
            # Other methods run the backbone, or read other states.
            ("states", str(states) if states and method == LADDER else None),
        ],
    )


def _primary(task: Task, record: RunRecord) -> float:
    split = record.recipe["data"]["validation_split"][task.name]
    value = record.scores[task.name][split][task.primary_metric]
    assert isinstance(value, float), "training would have failed without it"
    return value


def _cards(data: Path, recipe: Recipe, folder: Path) -> list[Card]:
    """Return examples spread over each task's split, each about a different picture."""
    cards = []
    for place, name in enumerate(TASKS):
        task, split = get_task(name), recipe.data.validation_split[name]
        predictions = task.read_predictions(RunDirectory(folder).predictions_file(task, split))
        examples = task.load(data, split)
        step = len(examples) // CARDS_PER_TASK
        for number in range(CARDS_PER_TASK):
            # Start at a different place per task, and not always at a picture's first question.
            start = number * step + place * step // len(TASKS)
            example = examples[start + number % max(1, step // len(TASKS))]
            cards.append(
                Card(
                    images=tuple(picture_path(data, image) for image in example.image_ids),
                    question=example.text,
                    prediction=predictions[example.id],
                    truth=max(example.targets, key=lambda target: target[1])[0],
                    graded=task.takes_text,
                )
            )
    return cards
