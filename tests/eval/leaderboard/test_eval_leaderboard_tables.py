"""The leaderboard as Markdown, LaTeX, CSV and JSON."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from board_runs import METRICS, write_run

from eval.leaderboard.board import Board, build_board
from eval.leaderboard.document import board_document
from eval.leaderboard.quantities import Statistic
from eval.leaderboard.reported import reported_results
from eval.leaderboard.runs import find_runs
from eval.leaderboard.tables import recompute_text, to_csv, to_latex, to_markdown
from eval.leaderboard.units import number_text, score_text
from eval.report.page import render_page

NASTY = r"=a|b_{c}\d %&#$^~<script>*`"


@pytest.fixture
def board(tmp_path: Path) -> Board:
    for seed, accuracy in enumerate((60.0, 62.0)):
        write_run(tmp_path, f"s{seed}", seed=seed, scores={"vqa": accuracy})
    write_run(tmp_path, "nasty", method=NASTY, saved=None, scores={"vqa": 50.0})
    return build_board(find_runs(tmp_path), METRICS)


def test_markdown_has_one_line_per_row_and_is_escaped(board: Board) -> None:
    text = to_markdown(board, ())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[2].startswith(r"| lst \* | 2 | 61.00 ± 1.41 | – | 7.50 % | 1,000 bytes |")
    # Bars in names are escaped.
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {len(rows[0].split("|")) - 1}
    assert "<script>" not in text
    assert r" %\&\#\$\^\~\<script\>" in text


def test_rows_tell_whether_they_recompute_and_a_note_that_they_differ(tmp_path: Path) -> None:
    """A record of an earlier version lacks the option, which was false."""
    write_run(tmp_path, "a", method="full")
    alike = build_board(find_runs(tmp_path), METRICS)
    write_run(tmp_path, "b", method="ia3", options={"recompute": True})
    board = build_board(find_runs(tmp_path), METRICS)
    note = "ia3 recompute blocks in the backward pass"
    assert "recompute blocks" not in to_markdown(alike, ())
    for text in (to_markdown(board, ()), to_latex(board, ()), render_page(board, title="")):
        assert note in text
        assert "and full do not." in text
    expected = {"full": False, "ia3": True}
    (group,) = board_document(board, ())["groups"]
    assert {row["label"]: row["recompute"] for row in group["rows"]} == expected
    rows = csv.DictReader(io.StringIO(to_csv(board, ())))
    assert {row["method"]: row["recompute"] == "yes" for row in rows} == expected


def test_rows_tell_what_memory_decided_for_their_runs(tmp_path: Path) -> None:
    """With `auto`, the records tell; seeds of one row may differ."""
    auto = {"recompute": "auto"}
    for name, method, recomputes, seed in (
        ("a", "full", False, 0),
        ("b", "ia3", True, 0),
        ("c", "ia3", False, 1),
        ("d", "lora", True, 0),
    ):
        write_run(tmp_path, name, method=method, options=auto, recomputes=recomputes, seed=seed)
    board = build_board(find_runs(tmp_path), METRICS)
    (group,) = board.groups
    texts = {row.label: recompute_text(row) for row in group.rows}
    assert texts == {"full": "no", "ia3": "in some runs", "lora": "yes"}
    rows = csv.DictReader(io.StringIO(to_csv(board, ())))
    assert {row["method"]: row["recompute"] for row in rows} == texts
    assert "ia3, lora recompute blocks in the backward pass" in to_markdown(board, ())
    assert "and full, ia3 do not." in to_markdown(board, ())


def test_latex_special_characters_are_escaped(board: Board) -> None:
    text = to_latex(board, ())
    assert r"\toprule" in text
    assert r"lst * & 2 & 61.00 $\pm$ 1.41 & -- & 7.50 \% & 1,000 bytes" in text
    expected = (
        r"=a\textbar{}b\_\{c\}\textbackslash{}d \%\&\#\$\textasciicircum{}\textasciitilde{}"
        r"\textless{}script\textgreater{}*`"
    )
    assert expected in text


def test_csv_has_plain_numbers_and_no_formulas(board: Board) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(board, ()))))
    assert [row["method"] for row in rows] == ["lst", f"'{NASTY}"]
    assert float(rows[0]["vqa_mean"]) == 61.0
    assert float(rows[0]["vqa_std"]) == pytest.approx(2**0.5)
    assert rows[0]["seeds"] == "0 1"
    assert rows[1]["vqa_std"] == ""
    assert rows[1]["saved_for_backward_mean"] == ""


def test_json_has_null_for_unknown_values(board: Board) -> None:
    document = json.loads(json.dumps(board_document(board, ()), allow_nan=False))
    measured, nasty = document["groups"][0]["rows"]
    assert measured["scores"]["vqa"] == {
        **{"mean": 61.0, "std": pytest.approx(2**0.5)},
        "interval": None,
    }
    assert nasty["costs"]["saved_for_backward"] is None
    assert nasty["method"] == NASTY
    assert measured["settings"]["lr"] == 1e-3
    assert "reported" not in document


def test_every_format_shows_how_groups_of_the_same_tasks_differ(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    write_run(tmp_path, "b", recipe__training__tf32=True)
    both = build_board(find_runs(tmp_path), METRICS)
    titles = [f"vqa on val2014 (training.tf32: {tf32})" for tf32 in ("false", "true")]
    assert [row["group"] for row in csv.DictReader(io.StringIO(to_csv(both, ())))] == titles
    for text in (to_markdown(both, ()).replace("\\", ""), to_latex(both, ())):
        assert all(title in text for title in titles)


def test_every_format_ends_a_table_with_its_floors(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    write_run(tmp_path, "b", recipe__data__blind=True, scores={"vqa": 70.0})
    found = build_board(find_runs(tmp_path), METRICS)
    assert "| lst, blind (floor) | 1 | 70.00 |" in to_markdown(found, ()).splitlines()[5]
    assert "Floors say what a score is worth" in to_markdown(found, ())
    rule, floor, *_ = to_latex(found, ()).splitlines()[-5:]
    assert rule == r"\midrule"
    assert floor.startswith("lst, blind (floor) & 1 & 70.00")
    rows = list(csv.DictReader(io.StringIO(to_csv(found, ()))))
    assert [(row["method"], row["kind"]) for row in rows] == [
        ("lst", "measured"),
        ("lst, blind", "floor"),
    ]
    (group,) = board_document(found, ())["groups"]
    assert [row["label"] for row in group["rows"]] == ["lst"]
    assert [(row["label"], row["floor"]) for row in group["floors"]] == [("lst, blind", "blind")]


def test_tables_name_the_costs_that_are_not_comparable(tmp_path: Path, board: Board) -> None:
    for name, number in {"lst": 1, "lora": 2}.items():
        write_run(tmp_path / "mixed", name, method=name, num_processes=number)
    mixed = build_board(find_runs(tmp_path / "mixed"), METRICS)
    note = "Saved bytes, Examples/s, Time: not comparable between rows, which were measured on"
    for write, device in ((to_markdown, r"cpu: x86\_64"), (to_latex, r"cpu: x86\_64")):
        assert f"{note} {device}, 1 process; {device}, 2 processes." in write(mixed, ())
        assert "not comparable" not in write(board, ())


def test_reported_rows_are_marked_in_every_format(board: Board) -> None:
    reported = reported_results()
    num_rows = sum(len(each.rows) for each in reported)
    lines = to_markdown(board, reported).splitlines()
    assert len([line for line in lines if "(reported: " in line]) == num_rows
    assert to_latex(board, reported).count("(reported: ") == num_rows
    rows = list(csv.DictReader(io.StringIO(to_csv(board, reported))))
    assert [row["kind"] for row in rows].count("reported") == num_rows
    assert all(row["on_front"] == "" for row in rows if row["kind"] == "reported")
    document = board_document(board, reported)
    assert sum(len(each["rows"]) for each in document["reported"]) == num_rows
    assert len(document["groups"][0]["rows"]) == 2


def test_reported_rows_of_text_stand_beside_runs_with_their_memory(tmp_path: Path) -> None:
    """Runs on a CPU have no CUDA peak; the column shows that of the paper."""
    reported = reported_results(["rte"])
    write_run(tmp_path, "text", scores={"rte": 60.0})
    runs = build_board(find_runs(tmp_path), METRICS)
    header, _, mine, *others = (
        line for line in to_markdown(runs, reported).splitlines() if line.startswith("|")
    )
    assert header == "| method | n | rte | Recompute | Trainable | Saved bytes | " + (
        "CUDA peak | Gradients | Optimizer state | Examples/s | Time |"
    )
    assert mine.split(" | ")[6] == "–"
    assert [line.split(" | ")[2] for line in others] == [
        *("74.10", "75.10", "75.50", "67.60", "59.50", "71.90", "79.90", "80.10"),
    ]
    assert others[5].startswith(
        r"| lst, t5-base (reported: LST, NeurIPS 2022) | – | 71.90 | – | 1.74 %"
    )
    assert others[5].split(" | ")[6] == "5.4 GiB"  # 5.5 GB of 1000 MiB
    (row,) = (
        row
        for row in csv.DictReader(io.StringIO(to_csv(runs, reported)))
        if (row["method"], row["backbone"]) == ("lst", "t5-large")
    )
    assert float(row["peak_allocated_mean"]) == pytest.approx(12.2 * 1000 * 2**20)
    assert (row["trainable_percent_mean"], row["rte_mean"]) == ("1.23", "79.9")
    (document,) = board_document(runs, reported)["reported"]
    prompt = document["rows"][4]
    assert prompt["scores"]["cola"] == {"mean": 0, "std": None}
    assert prompt["readings"]["peak_allocated"] == "table; the figure shows 11.6 GB"
    assert set(document["readings"]) == {"figure", "table"}


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "bytes", "0 bytes"),
        (1023, "bytes", "1,023 bytes"),
        (1536, "bytes", "1.5 KiB"),
        (37.9 * 2**20, "bytes", "37.9 MiB"),
        (7.456, "percent", "7.46 %"),
        (0.0012, "percent", "0.0012 %"),
        (59.6, "seconds", "59.6 s"),
        (61, "seconds", "1 min 01 s"),
        (7260, "seconds", "2 h 01 min"),
        (1234.5, "rate", "1,234"),
        (3.456, "rate", "3.46"),
    ],
)
def test_numbers_have_their_unit(value: float, unit: str, text: str) -> None:
    assert number_text(value, unit) == text


def test_scores_have_two_decimals() -> None:
    assert score_text(Statistic(64.054, 0.306)) == "64.05 ± 0.31"
    assert score_text(Statistic(64.0, None)) == "64.00"
    assert score_text(Statistic(64.0, None, (61.25, 66.5))) == "64.00 [61.25, 66.50]"
    assert score_text(Statistic(64.0, 0.5, (61.25, 66.5))) == "64.00 ± 0.50"
    assert score_text(None) == "–"
