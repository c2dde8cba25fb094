"""What tables show: bars, the marks of the plot, and the gallery."""

from pathlib import Path

import pytest
from board_runs import METRICS, write_run

from eval.leaderboard.board import Group, build_board
from eval.leaderboard.quantities import Statistic
from eval.leaderboard.reported import reported_results
from eval.leaderboard.runs import find_runs
from eval.report.bars import score_bars
from eval.report.examples import ExampleCard, ExampleSheet
from eval.report.gallery import make_gallery
from eval.report.plot import scatter_plot


def group_of(folder: Path) -> Group:
    (group,) = build_board(find_runs(folder), METRICS).groups
    return group


def test_bars_start_at_zero_and_share_a_scale() -> None:
    scores = [Statistic(80, 4), Statistic(40, None, (30, 50)), None, Statistic(20, None)]
    first, second, unknown, floor = score_bars(scores, [Statistic(20, None)])
    assert first is not None
    assert second is not None
    assert floor is not None
    assert (first.start, first.width, first.whisker) == (0, 0.8, (0.76, 0.84))
    assert (second.start, second.width, second.whisker) == (0, 0.4, (0.3, 0.5))
    assert (unknown, floor.whisker) == (None, None)
    assert first.floors == second.floors == floor.floors == (0.2,)


@pytest.mark.parametrize("values", [[372.0, 55.0], [-12.0, 40.0], [0.0], [250.0, -250.0]])
def test_bars_fit_any_score(values: list[float]) -> None:
    bars = score_bars([Statistic(value, 5.0) for value in values], [])
    for value, bar in zip(values, bars, strict=True):
        assert bar is not None
        assert bar.whisker is not None
        assert 0 <= bar.start <= bar.start + bar.width <= 1 + 1e-9
        assert all(0 <= end <= 1 for end in bar.whisker)
        assert (bar.width > 0) == (value != 0)


def test_a_plot_needs_three_marks_on_an_axis(tmp_path: Path) -> None:
    write_run(tmp_path, "a", method="lst")
    write_run(tmp_path, "b", method="full")
    assert scatter_plot(group_of(tmp_path), ()) is None
    reported = reported_results(["vqa"])[0].rows
    plot = scatter_plot(group_of(tmp_path), reported)
    assert plot is not None
    assert [axis["label"] for axis in plot["x"]] == ["Trainable"], "that papers report"
    write_run(tmp_path, "c", method="side", memory_bytes=None)
    plot = scatter_plot(group_of(tmp_path), ())
    assert plot is not None
    assert [axis["label"] for axis in plot["x"]] == ["Trainable", "Time"]


def test_floors_are_lines_of_the_plot_and_no_marks(tmp_path: Path) -> None:
    for number, method in enumerate(("lst", "full", "side")):
        write_run(tmp_path, method, method=method, scores={"vqa": 60.0 + number})
    write_run(tmp_path, "blind", scores={"vqa": 30.0}, recipe__data__blind=True)
    plot = scatter_plot(group_of(tmp_path), ())
    assert plot is not None
    assert plot["floors"] == ["lst, blind"]
    assert (plot["num_measured"], len(plot["labels"])) == (3, 3)
    (axis,) = plot["y"]
    (line,) = axis["measured"]["floors"]
    assert 0 <= line < min(axis["measured"]["positions"]), "below all marks, and inside the plot"


def test_sizes_of_a_method_are_one_line(tmp_path: Path) -> None:
    for seed, size in enumerate((2, 4, 8)):
        for method in ("lst", "lora"):
            write_run(
                tmp_path,
                f"{method}-{size}",
                method=method,
                seed=seed,
                options={"reduction": size},
                scores={"vqa": 60.0 - size + (method == "lora")},
                parameters={"trainable": 8 // size, "total": 9, "percent_of_total": 8 / size},
            )
    write_run(tmp_path, "full", method="full", scores={"vqa": 1.0})
    plot = scatter_plot(group_of(tmp_path), ())
    assert plot is not None
    assert [each["label"] for each in plot["series"]] == [
        "lora over reduction",
        "lst over reduction",
    ]
    assert [each["hue"] for each in plot["series"]] == [0, 1]
    labels = [[plot["labels"][row] for row in each["rows"]] for each in plot["series"]]
    assert labels[1] == ["lst (reduction=8)", "lst (reduction=4)", "lst (reduction=2)"]


def card(
    number: int, *, is_right: bool | None = True, image: str = "", said: str = "x"
) -> ExampleCard:
    return ExampleCard(str(number), "?", said, ["y"], is_right, [image] if image else [])


def test_the_gallery_mixes_tasks_right_and_wrong_answers_and_images(tmp_path: Path) -> None:
    write_run(tmp_path, "a", scores={"vqa": 60.0, "caption": 1.0})
    write_run(tmp_path, "b", method="full", scores={"vqa": 50.0, "caption": 0.9})
    vqa = [card(n, is_right=n % 4 > 0, image=f"image {n // 4}") for n in range(40)]
    captions = [card(n, is_right=None, image=f"other {n}") for n in range(9)]
    sheets = {
        "a": [
            ExampleSheet("vqa", "val2014", 40, vqa),
            ExampleSheet("caption", "val2014", 9, captions),
        ],
        "b": [ExampleSheet("vqa", "val2014", 40, [card(1, is_right=False, said="z")])],
    }
    gallery = make_gallery(group_of(tmp_path), sheets)
    assert gallery is not None
    assert (gallery.label, gallery.graded) == ("lst", {"vqa"})
    assert gallery.runs == {"vqa": "a", "caption": "a"}
    assert [each.task for each in gallery.cards] == ["vqa", "caption"] * 6
    shown = [each.card for each in gallery.cards]
    assert [each.is_right for each in shown[::2]] == [True, False] * 3
    images = [image for each in shown for image in each.image_ids]
    assert len(set(images)) == len(images) == 12
    first, *others = gallery.cards
    assert [(each.label, each.prediction) for each in first.others] == [("full", "z")]
    assert not any(each.others for each in others)


def test_a_table_without_examples_has_no_gallery(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    group = group_of(tmp_path)
    assert make_gallery(group, {}) is None
    assert make_gallery(group, {"a": [ExampleSheet("vqa", "val2014", note="missing")]}) is None
