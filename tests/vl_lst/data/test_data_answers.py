"""Training examples without any answer are refused, before anything samples from them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from eval.errors import InputError
from tasks import Example
from vl_lst.data.examples import rows_with_answers
from vl_lst.data.task_data import sample_examples


def examples(*weights: float) -> list[Example]:
    return [
        Example(id=str(n), image_ids=("a",), prompt="vqa: what?", targets=(("red", weight),))
        for n, weight in enumerate(weights)
    ]


def test_rows_are_those_with_an_answer() -> None:
    table: Any = examples(0.0, 0.3, 0.0, 1.0)
    assert rows_with_answers(table).tolist() == [1, 3]


def test_no_answer_at_all_is_refused() -> None:
    table: Any = examples(0.0, 0.0)
    with pytest.raises(InputError, match="no training example has an answer"):
        rows_with_answers(table)


def test_sampling_ends_if_there_is_nothing_to_sample() -> None:
    """An initialisation that reads samples would otherwise wait for one forever."""
    data: Any = {
        "vqa": SimpleNamespace(
            rows=np.arange(2), examples=SimpleNamespace(train=examples(0.0, 0.0), task=None)
        )
    }
    with pytest.raises(InputError, match="no training example has an answer"):
        next(sample_examples(data, None, seed=0))  # type: ignore[arg-type]
