"""Losses and scores read from `metrics.jsonl`, for the page and for model cards alike."""

from pathlib import Path

from eval.metrics import Metric
from eval.training_log import read_training_log

METRICS = {"vqa": Metric("accuracy", 1.0), "nlvr2": Metric("accuracy", 100.0)}


def test_losses_of_all_and_of_single_tasks_and_scores_in_percent(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 5, "loss": 2.0, "loss_vqa": 1.5, "loss_other": 9.0}\n'
        "\n"
        '{"step": 5, "task": "nlvr2", "split": "dev", "accuracy": 0.25}\n'
    )
    log = read_training_log(tmp_path, METRICS)
    assert log.loss == [(5.0, 2.0)]
    assert log.task_losses == {"vqa": [(5.0, 1.5)]}
    assert log.scores == {"nlvr2": [(5.0, 25.0)]}
    assert log.note == ""


def test_values_that_cannot_be_drawn_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "task": ["vqa"], "accuracy": 1.0}\n'
        '{"step": 1, "task": {"vqa": 1}}\n'
        '{"step": 1, "loss": Infinity, "loss_vqa": NaN}\n'
        '{"step": true, "loss": 1.0}\n'
        '{"step": 2, "loss": "1.0"}\n'
        '{"step": 3, "loss": 1.0}\n'
    )
    log = read_training_log(tmp_path, METRICS)
    assert log.loss == [(3.0, 1.0)]
    assert not log.task_losses
    assert not log.scores
