"""Rows of one method over its sizes, which the page draws as one line per method."""

from pathlib import Path
from typing import Any

from board_runs import METRICS, write_run

from eval.leaderboard.board import build_board
from eval.leaderboard.runs import find_runs
from eval.leaderboard.sizes import SizeSeries, size_series


def write(folder: Path, name: str, trainable: int, score: float, **fields: Any) -> None:
    parameters = {"trainable": trainable, "total": 1000, "percent_of_total": trainable / 10}
    write_run(folder, name, scores={"vqa": score}, parameters=parameters, **fields)


def series_of(folder: Path) -> tuple[SizeSeries, ...]:
    (group,) = build_board(find_runs(folder), METRICS).groups
    return size_series(group.rows)


def test_sizes_of_each_method_are_one_series_smallest_first(tmp_path: Path) -> None:
    for reduction, score in ((2, 70.0), (8, 50.0), (4, 60.0)):
        for seed in (0, 1):
            name = f"lst-{reduction}-{seed}"
            options = {"reduction": reduction}
            write(tmp_path, name, 400 // reduction, score, seed=seed, options=options)
    for rank, score in ((16, 75.0), (4, 65.0)):
        write(tmp_path, f"lora-{rank}", rank, score, method="lora", options={"rank": rank})
    write(tmp_path, "full", 1000, 80.0, method="full")
    lora, lst = series_of(tmp_path)
    assert (lora.method, lora.option, lora.values) == ("lora", "rank", ("4", "16"))
    assert (lst.method, lst.option, lst.values) == ("lst", "reduction", ("8", "4", "2"))
    assert [row.scores["vqa"].mean for row in lst.rows] == [50, 60, 70]
    assert {row.seeds for row in lst.rows} == {(0, 1)}


def test_rows_with_other_settings_are_another_series(tmp_path: Path) -> None:
    """A line over sizes would otherwise jump between two gates."""
    for gate in (0.5, 0.9):
        for reduction in (2, 4):
            options = {"reduction": reduction, "gate_start": gate}
            write(tmp_path, f"{gate}-{reduction}", 400 // reduction, 60.0 + gate, options=options)
    first, second = series_of(tmp_path)
    assert [row.settings["gate_start"] for row in (*first.rows, *second.rows)] == [
        "0.9", "0.9", "0.5", "0.5",
    ]  # fmt: skip


def test_layers_are_a_size_and_what_trains_as_much_is_none(tmp_path: Path) -> None:
    for place, layers in enumerate(([0], [0, 1], None)):
        write(tmp_path, f"lst-{place}", 100 + place, 60.0, options={"encoder_layers": layers})
    for dropout in (0.0, 0.1):
        write(tmp_path, f"full-{dropout}", 9, 50.0, method="full", options={"dropout": dropout})
    for merged in (False, True):
        # A switch that adds parameters is another method, not another size.
        write(
            tmp_path, f"side-{merged}", 7 + merged, 40.0, method="side", options={"merge": merged}
        )
    (series,) = series_of(tmp_path)
    assert (series.option, series.values) == ("encoder_layers", ("[0]", "[0, 1]", "null"))
