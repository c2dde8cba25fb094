"""Suites on the leaderboard: one run per task, summed up for each seed, never over fewer tasks."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from board_runs import METRICS, SUITE, write_run, write_suite

from eval.leaderboard.board import Board, Group, build_board
from eval.leaderboard.document import board_document
from eval.leaderboard.notes import incomplete_notes
from eval.leaderboard.quantities import AVERAGE
from eval.leaderboard.runs import find_runs
from eval.leaderboard.tables import (
    group_caption,
    group_title,
    to_csv,
    to_markdown,
)
from eval.report.plot import scatter_plot

SUITES = {"glue": SUITE}


def board_of(folder: Path) -> Board:
    return build_board(find_runs(folder), METRICS, suites=SUITES)


def suite_groups(board: Board) -> list[Group]:
    return [group for group in board.groups if group.suite is not None]


def scores(cola: float, mnli: float, stsb: float) -> dict[str, float]:
    return {"cola": cola, "mnli": mnli, "stsb": stsb}


def test_the_mean_over_tasks_is_taken_first_and_then_over_seeds(tmp_path: Path) -> None:
    write_suite(tmp_path / "s0", scores(60.0, 80.0, 91.0), seed=0)
    write_suite(tmp_path / "s1", scores(66.0, 86.0, 88.0), seed=1)
    write_suite(tmp_path / "s2", scores(63.0, 83.0, 94.0), seed=2)
    board = board_of(tmp_path)
    ((row,),) = [group.rows for group in suite_groups(board)]
    # Means of the seeds: 77, 80 and 80.
    assert row.scores[AVERAGE].mean == pytest.approx(79.0)
    assert row.scores[AVERAGE].deviation == pytest.approx(3**0.5)
    # The deviations of the tasks are 3 each: averaging them would give another number.
    assert [row.scores[task].deviation for task in SUITE] == pytest.approx([3.0, 3.0, 3.0])
    assert (row.label, row.seeds, len(row.runs)) == ("lst", (0, 1, 2), 9)
    assert [run.record.tasks for run in row.runs_of(1)] == [[task] for task in SUITE]
    assert board.incomplete == ()


def test_the_suite_comes_first_and_its_tasks_keep_their_tables(tmp_path: Path) -> None:
    write_suite(tmp_path / "s0", scores(60.0, 80.0, 91.0))
    write_run(tmp_path, "mixture", scores={"vqa": 1.0, "gqa": 1.0, "nlvr2": 0.1, "caption": 1.0})
    groups = board_of(tmp_path).groups
    assert [group.suite for group in groups] == ["glue", *[None] * 4]
    assert [len(group.tasks) for group in groups] == [3, 4, 1, 1, 1]
    assert groups[0].columns == (AVERAGE, *SUITE)
    assert len(board_of(tmp_path).placed_runs) == 4, "no run is shown twice"


def test_costs_are_the_largest_memory_and_the_whole_time(tmp_path: Path) -> None:
    saved = {"cola": 10, "mnli": 70, "stsb": 30}
    times = {"cola": 60.0, "mnli": 600.0, "stsb": 40.0}
    for seed in range(2):
        write_suite(
            tmp_path / f"s{seed}",
            scores(60.0, 80.0, 91.0),
            seed=seed,
            saved=saved,
            train_seconds={task: time * (seed + 1) for task, time in times.items()},
        )
    ((row,),) = [group.rows for group in suite_groups(board_of(tmp_path))]
    costs = {name: each and each.mean for name, each in row.costs.items()}
    assert costs["saved_for_backward"] == 70
    assert costs["train_seconds"] == pytest.approx((700 + 1400) / 2)
    assert costs["trainable_percent"] == 7.5
    assert costs["examples_per_second"] is None
    assert costs["peak_allocated"] is None


def test_a_seed_without_all_tasks_has_no_result(tmp_path: Path) -> None:
    write_suite(tmp_path / "s0", scores(60.0, 80.0, 91.0))
    write_suite(tmp_path / "s1", {"cola": 99.0, "stsb": 99.0}, seed=1)
    write_suite(tmp_path / "s2", {"stsb": 99.0}, seed=2)
    board = board_of(tmp_path)
    ((row,),) = [group.rows for group in suite_groups(board)]
    assert (row.seeds, row.scores[AVERAGE].mean) == ((0,), 77.0)
    (lacking,) = board.incomplete
    assert (lacking.suite, lacking.method, lacking.seed) == ("glue", "lst", 1)
    assert (lacking.runs, lacking.reason) == (
        ("s1/cola", "s1/stsb"),
        "no run of mnli with the same settings",
    )
    text = to_markdown(board, ())
    assert "No result of glue for lst, seed 1 (s1/cola, s1/stsb): no run of mnli" in text
    assert board_document(board, ())["incomplete_suites"][0]["runs"] == ["s1/cola", "s1/stsb"]


def test_of_many_incomplete_seeds_the_notes_name_the_first(tmp_path: Path) -> None:
    for seed in range(8):
        write_suite(tmp_path / f"s{seed}", {"cola": 1.0, "stsb": 1.0}, seed=seed)
    board = board_of(tmp_path)
    assert len(board.incomplete) == 8
    *first, rest = incomplete_notes(board)
    assert len(first) == 5
    assert rest.startswith("3 more seeds")


def test_a_failed_run_leaves_its_suite_without_a_result(tmp_path: Path) -> None:
    write_suite(
        tmp_path,
        scores(60.0, 80.0, 91.0),
        status={"cola": "success", "mnli": "failed", "stsb": "success"},
    )
    board = board_of(tmp_path)
    assert suite_groups(board) == []
    assert board.incomplete[0].reason == "no run of mnli with the same settings"
    assert [each.name for each in board.left_out] == ["mnli"]


@pytest.mark.parametrize(
    "change",
    [
        {"recipe__optimizer": {"mnli": {"lr": 1.0}}},
        {"options": {"mnli": {"reduction": 2}}},
        {"backbone_fingerprint": {"mnli": "0" * 64}},
        {"recipe__training__precision": {"mnli": "bf16"}},
        {"method": "full"},
    ],
)
def test_runs_that_differ_in_more_than_the_task_are_not_summed_up(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    write_suite(tmp_path, {"cola": 60.0, "stsb": 91.0})
    write_suite(tmp_path, {"mnli": 80.0}, **change)
    assert suite_groups(board_of(tmp_path)) == []


def test_runs_may_lie_in_different_folders(tmp_path: Path) -> None:
    for seed in range(2):
        for task, score in scores(60.0, 80.0, 91.0).items():
            write_suite(tmp_path / f"{task}-runs" / f"seed-{seed}", {task: score}, seed=seed)
    ((row,),) = [group.rows for group in suite_groups(board_of(tmp_path))]
    assert row.seeds == (0, 1)


def test_a_folder_keeps_its_runs_apart_from_others_with_another_length(tmp_path: Path) -> None:
    write_suite(tmp_path / "paper", scores(60.0, 80.0, 91.0))
    write_suite(tmp_path / "quick", scores(50.0, 70.0, 81.0), recipe__training__epochs=1)
    write_suite(tmp_path / "trial", {"cola": 10.0}, recipe__training__epochs=2)
    board = board_of(tmp_path)
    found = {
        group_title(group): group.rows[0].scores[AVERAGE].mean for group in suite_groups(board)
    }
    assert sorted(found.values()) == [67.0, 77.0]
    assert all("training.epochs" in title for title in found)
    assert board.incomplete == (), "a single task is no attempt at the suite"


def test_ambiguous_runs_are_named(tmp_path: Path) -> None:
    for place, task in enumerate(SUITE):
        write_suite(tmp_path / f"a{place}", {task: 60.0})
    write_suite(tmp_path / "b", {"cola": 50.0}, recipe__training__epochs=1)
    board = board_of(tmp_path)
    assert suite_groups(board) == []
    (lacking,) = board.incomplete
    assert lacking.reason.startswith("2 runs of cola")
    assert "a0/cola, b/cola" in lacking.reason


def test_rows_of_a_method_are_labelled_by_what_differs_for_all_tasks(tmp_path: Path) -> None:
    values = scores(60.0, 80.0, 91.0)
    write_suite(tmp_path / "a", values)
    bare = {task: {task: ""} for task in SUITE}
    write_suite(tmp_path / "b", values, recipe__data__prompt_prefix=bare)
    write_suite(tmp_path / "c", values, recipe__optimizer={task: {"lr": 0.5} for task in SUITE})
    (group,) = suite_groups(board_of(tmp_path))
    assert {row.label for row in group.rows} == {
        "lst (prompt_prefix={task} , lr=0.001)",
        "lst (prompt_prefix=, lr=0.001)",
        "lst (prompt_prefix={task} , lr=0.5)",
    }


def test_methods_are_compared_on_a_front_and_in_every_table(tmp_path: Path) -> None:
    write_suite(tmp_path / "lst", scores(60.0, 80.0, 91.0), saved=10)
    write_suite(tmp_path / "full", scores(63.0, 83.0, 94.0), method="full", saved=90)
    write_suite(tmp_path / "lora", scores(50.0, 73.0, 84.0), method="lora", saved=80)
    board = board_of(tmp_path)
    (group,) = suite_groups(board)
    assert [(row.method, row.is_on_front) for row in group.rows] == [
        ("full", True),
        ("lst", True),
        ("lora", False),
    ]
    assert group_caption(group) == "glue on dev (mnli on dev_matched)"
    assert group.protocol["suite"] == '"glue"'
    assert group.protocol["training.epochs.cola"] == "20"
    assert group.protocol["training.batch_size"] == "100"
    first = to_markdown(board, ()).split("\n\n")[1].splitlines()
    assert first[0].startswith("| method | n | average | cola | mnli | stsb |")
    assert first[2].startswith("| full \\* | 1 | 80.00 | 63.00 | 83.00 | 94.00 |")
    row = next(csv.DictReader(io.StringIO(to_csv(board, ()))))
    assert (row["average_mean"], row["runs"], row["seeds"]) == ("80.0", "1", "0")
    document = board_document(board, ())["groups"][0]
    assert document["suite"] == "glue"
    assert [run["name"] for run in document["rows"][1]["runs"]] == [f"lst/{task}" for task in SUITE]
    plot = scatter_plot(group, ())
    assert plot is not None
    assert plot["fronts"]["saved_for_backward"][AVERAGE] == [1, 0]


def test_a_run_without_training_is_the_floor_of_the_suite(tmp_path: Path) -> None:
    write_suite(tmp_path / "lst", scores(60.0, 80.0, 91.0), recipe__data__root=None)
    floor = {
        "method": "zero-shot",
        "total_steps": None,
        "feature_spec_sha256": "f" * 64,
        "recipe": {
            "task": ",".join(SUITE),
            "data": {"root": None, "blind": False},
            "backbone": {"name": "t5-base", "precision": "fp32"},
        },
    }
    write_run(tmp_path, "floor", scores=scores(0.0, 33.0, 0.0), **floor)
    (group,) = suite_groups(board_of(tmp_path))
    assert [row.method for row in group.rows] == ["lst"]
    (floor,) = group.floors
    assert (floor.method, floor.scores[AVERAGE].mean) == ("zero-shot", 11.0)
