"""Costs that users pay: what a checkpoint takes, what answering takes, and what is forgotten."""

from pathlib import Path
from typing import Any

import pytest
from board_runs import METRICS, SUITE, write_run, write_suite

from eval.leaderboard.board import Group, build_board
from eval.leaderboard.quantities import COSTS, Cost
from eval.leaderboard.runs import find_runs
from eval.leaderboard.tables import to_csv, to_latex, to_markdown

FORGETTING = {
    "objective": "span corruption",
    "text_sha256": "0" * 64,
    "seed": 0,
    "tokens": 100,
    "loss_before": 1.0,
    "loss_after": 1.25,
    "is_by_construction": False,
}
KEYS = ("checkpoint_bytes", "inference_peak", "seconds_per_answer", "forgetting")


def answering(seconds: float, peak: int | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "split": "val2014",
        "examples": 10,
        "seconds_per_example": seconds,
        "peak_bytes": peak,
        "batch_size": 8,
        "num_processes": 1,
        "device": "cpu: x86_64",
        **changes,
    }


def cost(key: str) -> Cost:
    return next(each for each in COSTS if each.key == key)


def only_group(folder: Path, **options: Any) -> Group:
    (group,) = build_board(find_runs(folder), METRICS, **options).groups
    return group


def write(folder: Path, name: str, *, seconds: float = 0.5, **fields: Any) -> None:
    write_run(
        folder,
        name,
        **{
            "method": name,
            "checkpoint_bytes": 2048,
            "inference": {"vqa": answering(seconds, peak=4096)},
            "forgetting": FORGETTING,
            **fields,
        },
    )


def test_costs_are_columns_of_every_table(tmp_path: Path) -> None:
    frozen = {**FORGETTING, "loss_after": 1.0, "is_by_construction": True}
    write(tmp_path, "lst", seconds=0.25, forgetting=frozen)
    write(tmp_path, "lora", scores={"vqa": 50.0})
    board = build_board(find_runs(tmp_path), METRICS)
    (group,) = board.groups
    lst, lora = group.rows
    assert [lora.costs[key].mean for key in KEYS] == [2048, 4096, 0.5, 0.25]
    assert lst.costs["forgetting"].mean == 0
    assert all(group.is_comparable(cost(key)) for key in KEYS)
    assert group.front(cost("seconds_per_answer"), "vqa") == [0]
    markdown = to_markdown(board, ())
    assert "| Checkpoint | Inference peak | Time/answer | Forgetting |" in markdown
    assert "| 2.0 KiB | 4.0 KiB | 0.25 s | 0 |" in markdown
    assert "| 2.0 KiB | 4.0 KiB | 0.5 s | +0.2500 |" in markdown
    assert "a ladder runs two networks" in markdown
    assert "2.0 KiB & 4.0 KiB & 0.5 s & +0.2500" in to_latex(board, ())
    assert "forgetting_mean" in to_csv(board, ()).splitlines()[0]


@pytest.mark.parametrize(
    "changes", [{"batch_size": 16}, {"device": "cuda: H200"}, {"num_processes": 2}]
)
def test_answers_under_other_conditions_are_not_compared(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    write(tmp_path, "lst")
    write(tmp_path, "lora", inference={"vqa": answering(0.1, peak=10, **changes)})
    write(tmp_path, "side", inference={}, forgetting=None)
    group = only_group(tmp_path)
    for key in ("inference_peak", "seconds_per_answer"):
        assert not group.is_comparable(cost(key))
        assert group.front(cost(key), "vqa") == []
    assert group.is_comparable(cost("forgetting")), "a row without it does not matter"
    assert "Inference peak, Time/answer: not comparable" in to_markdown(
        build_board(find_runs(tmp_path), METRICS), ()
    )


@pytest.mark.parametrize("changes", [{"text_sha256": "1" * 64}, {"seed": 1}, {"tokens": 99}])
def test_losses_on_other_texts_are_not_compared(tmp_path: Path, changes: dict[str, Any]) -> None:
    write(tmp_path, "lora")
    write(tmp_path, "full", forgetting={**FORGETTING, **changes})
    assert not only_group(tmp_path).is_comparable(cost("forgetting"))
    write(tmp_path / "seeds", "a", method="lora")
    write(tmp_path / "seeds", "b", method="lora", seed=1, forgetting={**FORGETTING, **changes})
    (row,) = only_group(tmp_path / "seeds").rows
    assert row.costs["forgetting"] is None, "nor averaged over seeds"


def test_old_records_lack_them(tmp_path: Path) -> None:
    write_run(tmp_path, "old")
    group = only_group(tmp_path)
    assert not set(KEYS) & {each.key for each in group.costs}


def test_several_tasks_are_answered_and_a_suite_keeps_a_checkpoint_of_each(tmp_path: Path) -> None:
    """A peak that one task lacks is unknown."""
    both = {"vqa": answering(0.5, peak=10), "gqa": answering(1.5)}
    write(tmp_path / "two", "lst", scores={"vqa": 60.0, "gqa": 50.0}, inference=both)
    (row,) = only_group(tmp_path / "two").rows
    assert row.costs["seconds_per_answer"].mean == 1.0
    assert row.costs["inference_peak"] is None
    write_suite(
        tmp_path / "suite",
        dict.fromkeys(SUITE, 50.0),
        checkpoint_bytes=100,
        inference={task: {task: answering(number, peak=5)} for number, task in enumerate(SUITE)},
    )
    board = build_board(find_runs(tmp_path / "suite"), METRICS, suites={"glue": SUITE})
    (row,) = next(group for group in board.groups if group.suite).rows
    assert [row.costs[key].mean for key in KEYS[:3]] == [300, 5, 1]
