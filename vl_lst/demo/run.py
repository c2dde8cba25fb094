"""The whole road on the shapes world: pictures, features, training, official scores."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from feature_extraction.encoders import build_encoder
from feature_extraction.extract import extract
from tasks import get_task
from vl_lst.demo import CLIP_FOLDER
from vl_lst.demo.gallery import Card, draw_gallery
from vl_lst.demo.splits import SPLITS, picture_path
from vl_lst.demo.world import write_world
from vl_lst.models.loading import DEMO
from vl_lst.progress import ProgressReport
from vl_lst.recipes import read_recipe_file, resolve_recipe
from vl_lst.training.run import load_run
from vl_lst.training.session import train

__all__ = ["DemoResult", "run_demo"]

TASK = "vqa"
TRAIN, VALIDATION = (split.name for split in SPLITS)
EPOCHS = 3
GALLERY_CARDS = 8
EXTRACTION_BATCH = 50


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo found.

    Args:
        scores: Official accuracy by task, then by what was trained: `lst`, and `blind`, the same
            model with all image features zero.
        seconds: Wall time of this call.
        gallery: A picture of some questions with answers.
    """

    scores: dict[str, dict[str, float]]
    seconds: float
    gallery: Path


def run_demo(
    out: Path, stage: Callable[[str], AbstractContextManager[ProgressReport]]
) -> DemoResult:
    """Render, extract, train with and without the image, evaluate.

    Interrupted and called again with the same folder, it goes on where it was.

    Args:
        out: Folder for everything that is made.
        stage: Opens the progress report of a stage, given its description.
    """
    started = time.monotonic()
    data, features = out / "data", out / "features.h5"
    with stage("rendering pictures") as report:
        write_world(data, pair_splits=(), report=report)
    encoder = build_encoder(str(CLIP_FOLDER), name=DEMO)
    with stage("extracting features") as report:
        extract(data / "images", features, encoder, batch_size=EXTRACTION_BATCH, on_progress=report)
    scores: dict[str, float] = {}
    predictions: dict[str, dict[str, str]] = {}
    for name, blind in (("lst", False), ("blind", True)):
        recipe = resolve_recipe(
            read_recipe_file("demo"),
            [
                ("task", TASK),
                ("data.root", str(data)),
                ("data.blind", blind),
                ("training.epochs", EPOCHS),
                ("features", [str(features)]),
            ],
        )
        folder = out / "runs" / name
        with stage(f"training {name}") as report:
            train(recipe, folder, resume=True, report=report)
        with stage(f"evaluating {name}") as report:
            evaluation = load_run(folder).evaluate(VALIDATION, report=report)
        assert evaluation.score is not None, "the shapes world has labels"
        accuracy = evaluation.score.metrics[get_task(TASK).primary_metric]
        assert isinstance(accuracy, float)
        scores[name] = accuracy
        predictions[name] = evaluation.predictions
    gallery = out / "examples.png"
    draw_gallery(_cards(data, predictions["lst"]), gallery)
    return DemoResult({TASK: scores}, time.monotonic() - started, gallery)


def _cards(data: Path, predictions: dict[str, str]) -> list[Card]:
    """Examples spread over the split, each of another picture."""
    task = get_task(TASK)
    examples = task.load(data, VALIDATION)
    step = len(examples) // GALLERY_CARDS
    # Not always the first question about a picture.
    chosen = [examples[number * step + number % step] for number in range(GALLERY_CARDS)]
    return [
        Card(
            image=picture_path(data, example.image_ids[0]),
            question=example.prompt.removeprefix(task.prompt_prefix),
            prediction=predictions[example.id],
            truth=max(example.targets, key=lambda target: target[1])[0],
        )
        for example in chosen
    ]
