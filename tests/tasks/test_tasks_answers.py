"""Answer lists: counted in a fixed order, or read from a file."""

import json
from pathlib import Path

import pytest

from eval.errors import FileFormatError, InputError
from tasks import Example, get_task, task_names, with_own_files
from tasks._answers import (
    answer_coverage,
    build_answer_list,
    format_coverage,
    load_answer_list,
)
from tasks.vqa import TASK

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "vqa"


def examples(*answers: str) -> list[Example]:
    return [Example(str(n), ("i",), "q", ((answer, 1.0),)) for n, answer in enumerate(answers)]


def test_answers_are_sorted_by_count_then_alphabetically() -> None:
    table = examples("b", "c", "a", "b", "c", "rare", "a", "b")
    assert build_answer_list(table, min_count=2) == ["b", "a", "c"]


def test_an_example_counts_only_for_its_highest_weight_answer() -> None:
    example = Example("1", ("i",), "q", (("minor", 0.3), ("major", 1.0), ("other", 1.0)))
    assert build_answer_list([example], min_count=1) == ["major"]


def test_default_minimum_count_is_nine_and_too_few_is_an_error() -> None:
    assert build_answer_list(examples(*["yes"] * 9)) == ["yes"]
    with pytest.raises(InputError, match="at least 9 times among 8"):
        build_answer_list(examples(*["yes"] * 8))


def test_the_list_of_the_fixture() -> None:
    answers = build_answer_list(TASK.load(FIXTURE, "train2014"), min_count=1)
    assert answers == ["red", "bread", "no", "two", "yes"]


def test_a_list_may_begin_with_the_empty_answer(tmp_path: Path) -> None:
    file = tmp_path / "trainval_label2ans.json"
    file.write_text(json.dumps(["", "net", "pitcher"]), encoding="utf-8")
    assert load_answer_list(file) == ["", "net", "pitcher"]


@pytest.mark.parametrize(
    ("content", "message"),
    [({"net": 0}, "not a list"), ([], "not a list"), (["a", 1], "not a"), (["a", "a"], "'a'")],
)
def test_other_files_are_refused(tmp_path: Path, content: object, message: str) -> None:
    file = tmp_path / "answers.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(FileFormatError, match=message):
        load_answer_list(file)


def test_each_task_has_a_default_minimum_count() -> None:
    """`train` and `data prepare` use the same default; users' own files keep all answers."""
    counts = {name: get_task(name).min_answer_count for name in task_names()}
    assert (counts["vqa"], counts["gqa"]) == (9, 1)
    own = with_own_files(TASK, {"train": Path("a.jsonl"), "val": Path("b.jsonl")})
    assert own.min_answer_count == 1


def test_coverage_counts_highest_weight_answers_of_answered_examples() -> None:
    table = [
        Example("1", ("i",), "q", (("a", 0.3), ("b", 1.0))),
        Example("2", ("i",), "q", (("a", 1.0), ("c", 1.0))),
        Example("3", ("i",), "q", ()),
        Example("4", ("i",), "q", (("a", 0.6), ("c", 0.3))),
        Example("5", ("i",), "q", (("d", 1.0), ("a", 0.3))),
    ]
    assert answer_coverage(table, ["a", "c"]) == 50.0
    assert answer_coverage(table[2:3], ["a"]) is None
    assert (format_coverage(99.96), format_coverage(100.0)) == ("99.9 %", "100.0 %")
