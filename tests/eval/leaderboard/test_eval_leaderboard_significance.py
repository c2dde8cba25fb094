"""Intervals and paired tests of the leaderboard, from the scores that runs kept."""

import csv
import io
import json
from pathlib import Path

import pytest
from board_runs import METRICS, NUM_EXAMPLES, SUITE, KeptScores, write_run, write_suite

from eval.leaderboard.board import Board, build_board
from eval.leaderboard.document import board_document
from eval.leaderboard.runs import find_runs
from eval.leaderboard.significance import RowTest
from eval.leaderboard.tables import to_csv, to_latex, to_markdown
from eval.report.page import render_page
from eval.statistics.paired import Difference


def board_of(folder: Path, kept: KeptScores, reference: str | None = None) -> Board:
    found = find_runs(folder)
    return build_board(
        found, METRICS, suites={"glue": SUITE}, read_scores=kept.read, reference=reference
    )


@pytest.fixture
def kept() -> KeptScores:
    return KeptScores()


def write(folder: Path, kept: KeptScores, method: str, num_right: int, seed: int = 0) -> None:
    name = f"{method}-{seed}"
    write_run(folder, name, method=method, seed=seed, scores={"vqa": kept.add(name, num_right)})


@pytest.fixture
def board(tmp_path: Path, kept: KeptScores) -> Board:
    for method, num_right in {"full": 80, "lora": 79, "probe": 40}.items():
        write(tmp_path, kept, method, num_right)
    write_run(tmp_path, "old", method="bitfit", scores={"vqa": 70.0})
    return board_of(tmp_path, kept, "lora")


def test_no_ranking_is_claimed_within_noise(board: Board) -> None:
    (group,) = board.groups
    assert [row.method for row in group.rows] == ["full", "lora", "bitfit", "probe"]
    best, reference = group.contrasts
    cells = [[each.text(index) for index in range(4)] for each in (best, reference)]
    assert cells == [
        ["best", "not told apart", "–", "worse"],
        ["not told apart", "lora", "–", "worse"],
    ]
    assert best.detail(1).startswith("-1.00, adjusted p = ")
    assert best.detail(3) == "-40.00, adjusted p < 0.001"
    low, high = group.rows[0].scores["vqa"].interval or (0, 0)
    assert low < 80 < high
    assert group.rows[2].scores["vqa"].interval is None


def test_tables_say_what_is_told_apart(board: Board) -> None:
    markdown = to_markdown(board, ())
    lines = markdown.splitlines()
    assert lines[2].startswith("| method | n | vqa | vs best | vs lora | Recompute |")
    full, lora, bitfit, probe = lines[4:8]
    low, high = board.groups[0].rows[0].scores["vqa"].interval or (0, 0)
    assert f"| 80.00 \\[{low:.2f}, {high:.2f}\\] | best | not told apart |" in full
    assert "| not told apart | lora |" in lora
    assert "| 70.00 | – | – |" in bitfit
    assert "| worse | worse |" in probe
    assert "Holm" in markdown
    assert "power of 80 % (there are 100): lora " in markdown
    assert "not told apart" in to_latex(board, ())

    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(to_csv(board, ())))}
    assert rows["full"]["vs_best"] == "best"
    assert float(rows["full"]["vqa_low"]) == pytest.approx(low)
    assert rows["lora"]["vs_best"] == "not told apart"
    assert (rows["bitfit"]["vs_best"], rows["bitfit"]["vqa_high"]) == ("", "")


def test_json_has_every_pair(board: Board) -> None:
    (group,) = json.loads(json.dumps(board_document(board, ())))["groups"]
    pairs = group["tests"]["pairs"]["vqa"]
    assert [each["rows"] for each in pairs] == [
        ["full", "lora"],
        ["full", "probe"],
        ["lora", "probe"],
    ]
    first = pairs[0]
    assert (first["verdict"], first["examples"]) == ("not told apart", NUM_EXAMPLES)
    assert first["adjusted_p"] >= first["p"]
    assert first["examples_needed"] > NUM_EXAMPLES
    assert pairs[1]["verdict"] == "better"
    rows = {row["label"]: row for row in group["rows"]}
    assert rows["bitfit"]["scores"]["vqa"]["interval"] is None


def test_the_page_shows_the_tests(board: Board) -> None:
    page = render_page(board, title="Board")
    assert 'title="Compare the first runs of both, side by side">not told apart</a>' in page
    assert "-40.00, adjusted p &lt; 0.001" in page
    assert "Holm" in page


def test_a_board_without_example_scores_claims_nothing(tmp_path: Path) -> None:
    for method in ("full", "lora"):
        write_run(tmp_path, method, method=method)
    board = build_board(find_runs(tmp_path), METRICS)
    assert board.groups[0].contrasts == ()
    assert "vs best" not in to_markdown(board, ())
    assert "Holm" not in render_page(board, title="Board")


def test_scores_of_another_checkpoint_are_not_used(tmp_path: Path, kept: KeptScores) -> None:
    """The record has the score of one evaluation, the predictions are those of another."""
    kept.add("run", 50)
    write_run(tmp_path, "run", scores={"vqa": 51.0})
    assert board_of(tmp_path, kept).groups[0].rows[0].scores["vqa"].interval is None


def test_seeds_that_vary_are_not_told_apart(tmp_path: Path, kept: KeptScores) -> None:
    """Their means differ by more than the examples explain, but not by more than the seeds do."""
    for seed, (first, second) in enumerate([(90, 60), (60, 62), (84, 58)]):
        write(tmp_path, kept, "full", first, seed)
        write(tmp_path, kept, "lora", second, seed)
    (group,) = board_of(tmp_path, kept).groups
    (test,) = group.tests["vqa"]
    assert test.test.has_seeds
    assert test.verdict_of(0) == "not told apart"
    low, high = group.rows[0].scores["vqa"].interval or (0, 0)
    assert high - low > 30


def test_one_seed_without_scores_leaves_a_row_without_a_test(
    tmp_path: Path, kept: KeptScores
) -> None:
    write(tmp_path, kept, "full", 80)
    write(tmp_path, kept, "lora", 40)
    write_run(tmp_path, "lora-1", method="lora", seed=1, scores={"vqa": 45.0})
    assert board_of(tmp_path, kept).groups[0].tests["vqa"] == ()


def test_the_average_of_a_suite_is_tested(tmp_path: Path, kept: KeptScores) -> None:
    for method, num_right in {"full": 80, "probe": 40}.items():
        scores = {task: kept.add(f"{method}/{task}", num_right, metric="average") for task in SUITE}
        write_suite(tmp_path / method, scores, method=method)
    suite = board_of(tmp_path, kept).groups[0]
    assert suite.suite == "glue"
    assert [each.verdict_of(0) for each in suite.tests["average"]] == ["better"]
    assert suite.contrasts[0].text(1) == "worse"


def test_an_unknown_reference_is_no_row(tmp_path: Path, kept: KeptScores) -> None:
    write(tmp_path, kept, "full", 80)
    assert board_of(tmp_path, kept, "lora").groups[0].reference is None


def test_a_test_is_read_from_either_row() -> None:
    test = RowTest((1, 3), Difference(2.0, 1.0, 3.0, 0.01, 10, False, 5), 0.02)
    assert [test.verdict_of(row) for row in (1, 3)] == ["better", "worse"]
