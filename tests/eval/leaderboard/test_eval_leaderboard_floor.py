"""Floors of a table: runs without training, and blind runs."""

from pathlib import Path
from typing import Any

from board_runs import METRICS, write_card, write_run

from eval.leaderboard.board import Board, build_board
from eval.leaderboard.runs import find_runs
from eval.report.plot import scatter_plot


def board_of(folder: Path) -> Board:
    return build_board(find_runs(folder), METRICS)


def write_floor(folder: Path, name: str = "floor", **changes: Any) -> Path:
    """Write a run without training: no seed, no steps, no optimizer, no memory of training."""
    return write_run(
        folder,
        name,
        **{
            "method": "zero-shot",
            "saved": None,
            "best_step": None,
            "steps": None,
            "total_steps": None,
            "parameters": {"trainable": 0, "total": 1000, "percent_of_total": 0.0},
            "memory_bytes": None,
            "examples_per_second": None,
            "train_seconds": None,
            "feature_spec_sha256": None,
            "recipe__optimizer": {},
            "recipe__training": {"device": "cpu", "precision": "bf16"},
            **changes,
        },
    )


def test_a_run_without_training_is_a_floor_of_the_group_it_belongs_to(
    tmp_path: Path,
) -> None:
    """Although it has no training settings, no training examples and no steps in common."""
    write_run(tmp_path, "lst")
    write_run(tmp_path, "side", method="side", scores={"vqa": 55.0})
    write_floor(tmp_path, scores={"vqa": 20.0})
    (group,) = board_of(tmp_path).groups
    assert [row.method for row in group.rows] == ["lst", "side"]
    (floor,) = group.floors
    assert (floor.label, floor.floor) == ("zero-shot", "zero-shot")
    costs = {key: cost and cost.mean for key, cost in floor.costs.items()}
    assert costs.pop("trainable_percent") == 0
    assert set(costs.values()) == {None}, "missing is null, never a number"
    assert not floor.is_on_front


def test_rows_with_other_prompts_are_told_apart(tmp_path: Path) -> None:
    write_run(tmp_path, "lst")
    for name, prefix in (("a", "Question: "), ("b", "")):
        write_floor(tmp_path, name, recipe__data__prompt_prefix={"vqa": prefix})
    (group,) = board_of(tmp_path).groups
    labels = {row.label for row in group.floors}
    assert labels == {"zero-shot (prompt_prefix.vqa=Question: )", "zero-shot (prompt_prefix.vqa=)"}


def test_other_features_backbones_and_examples_are_not_mixed(tmp_path: Path) -> None:
    write_run(tmp_path, "lst")
    write_floor(tmp_path, "same-features", feature_spec_sha256="f" * 64)
    write_floor(tmp_path, "other-features", feature_spec_sha256="e" * 64)
    write_floor(tmp_path, "other-backbone", backbone_fingerprint="a" * 64)
    write_floor(tmp_path, "other-rules", protocol={"vqa": "own"})
    write_card(write_floor(tmp_path, "other-examples"), "t", "v")
    groups = board_of(tmp_path).groups
    rows = [
        sorted(run.name for row in group.rows_and_floors for run in row.runs) for group in groups
    ]
    assert rows[0] == ["lst", "same-features"]
    assert sorted(rows[1:]) == [
        *(["other-backbone"], ["other-examples"], ["other-features"], ["other-rules"])
    ]


def test_it_is_the_floor_of_several_groups(tmp_path: Path) -> None:
    """One run may have the scores of several tasks, which are trained alone and together."""
    write_run(tmp_path, "vqa")
    write_run(tmp_path, "epochs", recipe__training__epochs=3)
    write_run(tmp_path, "both", scores={"vqa": 60.0, "gqa": 50.0})
    write_floor(tmp_path, scores={"vqa": 20.0, "gqa": 10.0})
    found = {group.rows[0].runs[0].name: group for group in board_of(tmp_path).groups}
    assert {name: group.floors[0].method for name, group in found.items()} == dict.fromkeys(
        ("vqa", "epochs", "both"), "zero-shot"
    )
    assert found["vqa"].floors[0].scores.keys() == {"vqa"}
    assert found["both"].floors[0].scores["average"].mean == 15.0
    names = [run.name for _, _, run in board_of(tmp_path).placed_runs]
    assert sorted(names) == ["both", "epochs", "floor", "vqa"], "no run is shown twice"


def test_alone_it_has_its_own_group(tmp_path: Path) -> None:
    write_floor(tmp_path)
    write_floor(tmp_path, "blind", recipe__data__blind=True, scores={"vqa": 10.0})
    (group,) = board_of(tmp_path).groups
    assert [row.method for row in group.rows] == ["zero-shot"]
    assert [row.label for row in group.floors] == ["zero-shot, blind"]


def test_blind_runs_are_floors_of_the_group_that_was_trained_alike(tmp_path: Path) -> None:
    """Although one scores more than a row, none of them is the best row or on a front."""
    write_run(tmp_path, "lst", saved=2000)
    write_run(tmp_path, "full", method="full", scores={"vqa": 40.0}, saved=9000)
    for seed, score in enumerate((50.0, 52.0)):
        write_run(
            tmp_path,
            f"b{seed}",
            seed=seed,
            scores={"vqa": score},
            saved=1,
            recipe__data__blind=True,
        )
    write_floor(tmp_path, scores={"vqa": 20.0})
    write_run(tmp_path, "longer", recipe__data__blind=True, recipe__training__epochs=9)
    groups = board_of(tmp_path).groups
    assert [[row.label for row in group.rows] for group in groups] == [["lst", "full"], ["lst"]]
    first, alone = groups
    assert [(row.label, row.floor) for row in first.floors] == [
        ("lst, blind", "blind"),
        ("zero-shot", "zero-shot"),
    ]
    assert (first.floors[0].scores["vqa"].mean, first.floors[0].seeds) == (51.0, (0, 1))
    assert [row.is_on_front for row in first.rows_and_floors] == [True, False, False, False]
    assert alone.floors == (), "it was trained for longer, so it is the floor of no table"


def test_costs_of_a_floor_on_another_device_are_omitted(tmp_path: Path) -> None:
    """And they do not make those of the rows incomparable."""
    write_run(tmp_path, "lst")
    write_run(tmp_path, "blind", recipe__data__blind=True, device="cuda: H200")
    (group,) = board_of(tmp_path).groups
    (floor,) = group.floors
    assert floor.costs["train_seconds"] is None
    assert floor.costs["saved_for_backward"] is not None
    time = next(cost for cost in group.costs if cost.key == "train_seconds")
    assert group.is_comparable(time)


def test_no_trainable_parameters_do_not_prevent_a_logarithmic_axis(tmp_path: Path) -> None:
    write_run(tmp_path, "lst", parameters={"trainable": 1, "total": 1000, "percent_of_total": 0.1})
    write_run(tmp_path, "full", method="full", scores={"vqa": 70.0})
    nothing = {"trainable": 0, "total": 1000, "percent_of_total": 0.0}
    write_run(tmp_path, "none", method="probe", parameters=nothing, scores={"vqa": 20.0})
    (group,) = board_of(tmp_path).groups
    plot = scatter_plot(group, [])
    assert plot is not None
    axis = next(each for each in plot["x"] if each["key"] == "trainable_percent")
    untrained = [row.method for row in group.rows].index("probe")
    assert axis["measured"]["logarithmic"]["positions"][untrained] is None
    assert axis["measured"]["linear"]["positions"][untrained] == 0
    assert untrained not in plot["fronts"]["trainable_percent"]["vqa"]
