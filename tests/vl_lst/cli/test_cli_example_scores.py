"""The leaderboard reads the scores that a run kept with its predictions."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_run import TinyWorld

from eval.leaderboard.runs import Run, find_runs
from vl_lst.cli._answered_splits import SplitReader
from vl_lst.cli._example_sheets import make_sheet


@pytest.fixture
def run(trained: Path, world: TinyWorld, tmp_path: Path) -> Run:
    shutil.copytree(trained, tmp_path / "run")
    (run,) = find_runs(tmp_path, include_dirty=True).runs
    return run


def verdicts(run: Run) -> list[bool | None]:
    sheet = make_sheet(SplitReader().read(run, "vqa", "val2014"), 100)
    return [card.is_right for card in sheet.cards]


def change_scores(run: Run, value: float) -> Path:
    path = run.folder / "predictions" / "vqa-val2014.scores.json"
    content = json.loads(path.read_text())
    content["scores"] = dict.fromkeys(content["scores"], value)
    path.write_text(json.dumps(content))
    return path


def test_scores_that_belong_to_the_predictions_are_not_computed_again(run: Run) -> None:
    official = verdicts(run)
    assert len(set(official)) == 2, "some are right, others wrong"
    change_scores(run, 100.0)
    assert set(verdicts(run)) == {True}
    change_scores(run, 0.0)
    assert set(verdicts(run)) == {False}


def test_scores_are_computed_if_none_fit(run: Run) -> None:
    """As for runs of earlier versions, or when annotations have changed since."""
    official = verdicts(run)
    path = change_scores(run, 100.0)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"predictions_sha256": "0" * 64}))
    assert verdicts(run) == official
    first = next(iter(content["scores"]))
    del content["scores"][first]
    path.write_text(json.dumps(content))
    assert verdicts(run) == official
    path.unlink()
    assert verdicts(run) == official
