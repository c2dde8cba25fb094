"""What a table says in plain English: nothing that the tests do not show."""

from pathlib import Path

import pytest
from board_runs import METRICS, KeptScores, write_run

from eval.leaderboard.board import Group, build_board
from eval.leaderboard.runs import find_runs
from eval.leaderboard.statement import describe_group, leading_rows


class Table:
    """Runs of one table, with or without per-example scores."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept = KeptScores()

    def add(self, method: str, num_right: int, *, seed: int = 0, **fields: object) -> None:
        """Add a run that answers `num_right` of 100 examples right."""
        name = f"{method[:20]}-{seed}-{len(list(self.folder.iterdir()))}"
        value = self.kept.add(name, num_right)
        write_run(
            self.folder,
            name,
            **{"method": method, "seed": seed, "scores": {"vqa": value}, **fields},  # type: ignore[arg-type]
        )

    def group(self, *, is_tested: bool = True) -> Group:
        read = self.kept.read if is_tested else None
        (group,) = build_board(find_runs(self.folder), METRICS, read_scores=read).groups
        return group


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path)


def test_the_highest_row_is_best_only_if_all_others_are_worse(table: Table) -> None:
    table.add("full", 80)
    table.add("probe", 40)
    group = table.group()
    assert describe_group(group).startswith("full is best in vqa, 80.0: probe is worse.")
    assert leading_rows(group, "vqa") == {0}
    table.add("lora", 79)
    group = table.group()
    text = describe_group(group)
    assert text.startswith(
        "full has the highest score in vqa, 80.0; lora is not told apart from it; probe is worse."
    )
    assert "best" not in text
    assert leading_rows(group, "vqa") == {0, 1}


def test_without_kept_scores_nothing_is_claimed(table: Table) -> None:
    table.add("full", 80)
    table.add("probe", 40)
    group = table.group(is_tested=False)
    text = describe_group(group)
    assert "full has the highest score in vqa, 80.0." in text
    assert "Whether the differences are more than chance is unknown" in text
    for claim in ("best", "better", "worse", "told apart"):
        assert claim not in text
    assert leading_rows(group, "vqa") == frozenset()


def test_rows_without_a_test_are_named(table: Table) -> None:
    table.add("full", 80)
    table.add("probe", 40)
    write_run(table.folder, "old", method="old", scores={"vqa": 60.0})
    text = describe_group(table.group())
    assert "probe is worse; old is not tested." in text
    assert "best" not in text


def test_tests_of_single_runs_are_said_not_to_include_seeds(table: Table) -> None:
    for seed in range(2):
        table.add("full", 80 + seed, seed=seed)
    table.add("probe", 40)
    assert "The tests compare the trained models" in describe_group(table.group())
    table.add("probe", 41, seed=1)
    assert "seed" not in describe_group(table.group())
    table.add("lora", 79)
    assert "Rows with one seed are compared as trained models" in describe_group(table.group())


def test_equal_scores_are_shared(table: Table) -> None:
    for method in ("full", "lora"):
        table.add(method, 50)
    assert "full and lora share the highest score in vqa, 50.0." in describe_group(table.group())


def test_one_row_is_described_with_its_interval_and_floor(table: Table) -> None:
    table.add("lst", 80)
    text = describe_group(table.group())
    assert text.startswith("lst scores 80.0 in vqa (95 % interval ")
    table.add("lst", 30, recipe__data__blind=True)
    text = describe_group(table.group())
    assert text.endswith(
        "It is better than the floor of 30.0, a model that does not see the images."
    )


def test_rows_that_are_not_above_the_floor_are_named(table: Table) -> None:
    table.add("full", 80)
    table.add("probe", 41)
    table.add("lst", 40, recipe__data__blind=True)
    text = describe_group(table.group())
    assert "probe is not shown to be better than the floor of 40.0, a model that does not " in text
    untested = describe_group(table.group(is_tested=False))
    assert "A model that does not see the images scores 40.0 (not tested)." in untested


def test_costs_of_rows_that_are_not_told_apart_come_first(table: Table) -> None:
    table.add("full", 80, saved=1000 << 10)
    table.add("probe", 40, saved=1 << 10)
    assert (
        "probe needs 1,000 times less memory for the backward pass than full (1.0 KiB instead "
        in (describe_group(table.group()))
    )
    assert describe_group(table.group()).endswith(", and scores 40.0 less.")
    table.add("lora", 79, saved=100 << 10)
    text = describe_group(table.group())
    assert "lora needs 10 times less memory for the backward pass than full" in text
    assert "less." not in text


def test_the_highest_row_may_also_be_the_cheapest(table: Table) -> None:
    table.add("lst", 80, saved=1 << 10)
    table.add("full", 70, saved=90 << 10)
    table.add("lora", 60, saved=20 << 10)
    assert describe_group(table.group()).endswith(
        "It also needs the least memory for the backward pass: 1.0 KiB, 20 to 90 times less than "
        "the other rows."
    )


def test_costs_that_are_equal_or_not_comparable_are_not_mentioned(table: Table) -> None:
    table.add("lst", 80)
    table.add("full", 70)
    assert "memory" not in describe_group(table.group())
    table.add("lora", 60, saved=5, num_processes=2)
    assert "memory" not in describe_group(table.group())


def test_recomputation_is_named_if_it_explains_the_difference(table: Table) -> None:
    table.add("full", 80, saved=900)
    table.add("lora", 79, saved=100, options={"recompute": True})
    assert "lora recomputes blocks, which saves memory" in describe_group(table.group())


def test_many_rows_are_counted(table: Table) -> None:
    table.add("full", 90)
    for number in range(6):
        table.add(f"m{number}", 30 + number)
    assert "full is best in vqa, 90.0: all 6 other rows are worse." in describe_group(table.group())
    table.add("near", 89)
    assert "m5, m4, m3 and 3 more are worse." in describe_group(table.group())


def test_numbers_stay_behind_names_that_run_from_right_to_left(table: Table) -> None:
    table.add("שלום", 90)
    assert describe_group(table.group()).startswith("שלום\u200e scores 90.0 in vqa")
