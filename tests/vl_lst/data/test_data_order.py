"""The order of examples depends only on the seed and the step."""

import itertools
from collections import Counter
from typing import Any

import pytest

from vl_lst.data.order import (
    SORTED_BATCHES,
    ExampleKey,
    Portion,
    Schedule,
    StepOrder,
    evaluation_batches,
    uniform_from_key,
)

SCHEDULE = Schedule(portions={"a": Portion(10, 4)}, epochs=3)
MIXTURE = Schedule(portions={"a": Portion(10, 4), "b": Portion(5, 1), "c": Portion(3, 5)}, epochs=2)
ROWS = list(range(100, 110))
MIXED_ROWS = {"a": ROWS, "b": list(range(200, 205)), "c": list(range(300, 303))}


def steps(**options: Any) -> list[list[ExampleKey]]:
    """Return the keys of each step of a single task."""
    return [keys for _, keys in StepOrder({"a": ROWS}, SCHEDULE, **options)]


def test_a_schedule_counts_steps_and_epochs() -> None:
    assert (SCHEDULE.steps_per_epoch, SCHEDULE.total_steps) == (3, 9)
    assert Schedule(portions=SCHEDULE.portions, steps=5).total_steps == 5
    assert (MIXTURE.steps_per_epoch, MIXTURE.total_steps) == (9, 18)
    assert [SCHEDULE.epoch_of(step) for step in (0, 2, 3, 8)] == [0, 0, 1, 2]


def test_each_epoch_sees_each_example_once_in_its_own_order() -> None:
    batches = steps(seed=1)
    assert [len(batch) for batch in batches] == [4, 4, 2] * 3
    epochs = [list(itertools.chain(*batches[first : first + 3])) for first in (0, 3, 6)]
    assert [sorted(row for _, row in epoch) for epoch in epochs] == [ROWS] * 3
    assert [{number for number, _ in epoch} for epoch in epochs] == [{0}, {1}, {2}]
    assert len({tuple(row for _, row in epoch) for epoch in epochs}) == 3
    assert batches != steps(seed=2)


def test_tasks_occur_in_proportion_to_their_batches() -> None:
    batches = list(StepOrder(MIXED_ROWS, MIXTURE, seed=1))
    for epoch, part in enumerate((batches[:9], batches[9:])):
        assert Counter(task for task, _ in part) == {"a": 3, "b": 5, "c": 1}
        for task, rows in MIXED_ROWS.items():
            seen = [key for name, keys in part if name == task for key in keys]
            assert sorted(seen) == [(epoch, row) for row in rows]
    tasks = [[task for task, _ in part] for part in (batches[:9], batches[9:])]
    assert tasks[0] != tasks[1]
    assert tasks[0] != sorted(tasks[0])


@pytest.mark.parametrize("start", range(19))
def test_a_resumed_run_sees_the_same_examples(start: int) -> None:
    whole = list(StepOrder(MIXED_ROWS, MIXTURE, seed=1))
    assert list(StepOrder(MIXED_ROWS, MIXTURE, seed=1, start=start)) == whole[start:]


def test_a_run_may_end_within_an_epoch() -> None:
    short = Schedule(portions=MIXTURE.portions, steps=13)
    whole = list(StepOrder(MIXED_ROWS, MIXTURE, seed=1))
    assert list(StepOrder(MIXED_ROWS, short, seed=1)) == whole[:13]


def test_processes_share_a_step_in_equal_parts() -> None:
    alone = steps(seed=1)
    parts = [steps(seed=1, rank=p, num_processes=3) for p in range(3)]
    for step, batch in enumerate(alone):
        shares = [part[step] for part in parts]
        assert len({len(share) for share in shares}) == 1
        assert set(batch) <= set(itertools.chain(*shares))


def test_evaluation_sees_each_example_in_exactly_one_process() -> None:
    prompts = ["five", "a", "two", "a", "longest"]
    shares = [evaluation_batches(prompts, 2, rank=p, num_processes=2) for p in range(2)]
    seen = [row for share in shares for batch in share for _, row in batch]
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_evaluation_sorts_prompts_by_length_among_near_examples() -> None:
    prompts = ["five", "b", "two", "a", "longest"]
    assert evaluation_batches(prompts, 2) == [[(0, 3), (0, 1)], [(0, 2), (0, 0)], [(0, 4)]]
    many = [str(row) for row in reversed(range(10 * SORTED_BATCHES))]
    batches = evaluation_batches(many, 5)
    assert {
        row // (5 * SORTED_BATCHES) for batch in batches[:SORTED_BATCHES] for _, row in batch
    } == {0}


def test_uniform_numbers_depend_on_their_key_and_fill_the_unit_interval() -> None:
    numbers = [uniform_from_key(1, 2, row) for row in range(2000)]
    assert numbers == [uniform_from_key(1, 2, row) for row in range(2000)]
    assert 0 <= min(numbers) < 0.01
    assert 0.99 < max(numbers) < 1
    assert abs(sum(numbers) / 2000 - 0.5) < 0.03
    assert uniform_from_key(0, 0, 0) == pytest.approx(0.08234954794796834, abs=0)
