"""Per-example scores are kept with their predictions, and ignored for any others."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import TinyWorld

from tasks import Example, Score, get_task
from vl_lst.run import load_run
from vl_lst.runs.predictions import predictions_file, read_example_scores, write_example_scores

VQA = get_task("vqa")
SCORE = Score(
    metrics={"accuracy": 50.0}, examples=2, per_example={"1": 100.0, "2": 0.0}, protocol=""
)
CAPTION_SCORE = replace(SCORE, metrics={"cider": 0.5})
EXAMPLES = [Example(id_, ("a.jpg",), "vqa: is it?", ()) for id_ in ("1", "2")]


def _kept_scores(path: Path) -> dict[str, float] | None:
    kept = read_example_scores(path, VQA)
    return None if kept is None else kept.scores


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    path = predictions_file(tmp_path, VQA, "val2014")
    VQA.write_predictions({"1": "yes", "2": "no"}, path)
    return path


def test_training_keeps_the_scores_of_its_best_predictions(
    finished: Path, world: TinyWorld
) -> None:
    path = predictions_file(finished, VQA, "val2014")
    official = VQA.score(VQA.read_predictions(path), world.root, "val2014")
    kept = read_example_scores(path, VQA)
    assert kept is not None
    assert (kept.scores, kept.value) == (official.per_example, official.metrics["accuracy"])
    examples = VQA.load(world.root, "val2014")
    assert kept.clusters == {example.id: example.image_ids[0] for example in examples}
    assert kept.averaged is None
    content = json.loads(path.with_name("vqa-val2014.scores.json").read_text())
    assert content["predictions_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(content) == [
        *("schema_version", "predictions_sha256", "metric", "scores"),
        *("value", "averaged", "clusters"),
    ]


def test_an_evaluation_keeps_the_scores_of_its_predictions(
    finished: Path, world: TinyWorld
) -> None:
    run = load_run(finished)
    evaluation = run.evaluate("train2014")
    assert evaluation.score is not None
    kept = read_example_scores(evaluation.path, VQA)
    assert kept is not None
    assert kept.scores == evaluation.score.per_example
    assert kept.clusters is not None
    assert kept.clusters.keys() == kept.scores.keys()
    unlabelled = run.evaluate("test2015", features=_test_features(world, finished))
    assert read_example_scores(unlabelled.path, VQA) is None


def _test_features(world: TinyWorld, folder: Path) -> Path:
    from feature_extraction.encoders.encoder import build_encoder
    from feature_extraction.extract import extract

    out = folder / "test.h5"
    extract(world.root / "images" / "test2015", out, build_encoder(world.encoder, device="cpu"))
    return out


@pytest.mark.parametrize(("make", "kind"), [(Path.mkdir, "a folder"), (os.mkfifo, "a named pipe")])
def test_scores_that_cannot_be_written_are_reported(
    finished: Path, make: Callable[[Path], None], kind: str
) -> None:
    """The evaluation itself has succeeded."""
    make(finished / "predictions" / "vqa-train2014.scores.json")
    evaluation = load_run(finished).evaluate("train2014")
    assert evaluation.score is not None
    assert f"vqa-train2014.scores.json is {kind}" in str(evaluation.write_error)


def test_scores_of_other_predictions_are_ignored(predictions: Path) -> None:
    """As if a process was killed before it wrote the scores."""
    write_example_scores(predictions, VQA, SCORE, EXAMPLES)
    assert _kept_scores(predictions) == SCORE.per_example
    VQA.write_predictions({"1": "no", "2": "no"}, predictions)
    assert read_example_scores(predictions, VQA) is None


def test_scores_of_another_metric_are_ignored(predictions: Path) -> None:
    write_example_scores(predictions, get_task("caption"), CAPTION_SCORE, EXAMPLES)
    assert read_example_scores(predictions, VQA) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 2}', '{"scores": 1}'])
def test_damaged_scores_are_ignored(predictions: Path, content: str) -> None:
    write_example_scores(predictions, VQA, SCORE, EXAMPLES)
    predictions.with_name("vqa-val2014.scores.json").write_text(content)
    assert read_example_scores(predictions, VQA) is None


def test_scores_of_earlier_versions_are_read(predictions: Path) -> None:
    path = predictions.with_name("vqa-val2014.scores.json")
    write_example_scores(predictions, VQA, SCORE, EXAMPLES)
    content = json.loads(path.read_text())
    for name in ("value", "averaged", "clusters"):
        del content[name]
    path.write_text(json.dumps(content))
    kept = read_example_scores(predictions, VQA)
    assert kept is not None
    assert (kept.scores, kept.clusters) == (SCORE.per_example, None)


def test_nothing_is_kept_without_predictions_or_scores(tmp_path: Path, predictions: Path) -> None:
    write_example_scores(tmp_path / "none.json", VQA, SCORE, EXAMPLES)
    write_example_scores(Path("/dev/null"), VQA, SCORE, EXAMPLES)
    no_scores = Score(metrics={"accuracy": None}, examples=2, per_example={}, protocol="")
    write_example_scores(predictions, VQA, no_scores, EXAMPLES)
    assert [path.name for path in tmp_path.rglob("*.scores.json")] == []


def test_the_same_scores_are_the_same_bytes(predictions: Path) -> None:
    path = predictions.with_name("vqa-val2014.scores.json")
    write_example_scores(predictions, VQA, SCORE, EXAMPLES)
    first = path.read_bytes()
    write_example_scores(predictions, VQA, SCORE, EXAMPLES)
    assert path.read_bytes() == first
