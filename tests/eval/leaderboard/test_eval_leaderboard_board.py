"""Grouping runs by protocol, averaging over seeds, and the Pareto front."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from board_runs import METRICS, write_card, write_run

from eval.leaderboard.board import Board, build_board
from eval.leaderboard.front import pareto_front
from eval.leaderboard.quantities import AVERAGE
from eval.leaderboard.reported import reported_results
from eval.leaderboard.runs import find_runs
from eval.report.plot import scatter_plot


def board_of(folder: Path, splits: dict[str, str] | None = None) -> Board:
    return build_board(find_runs(folder), METRICS, splits)


def test_seeds_give_mean_and_sample_deviation(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((60.0, 62.0, 67.0)):
        write_run(tmp_path, f"s{seed}", seed=seed, scores={"vqa": accuracy})
    ((row,),) = [group.rows for group in board_of(tmp_path).groups]
    assert row.scores["vqa"].mean == pytest.approx(63.0)
    # The squares of -3, -1 and 4, over n - 1.
    assert row.scores["vqa"].deviation == pytest.approx(13**0.5)
    assert [run.record.seed for run in row.runs] == [0, 1, 2]


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    write_run(tmp_path, "only")
    assert board_of(tmp_path).groups[0].rows[0].scores["vqa"].deviation is None


def test_a_seed_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path, "a", scores={"vqa": 60.0})
    write_run(tmp_path, "b", scores={"vqa": 60.0})
    board = board_of(tmp_path)
    assert len(board.groups[0].rows[0].runs) == 1
    assert board.left_out[0].reason == "repeats a: same settings, seed 0"


def test_scores_are_converted_to_percent_and_averaged(tmp_path: Path) -> None:
    write_run(tmp_path, "a", scores={"vqa": 60.0, "gqa": 50.0, "nlvr2": 0.7, "caption": 1.2})
    (group,) = board_of(tmp_path).groups
    means = {name: each.mean for name, each in group.rows[0].scores.items()}
    expected = {"vqa": 60, "gqa": 50, "nlvr2": 70, "caption": 120, AVERAGE: 75}
    assert means == pytest.approx(expected)
    assert group.columns == (AVERAGE, "vqa", "gqa", "nlvr2", "caption")


@pytest.mark.parametrize(
    "change",
    [
        {"recipe__training__epochs": 3},
        {"recipe__training__precision": "bf16"},
        {"recipe__data__root": "elsewhere"},
        {"recipe__something_new": 1},
        {"feature_spec_sha256": "0" * 64},
        {"backbone_fingerprint": "0" * 64},
        {"total_steps": 21},
        {"protocol": {"vqa": "other rules"}},
        {"scores": {"vqa": 1.0, "gqa": 2.0}},
    ],
)
def test_different_protocols_are_never_compared(tmp_path: Path, change: dict[str, Any]) -> None:
    write_run(tmp_path, "a")
    write_run(tmp_path, "b", seed=1, **change)
    assert [len(group.rows) for group in board_of(tmp_path).groups] == [1, 1]


def test_different_training_examples_are_different_protocols(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        run = write_run(tmp_path, name, seed=seed)
        write_card(run, train=name * 64)
    assert len(board_of(tmp_path).groups) == 2


@pytest.mark.parametrize(("digests", "groups"), [("aa", 1), ("ab", 2)])
def test_examples_are_compared_by_id_not_by_folder(
    tmp_path: Path, digests: str, groups: int
) -> None:
    for seed, letter in enumerate(digests):
        run = write_run(tmp_path, f"run-{seed}", seed=seed, recipe__data__root=f"/home/{seed}")
        write_card(run, train="c", validation=letter)
    assert len(board_of(tmp_path).groups) == groups


@pytest.mark.parametrize(
    "change",
    [
        {"recipe__features": ["other.h5"]},
        {"recipe__training__workers": 4},
        {"recipe__training__device": "cuda"},
        {"recipe__backbone__name": "/models/t5"},
        {"device": "cuda: H200"},
        {"packages": {}},
    ],
)
def test_location_and_speed_are_not_protocol(tmp_path: Path, change: dict[str, Any]) -> None:
    write_run(tmp_path, "a")
    write_run(tmp_path, "b", seed=1, **change)
    ((row,),) = [group.rows for group in board_of(tmp_path).groups]
    assert len(row.runs) == 2


def test_labels_show_the_settings_in_which_rows_of_a_method_differ(tmp_path: Path) -> None:
    write_run(tmp_path, "a", options={"reduction": 4, "dropout": 0.1})
    write_run(tmp_path, "b", options={"reduction": 8, "dropout": 0.1})
    write_run(tmp_path, "c", options={"reduction": 8, "dropout": 0.1}, recipe__optimizer__lr=3e-3)
    write_run(tmp_path, "d", method="full")
    labels = {row.label for row in board_of(tmp_path).groups[0].rows}
    assert labels == {
        "lst (reduction=4, lr=0.001)",
        "lst (reduction=8, lr=0.001)",
        "lst (reduction=8, lr=0.003)",
        "full",
    }


def test_rows_may_differ_in_precision_of_the_backbone_and_recomputing(tmp_path: Path) -> None:
    """Records of earlier versions lack `recompute`, which was false."""
    write_run(tmp_path, "a", method="lora", options={"rank": 4})
    write_run(tmp_path, "b", method="lora", options={"rank": 4, "recompute": True})
    write_run(tmp_path, "c", method="qlora", recipe__backbone__precision="nf4")
    write_run(tmp_path, "d", method="lora", options={"rank": 4, "recompute": False}, seed=1)
    (group,) = board_of(tmp_path).groups
    found = {(row.method, row.recomputes): row.seeds for row in group.rows}
    assert found == {("lora", False): (0, 1), ("lora", True): (0,), ("qlora", None): (0,)}


def test_the_paper_ladder_is_compared_with_ours(tmp_path: Path) -> None:
    """They differ in the initial scale of the image order embedding, a setting of the method."""
    write_run(tmp_path, "a", recipe__visual={"pooled_grid": 6, "image_order_std": 0.02})
    write_run(tmp_path, "b", recipe__visual={"pooled_grid": 6, "image_order_std": 1.0})
    write_run(tmp_path, "c", recipe__visual={"pooled_grid": 5, "image_order_std": 1.0})
    labels = [sorted(row.label for row in group.rows) for group in board_of(tmp_path).groups]
    assert labels == [["lst (image_order_std=0.02)", "lst (image_order_std=1.0)"], ["lst"]]


def test_speed_is_not_averaged_over_different_devices(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    write_run(tmp_path, "b", seed=1, device="cuda: H200")
    (group,) = board_of(tmp_path).groups
    costs = group.rows[0].costs
    assert costs["examples_per_second"] is None
    assert costs["train_seconds"] is None
    assert costs["saved_for_backward"] is not None
    assert group.devices == ("cpu: x86_64", "cuda: H200")


def test_a_cost_that_one_seed_lacks_is_missing_not_zero(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    write_run(tmp_path, "b", seed=1, saved=None)
    (group,) = board_of(tmp_path).groups
    assert group.rows[0].costs["saved_for_backward"] is None
    assert not group.rows[0].is_on_front


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ({}, "no scores of vqa val2014: found none"),
        ({"vqa": {"minival": {"accuracy": 1.0}}}, "found scores of minival"),
        ({"vqa": {"val2014": {}}}, "accuracy of vqa val2014 is None"),
        ({"vqa": {"val2014": {"accuracy": True}}}, "is True; expected a number"),
        ({"vqa": {"val2014": {"accuracy": 10**400}}}, "expected a number"),
    ],
)
def test_runs_without_scores_are_left_out(
    tmp_path: Path, scores: dict[str, Any], reason: str
) -> None:
    run = write_run(tmp_path, "a")
    record = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(json.dumps({**record, "scores": scores}))
    board = board_of(tmp_path)
    assert not board.groups
    assert reason in board.left_out[0].reason


def test_an_unknown_task_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, "a", tasks=["dance"])
    assert "unknown task 'dance'" in board_of(tmp_path).left_out[0].reason


def test_another_split_can_be_compared(tmp_path: Path) -> None:
    run = write_run(tmp_path, "b")
    record = json.loads((run / "record.json").read_text())
    record["scores"]["vqa"]["minival"] = {"accuracy": 33.0}
    (run / "record.json").write_text(json.dumps(record))
    (group,) = board_of(tmp_path, {"vqa": "minival"}).groups
    assert group.rows[0].scores["vqa"].mean == 33.0
    assert group.splits == {"vqa": "minival"}


def test_the_front_holds_the_points_that_no_other_dominates() -> None:
    points = [(1.0, 5.0), (2.0, 5.0), (2.0, 7.0), None, (3.0, 6.0), (0.5, 1.0), (1.0, 5.0)]
    assert pareto_front(points) == [5, 0, 6, 2]
    assert pareto_front([None]) == []


def test_rows_on_the_front_are_marked(tmp_path: Path) -> None:
    write_run(tmp_path, "a", method="lst", saved=100, scores={"vqa": 60.0})
    write_run(tmp_path, "b", method="lora", saved=900, scores={"vqa": 59.0})
    write_run(tmp_path, "c", method="full", saved=1000, scores={"vqa": 61.0})
    rows = board_of(tmp_path).groups[0].rows
    assert [(row.label, row.is_on_front) for row in rows] == [
        ("full", True),
        ("lst", True),
        ("lora", False),
    ]


def test_groups_name_the_fields_in_which_they_differ(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    write_run(tmp_path, "b", recipe__training__epochs=9)
    write_run(tmp_path, "c", scores={"gqa": 1.0})
    fields = {group.tasks: group.distinctive_fields for group in board_of(tmp_path).groups}
    assert fields == {("vqa",): ("training.epochs",), ("gqa",): ()}


def test_reported_results_match_the_reference_data(shared_data: Path) -> None:
    source = json.loads((shared_data / "reference" / "reported_results.json").read_text())
    rows = [row for row in reported_results()[0].rows if not row.source.startswith("DoRA")]
    assert len(rows) == len(source["rows"])
    for row, expected in zip(rows, source["rows"], strict=True):
        assert (row.method, row.backbone) == (expected["method"], expected["backbone"])
        assert row.costs["trainable_percent"] == expected["trainable_percent"]
        for name, score in expected["scores"].items():
            mine = row.scores[name.removesuffix("_cider")]
            assert (mine.mean, mine.deviation) == (score["mean"], score["std"])


def test_averages_of_reported_rows_agree_with_their_scores() -> None:
    for row in reported_results()[0].rows:
        mean = fmean(score.mean for name, score in row.scores.items() if name != AVERAGE)
        assert row.scores[AVERAGE].mean == pytest.approx(mean, abs=0.06), row


def test_every_reported_number_says_where_it_was_read() -> None:
    for results in reported_results():
        for row in results.rows:
            places = " ".join(row.readings.values())
            assert "tasks" in row.readings
            assert any(name in places for name in results.readings), row


def test_reported_results_match_only_the_same_splits() -> None:
    reported, text, other = reported_results()
    assert reported.matching({"vqa": "karpathy_test"}) == reported.rows
    assert reported.matching(reported.splits) == reported.rows
    assert not reported.matching({**reported.splits, "nlvr2": "dev"})
    assert not reported.matching({"another": "test"})
    assert text.matching({"rte": "paper_test"}) == text.rows
    assert not text.matching({"rte": "paper_validation"})
    assert reported_results(["rte", "cola"]) == (text,)
    assert reported_results(["vqa"]) == (reported, other)
    assert [row.method for row in other.matching({"gqa": "testdev"})] == ["unipt"]
    assert other.columns == ("vqa", "gqa")
    assert reported_results(["another"]) == ()


def test_the_paper_s_rows_for_text_agree_with_themselves() -> None:
    """Averages come from a figure, scores of tasks from a table."""
    _, text, _ = reported_results()
    assert len(text.rows) == 8
    for row in text.rows:
        tasks = [row.scores[task].mean for task in text.splits]
        assert row.scores[AVERAGE].mean == pytest.approx(fmean(tasks), abs=0.07), row
        assert set(row.readings) >= {AVERAGE, "tasks", "peak_allocated"}
        assert row.score(AVERAGE, ["rte"]) is None
        assert row.score(AVERAGE, list(text.splits)) == row.scores[AVERAGE]
    full, ladder = text.rows[0], text.rows[5]
    # The abstract's saving of 69 %.
    saving = 1 - ladder.costs["peak_allocated"] / full.costs["peak_allocated"]
    assert round(saving, 2) == 0.69


def test_groups_of_equal_size_are_sorted_by_score(tmp_path: Path) -> None:
    for name, score, tf32 in (("a", 40.0, True), ("b", 60.0, False)):
        write_run(tmp_path, name, scores={"vqa": score}, recipe__training__tf32=tf32)
    assert [group.rows[0].runs[0].name for group in board_of(tmp_path).groups] == ["b", "a"]


def test_times_on_different_devices_have_no_front(tmp_path: Path) -> None:
    for name, device in (("lst", "cpu"), ("full", "cuda: H100"), ("side", "cpu")):
        write_run(tmp_path, name, method=name, device=device)
    (group,) = board_of(tmp_path).groups
    plot = scatter_plot(group, ())
    assert plot is not None
    fronts = {key: of_score["vqa"] for key, of_score in plot["fronts"].items()}
    assert fronts["train_seconds"] == []
    assert fronts["saved_for_backward"]
    assert [row.devices for row in group.rows] == [("cuda: H100",), ("cpu",), ("cpu",)]


def test_a_reported_average_is_shown_only_for_the_same_tasks() -> None:
    row = reported_results()[0].rows[0]
    assert row.score(AVERAGE, ["vqa", "gqa"]) is None
    assert row.score(AVERAGE, ["caption", "nlvr2", "gqa", "vqa"]) == row.scores[AVERAGE]
    assert row.score("vqa", ["vqa"]) == row.scores["vqa"]


def test_costs_are_not_averaged_over_different_numbers_of_processes(tmp_path: Path) -> None:
    """Nor with records that lack the number. Scores are averaged all the same."""
    write_run(tmp_path, "one", seed=0, num_processes=1)
    write_run(tmp_path, "two", seed=1, num_processes=2)
    write_run(tmp_path, "old", method="full", seed=0)
    write_run(tmp_path, "new", method="full", seed=1, num_processes=1)
    write_run(tmp_path, "same", method="lora", seed=0, num_processes=2)
    write_run(tmp_path, "again", method="lora", seed=1, num_processes=2)
    (group,) = board_of(tmp_path).groups
    for row in group.rows:
        comparable = row.method == "lora"
        for cost in ("saved_for_backward", "train_seconds", "examples_per_second"):
            assert (row.costs[cost] is not None) == comparable, (row.method, cost)
        assert row.costs["gradients"] is not None
        assert len(row.runs) == 2
    assert group.devices == (
        "cpu: x86_64, 1 process",
        "cpu: x86_64, 2 processes",
        "cpu: x86_64, number of processes not recorded",
    )


def test_costs_that_depend_on_the_number_of_processes_have_no_front_over_different_ones(
    tmp_path: Path,
) -> None:
    for name, number in (("lst", 1), ("full", 2), ("side", 1)):
        write_run(tmp_path, name, method=name, num_processes=number)
    (group,) = board_of(tmp_path).groups
    assert not any(row.is_on_front for row in group.rows)
    plot = scatter_plot(group, ())
    assert plot is not None
    fronts = {key for key, of_score in plot["fronts"].items() if of_score["vqa"]}
    assert fronts == {"trainable_percent"}


def test_the_number_of_processes_is_not_shown_for_single_process_runs(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path, f"s{seed}", seed=seed, num_processes=1)
    (group,) = board_of(tmp_path).groups
    assert group.devices == ("cpu: x86_64",)
    assert group.rows[0].is_on_front


def test_different_arithmetic_precision_is_a_different_protocol(tmp_path: Path) -> None:
    write_run(tmp_path, "fp32", seed=0)
    write_run(tmp_path, "tf32", seed=1, environment={"NVIDIA_TF32_OVERRIDE": "1"})
    assert len(board_of(tmp_path).groups) == 2
