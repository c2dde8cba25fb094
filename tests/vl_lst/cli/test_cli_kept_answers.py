"""Predictions and scores that a run kept, as the leaderboard page and `compare` read them."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from board_runs import write_run

from eval.leaderboard.runs import Run, find_runs
from vl_lst.cli._answered_splits import SplitReader
from vl_lst.cli._differing_examples import read_answers
from vl_lst.cli._kept_answers import (
    MissingPredictionsError,
    estimate_kept,
    read_kept_answers,
    read_kept_scores,
)

ANSWERS = {"q0": "a", "q1": "b", "q2": "a"}
SCORES = {"q0": 100.0, "q1": 0.0, "q2": 0.0}  # q2 would be scored 100 again


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL_LST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that answered three questions, whose answers are all "a"."""
    questions = tmp_path / "val.jsonl"
    lines = [
        {"id": id_, "images": [f"{id_}.jpg"], "prompt": "what?", "answers": ["a"]}
        for id_ in ANSWERS
    ]
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = write_run(
        tmp_path / "runs",
        "run",
        recipe__data__root=None,
        recipe__data__train_file={"vqa": str(questions)},
        recipe__data__validation_file={"vqa": str(questions)},
    )
    predictions = folder / "predictions" / "vqa-val.json"
    predictions.parent.mkdir()
    predictions.write_text(json.dumps([{"id": key, "answer": a} for key, a in ANSWERS.items()]))
    (found,) = find_runs(tmp_path / "runs").runs
    return found


def keep_scores(run: Run, scores: dict[str, float]) -> None:
    predictions = run.folder / "predictions" / "vqa-val.json"
    kept = {
        "predictions_sha256": hashlib.sha256(predictions.read_bytes()).hexdigest(),
        "metric": "accuracy",
        "scores": scores,
        "value": 100 / 3,
        "clusters": {id_: id_ for id_ in scores},
    }
    predictions.with_suffix(".scores.json").write_text(json.dumps(kept))


def test_predictions_and_the_scores_that_fit_them_are_read(run: Run) -> None:
    keep_scores(run, SCORES)
    kept = read_kept_answers(run, "vqa", "val")
    assert kept.predictions == ANSWERS
    assert kept.scores is not None
    assert kept.scores.scores == SCORES
    assert read_kept_scores(run, "vqa", "val") == kept.scores
    assert estimate_kept(kept.scores, kept.task.metric, 100 / 3) is not None
    for recorded in (None, "none", 50.0):
        assert estimate_kept(kept.scores, kept.task.metric, recorded) is None


def test_the_page_and_compare_score_again_what_does_not_fit(run: Run) -> None:
    keep_scores(run, SCORES)
    assert SplitReader().read(run, "vqa", "val").answers.percents == [100, 0, 0]
    assert read_answers(run, "vqa", "val").kept.scores == SCORES
    keep_scores(run, {id_: score for id_, score in SCORES.items() if id_ != "q1"})
    assert read_kept_answers(run, "vqa", "val").scores is None
    found = SplitReader().read(run, "vqa", "val")
    assert (found.answers.percents, found.estimate) == ([100, 0, 100], None)
    answers = read_answers(run, "vqa", "val")
    assert [answers.percent(id_) for id_ in ANSWERS] == [100, 0, 100]


@pytest.mark.parametrize("read", [SplitReader().read, read_answers])
def test_missing_predictions_are_told_in_one_way(
    run: Run, read: Callable[[Run, str, str], object]
) -> None:
    (run.folder / "predictions" / "vqa-val.json").unlink()
    assert read_kept_scores(run, "vqa", "val") is None
    expected = f"^run has no predictions of vqa val: run `vl-lst evaluate {run.folder} --task vqa"
    with pytest.raises(MissingPredictionsError, match=expected):
        read(run, "vqa", "val")
