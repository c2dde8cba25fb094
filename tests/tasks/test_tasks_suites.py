"""Suites name tasks that exist, and are no tasks themselves."""

import pytest

from eval.errors import InputError
from tasks import SUITES, get_task, task_names
from tasks._suites import run_of, splits_of


def test_the_tasks_of_a_suite_exist_and_have_examples_to_train_on() -> None:
    for suite, tasks in SUITES.items():
        assert suite not in task_names()
        assert len(set(tasks)) == len(tasks)
        for name in tasks:
            assert len(get_task(name).splits) > 1
            assert run_of(name) == name


def test_glue_has_the_tasks_of_the_paper() -> None:
    assert SUITES["glue"] == ("cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "stsb")


def test_a_suite_where_a_task_is_expected_is_explained() -> None:
    with pytest.raises(InputError, match="glue is a suite of 8 tasks, not a task: expected one of"):
        get_task("glue")


@pytest.mark.parametrize(
    ("task", "split", "expected"),
    [
        ("rte", "dev", ["dev"]),
        ("mnli", "dev", ["dev_matched", "dev_mismatched"]),
        ("mnli", "test", ["test_matched", "test_mismatched"]),
        ("mnli", "paper_test", ["paper_test"]),
        ("mnli", "dev_matched", ["dev_matched"]),
    ],
)
def test_a_split_of_a_suite_stands_for_the_parts_of_a_task(
    task: str, split: str, expected: list[str]
) -> None:
    assert splits_of(get_task(task), split) == expected


@pytest.mark.parametrize("split", ["val", "paper", "dev_"])
def test_an_unknown_split_is_refused(split: str) -> None:
    with pytest.raises(InputError, match=f"rte has no split '{split}'"):
        splits_of(get_task("rte"), split)


def test_the_diagnostic_examples_are_answered_by_the_model_of_mnli() -> None:
    assert run_of("ax") == "mnli"
    assert set(get_task("ax").submission.splits) == {"test"}  # type: ignore[union-attr]
