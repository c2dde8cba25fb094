"""Data of runs on the page: stored once, within the size limit, with the tests of `eval`."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_runs import METRICS, write_run

from eval.leaderboard.board import Board, build_board
from eval.leaderboard.runs import find_runs
from eval.report.comparisons import compare_pairs, compare_settings
from eval.report.example_data import ExampleData, RunAnswers, SplitExamples, pack
from eval.report.run_data import RunData, run_blocks, run_index
from eval.statistics.estimates import Estimate, estimate_score
from eval.statistics.paired import compare
from eval.statistics.samples import sample_of

EXAMPLES = SplitExamples(
    task="vqa",
    split="val2014",
    ids=["1", "2", "3"],
    prompts=["what?", "who?", "what?"],
    references=[["yes"], ["no"], ["yes"]],
    image_ids=[["a"], ["b"], ["a"]],
    is_graded=True,
)


def unpack(block: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(block)))


@pytest.fixture
def board(tmp_path: Path) -> Board:
    for seed in range(4):
        write_run(tmp_path, f"run-{seed}", seed=seed, recipe__data__root=f"data {seed % 2}")
    return build_board(find_runs(tmp_path), METRICS)


def data_of(board: Board, max_chars: int | None = None) -> ExampleData:
    data = ExampleData(max_chars)
    for number, (_, _, run) in enumerate(board.placed_runs):
        answers = RunAnswers([f"answer {number}"] * 3, [100.0, 100 / 3, None])
        data.add(run, EXAMPLES, EXAMPLES.pack(), answers)
    return data


def test_examples_are_stored_once_and_each_run_adds_its_answers(board: Board) -> None:
    data = data_of(board)
    index = run_index(board, RunData(data))
    keys = [run["tasks"]["vqa"]["blocks"] for run in index["runs"]]
    assert len(keys) == 4
    assert len({examples for examples, _ in keys}) == 1
    blocks = run_blocks(board, RunData(data), {})
    examples, answers = (unpack(blocks[key]) for key in keys[1])
    assert examples["ids"] == ["1", "2", "3"]
    assert [examples["answers"][n] for n in examples["references"]] == [["yes"], ["no"], ["yes"]]
    assert [[examples["image_ids"][n] for n in each] for each in examples["images"]] == [
        *(["a"], ["b"], ["a"])
    ]
    assert answers == {"predictions": ["answer 1"] * 3, "scores": [100, 33.33, None]}


def test_runs_further_down_lose_their_answers_first_and_are_counted(board: Board) -> None:
    everything = data_of(board)
    data = data_of(board, everything.size - 1)
    names = [run.name for _, _, run in board.placed_runs]
    assert [name for name, _ in data.answers] == names[:3]
    assert data.left_out == 1
    assert data.size < everything.size
    index = run_index(board, RunData(data))
    assert [run["tasks"]["vqa"]["blocks"] is None for run in index["runs"]] == [
        *(False, False, False, True)
    ]


def test_blocks_escape_control_characters_and_are_the_same_every_time() -> None:
    value = {"\u202etask": ["\x1b[31m", "\ud800", "<b>", 1.5]}
    assert unpack(pack(value)) == {r"\u202etask": [r"\x1b[31m", "?", "<b>", 1.5]}
    assert pack(value) == pack(value)


def estimate_of(rng: np.random.Generator, right: float, examples: int = 60) -> Estimate:
    values = {str(n): 100.0 * (rng.random() < right) for n in range(examples)}
    sample = sample_of(np.mean(list(values.values())), values, {i: i[-1] for i in values})
    assert sample is not None
    estimate = estimate_score([sample])
    assert estimate is not None
    return estimate


def test_pairs_have_the_paired_test_of_the_tables() -> None:
    rng = np.random.default_rng(0)
    runs = [{"vqa": estimate_of(rng, right), "gqa": estimate_of(rng, 0.5)} for right in (0.9, 0.2)]
    (found,) = compare_pairs(runs).values()
    test = compare(runs[0]["vqa"], runs[1]["vqa"])
    assert test is not None
    assert found["vqa"]["difference"] == pytest.approx(test.difference)
    assert found["vqa"]["verdict"] == "better"
    # Adjusted for two tasks.
    assert found["vqa"]["probability"] == pytest.approx(2 * test.probability, rel=1e-2)
    assert found["gqa"]["verdict"] == "not told apart"


def test_other_examples_are_not_compared_and_tests_are_limited() -> None:
    rng = np.random.default_rng(0)
    runs = [{"vqa": estimate_of(rng, 0.5)} for _ in range(4)]
    assert compare_pairs([*runs, {"vqa": estimate_of(rng, 0.5, examples=50)}, {}]).keys() == {
        *("0,1", "0,2", "1,2", "0,3", "1,3", "2,3")
    }
    assert list(compare_pairs(runs, max_tests=3)) == ["0,1", "0,2", "1,2"]


def test_only_settings_that_differ_between_any_runs_are_stored(board: Board) -> None:
    settings = compare_settings([run for _, _, run in board.placed_runs])
    assert sorted(settings["names"]) == ["data.root", "training.seed"]
    values = dict(zip(settings["names"], zip(*settings["runs"], strict=True), strict=True))
    assert set(values["data.root"]) == {'"data 0"', '"data 1"'}
