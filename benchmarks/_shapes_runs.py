"""Runs of benchmarks on the shapes world, or on data like it: features, training, scores."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import torch
from _run_pool import stop_if_orphaned

from eval.run_files import RunRecord
from feature_extraction.encoders.encoder import build_encoder
from feature_extraction.extract import extract
from tasks import get_task
from vl_lst.bundled import CLIP_FOLDER, DEMO
from vl_lst.demo.world import write_world
from vl_lst.recipes import Recipe
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record
from vl_lst.training.session import train

__all__ = [
    "ALL_TASKS",
    "AT_THE_END_ONLY",
    "AVERAGE",
    "extract_features",
    "percents",
    "prepare_world",
    "run",
]

ALL_TASKS = "vqa,gqa,nlvr2,caption"
AVERAGE = "average"
AT_THE_END_ONLY = 10**6
EXTRACTION_BATCH = 50


def prepare_world(out: Path) -> tuple[Path, Path]:
    """Return the data root and the feature file of the shapes world, made if they do not exist."""
    root = out / "shapes"
    write_world(root)
    return root, extract_features(root / "images", out)


def extract_features(images: Path, out: Path) -> Path:
    """Return the feature file of a folder of images, extracted by the demo's image encoder."""
    features = out / "features.h5"
    extract(
        images, features, build_encoder(str(CLIP_FOLDER), name=DEMO), batch_size=EXTRACTION_BATCH
    )
    return features


def run(recipe: Recipe, folder: Path, *, threads: int = 1) -> RunRecord:
    """Train or resume a run, or return the record of a finished one."""
    torch.set_num_threads(threads)
    directory = RunDirectory(folder)
    if directory.record_file.exists():
        record = read_record(directory)
        same = Recipe.model_validate_json(directory.recipe().model_dump_json()) == recipe
        if record is not None and record.status == "success" and same:
            return record
    return train(recipe, folder, resume=True, report=stop_if_orphaned)


def percents(record: RunRecord) -> Mapping[str, float]:
    """Return each task's primary metric on the validation split, in percent, and their mean."""
    found = {}
    for name in record.tasks:
        task = get_task(name)
        metrics = record.scores[name][record.recipe["data"]["validation_split"][name]]
        found[name] = task.metric.percent(float(metrics[task.primary_metric]))
    return {**found, AVERAGE: fmean(found.values())}
