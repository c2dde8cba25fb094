"""The order of examples depends on the seed and the step, not on the past or on who asks."""

import itertools

import pytest

from vl_lst.training.order import Schedule, StepOrder, in_turn, uniform

SCHEDULE = Schedule(examples=10, batch_size=4, epochs=3)
ROWS = list(range(100, 110))


def test_lengths() -> None:
    assert (SCHEDULE.steps_per_epoch, SCHEDULE.total_steps) == (3, 9)
    assert Schedule(examples=10, batch_size=4, steps=5).total_steps == 5
    assert [SCHEDULE.epoch_of(step) for step in (0, 2, 3, 8)] == [0, 0, 1, 2]


def test_each_epoch_sees_each_example_once_in_an_order_of_its_own() -> None:
    batches = list(StepOrder(ROWS, SCHEDULE, seed=1))
    assert [len(batch) for batch in batches] == [4, 4, 2] * 3
    epochs = [list(itertools.chain(*batches[first : first + 3])) for first in (0, 3, 6)]
    assert [sorted(row for _, row in epoch) for epoch in epochs] == [ROWS] * 3
    assert [{number for number, _ in epoch} for epoch in epochs] == [{0}, {1}, {2}]
    assert len({tuple(row for _, row in epoch) for epoch in epochs}) == 3
    assert batches != list(StepOrder(ROWS, SCHEDULE, seed=2))


@pytest.mark.parametrize("start", range(9))
def test_a_resumed_run_sees_the_same_examples(start: int) -> None:
    whole = list(StepOrder(ROWS, SCHEDULE, seed=1))
    assert list(StepOrder(ROWS, SCHEDULE, seed=1, start=start)) == whole[start:]


def test_processes_share_a_step_in_equal_parts() -> None:
    alone = list(StepOrder(ROWS, SCHEDULE, seed=1))
    parts = [list(StepOrder(ROWS, SCHEDULE, seed=1, process=p, processes=3)) for p in range(3)]
    for step, batch in enumerate(alone):
        shares = [part[step] for part in parts]
        assert len({len(share) for share in shares}) == 1
        assert set(batch) <= set(itertools.chain(*shares))


def test_evaluation_sees_each_example_in_exactly_one_process() -> None:
    shares = [in_turn(5, 2, process=p, processes=2) for p in range(2)]
    seen = [row for share in shares for batch in share for _, row in batch]
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert in_turn(5, 2) == [[(0, 0), (0, 1)], [(0, 2), (0, 3)], [(0, 4)]]


def test_uniform_numbers_depend_on_their_key_alone_and_fill_the_unit_interval() -> None:
    numbers = [uniform(1, 2, row) for row in range(2000)]
    assert numbers == [uniform(1, 2, row) for row in range(2000)]
    assert 0 <= min(numbers) < 0.01
    assert 0.99 < max(numbers) < 1
    assert abs(sum(numbers) / 2000 - 0.5) < 0.03
    assert uniform(0, 0, 0) == pytest.approx(0.08234954794796834, abs=0)
