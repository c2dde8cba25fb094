"""Dropout masks of a side network: probability, independence, memory, recomputation."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vl_lst.models.ladder import dropout
from vl_lst.models.ladder.dropout import DropoutMasks, draw_pool, drop


def masks_of(*shapes: tuple[int, ...], places: int, probability: float = 0.1) -> DropoutMasks:
    torch.manual_seed(0)
    pool = draw_pool(
        shapes, probability, places=places, dtype=torch.float32, device=torch.device("cpu")
    )
    return DropoutMasks(pool)


def test_values_are_dropped_with_the_probability_and_scaled_by_its_rest() -> None:
    mask = masks_of((8, 50, 64), places=1).next_of((8, 50, 64))
    kept = mask != 0
    assert kept.double().mean().item() == pytest.approx(0.9, abs=0.006)  # 3.2 standard deviations
    assert torch.equal(mask[kept].unique(), torch.tensor([1 / 0.9]))


def test_places_read_different_masks() -> None:
    shape = (4, 10, 64)
    masks = masks_of(shape, places=5)
    flat = torch.stack([masks.next_of(shape).flatten() for _ in range(5)])
    assert torch.corrcoef(flat).fill_diagonal_(0).abs().max().item() < 0.08


def test_a_place_that_was_not_counted_is_refused() -> None:
    masks = masks_of((2, 3), places=1)
    masks.next_of((2, 3))
    with pytest.raises(RuntimeError, match="out of bounds"):
        masks.next_of((2, 3))


def test_masks_larger_than_the_pool_repeat_only_in_other_examples(monkeypatch) -> None:
    monkeypatch.setattr(dropout, "MAX_POOL", 1000)
    shape = (20, 6, 40)
    masks = masks_of(shape, places=2)
    assert masks._pool_P.numel() == 1000 + dropout.STEP
    mask = masks.next_of(shape)
    assert mask.data_ptr() == masks._pool_P.data_ptr(), "a view"
    positions = torch.arange(masks._pool_P.numel()).as_strided(shape, mask.stride(), 0)
    for example in positions:
        assert example.unique().numel() == example.numel()
    for one, other in zip(positions[:-1], positions[1:], strict=True):
        assert not (one == other).any(), "no value shares a decision with the same value of another"


def test_states_without_masks_stay_as_they_are() -> None:
    states = torch.randn(2, 3)
    assert drop(states, None) is states


class _Calls(TorchDispatchMode):
    """Count the calls of operations."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_a_stack_draws_once_and_recomputes_no_last_product(make_model, make_batch) -> None:
    """Random numbers were the largest share of a side block's time."""
    model, batch = make_model(recompute=True, dropout=0.1).train(), make_batch()
    for parameter in model.trainable().values():
        parameter.requires_grad_(True)
    with _Calls() as forward:
        loss = model(batch)
    with _Calls() as backward:
        loss.backward()
    assert forward.counts["bernoulli_"] == 2
    assert backward.counts["bernoulli_"] == 0
    kept = make_model(recompute=False, dropout=0.1).train()
    for parameter in kept.trainable().values():
        parameter.requires_grad_(True)
    loss = kept(batch)
    with _Calls() as without:
        loss.backward()
    blocks = len(model.side.encoder.blocks), len(model.side.decoder.blocks)
    # Attention projects twice, attention to the encoder three times, the feed-forward layer once.
    expected = 3 * blocks[0] + 6 * blocks[1]
    assert backward.counts["mm"] - without.counts["mm"] == expected


def test_masks_are_new_in_every_step_and_the_same_with_the_same_seed(
    make_model, make_batch
) -> None:
    model, batch = make_model(dropout=0.5).train(), make_batch()

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return float(model(batch).detach())

    assert loss(0) == loss(0) != loss(1)
    torch.manual_seed(0)
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert loss(0) == loss(1)


def test_the_pool_suffices_for_long_answers_to_short_prompts(make_model, make_batch) -> None:
    """Answers that attend to themselves then have the largest mask."""
    model, batch = make_model(dropout=0.1).train(), make_batch()
    labels = torch.full((len(batch), 200), 5)
    assert torch.isfinite(model(replace(batch, labels_BL=labels)))
