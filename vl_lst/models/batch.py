"""What goes into a model: a batch in which equal texts are held, and computed, once.

B examples, U unique prompts, P unique (prompt, answer) pairs, I images, N feature vectors, M of
them after pooling, F channels, T text tokens, L answer tokens, A answers.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from vl_lst.checks import require_tensor
from vl_lst.errors import ModelError

__all__ = ["DEFAULT_TASK", "Batch", "unique_rows"]

DEFAULT_TASK = "task"
# Field -> number of dimensions, and whether its numbers are floating-point numbers.
TENSORS = {
    "features_BINF": (4, True),
    "prompt_ids_UT": (2, False),
    "prompt_index_B": (1, False),
    "labels_BL": (2, False),
    "pair_rows_P": (1, False),
    "pair_index_B": (1, False),
    "weights_B": (1, True),
    "scores_BA": (2, True),
}
REQUIRED = ("features_BINF", "prompt_ids_UT", "prompt_index_B")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Examples ready for a model.

    Args:
        features_BINF: Image features as stored.
        prompt_ids_UT: Token ids of the distinct prompts, padded.
        prompt_index_B: Which of them each example has.
        labels_BL: Token ids of the answers, `losses.IGNORED` behind each; when generating.
        pair_rows_P: An example for each distinct (prompt, answer) pair.
        pair_index_B: Which pair each example has.
        weights_B: Weight of each example's loss.
        scores_BA: Soft score of each answer of the list; when classifying.
        example_ids: Ids, for messages and predictions.
        task: Whose head answers, in a model with a head for each of several tasks.
    """

    features_BINF: Tensor
    prompt_ids_UT: Tensor
    prompt_index_B: Tensor
    labels_BL: Tensor | None = None
    pair_rows_P: Tensor | None = None
    pair_index_B: Tensor | None = None
    weights_B: Tensor | None = None
    scores_BA: Tensor | None = None
    example_ids: tuple[str, ...] = ()
    task: str = DEFAULT_TASK

    def __post_init__(self) -> None:
        for name, (dimensions, is_floating) in TENSORS.items():
            value = getattr(self, name)
            if value is not None or name in REQUIRED:
                require_tensor(
                    f"{name} of a batch", value, dimensions=dimensions, is_floating=is_floating
                )
        self.require_rows("prompt_index_B")
        if (self.pair_rows_P is None) != (self.pair_index_B is None):
            raise ModelError("a batch has one of pair_rows_P and pair_index_B: expected both")

    def require_rows(self, *names: str) -> None:
        """Check that fields, where they are set, have a row for each example.

        Raises:
            ModelError: One has another number of rows.
        """
        for name in names:
            value = getattr(self, name)
            if value is not None and len(value) != len(self):
                raise ModelError(
                    f"{name} of a batch has {len(value)} rows: expected {len(self)}, as many as "
                    "features_BINF"
                )

    def __len__(self) -> int:
        return self.features_BINF.shape[0]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, for copies to a GPU that overlap with work."""
        return self._map(Tensor.pin_memory)

    def unshared(self) -> "Batch":
        """The same examples, each with a prompt and an answer of its own though they are equal."""
        rows = torch.arange(len(self), device=self.prompt_index_B.device)
        return replace(
            self,
            prompt_ids_UT=self.prompt_ids_UT.index_select(0, self.prompt_index_B),
            prompt_index_B=rows,
            pair_rows_P=None if self.pair_rows_P is None else rows,
            pair_index_B=None if self.pair_index_B is None else rows,
        )

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors: dict[str, Any] = {
            field.name: change(value)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **tensors)


def unique_rows(rows_BX: Tensor) -> tuple[Tensor, Tensor]:
    """Where the distinct rows first stand, in order of appearance [U], and which each row is [B].

    Args:
        rows_BX: Integers; compared over all of X.
    """
    place: dict[tuple[int, ...], int] = {}
    first: list[int] = []
    index: list[int] = []
    for row, key in enumerate(map(tuple, rows_BX.tolist())):
        if key not in place:
            place[key] = len(first)
            first.append(row)
        index.append(place[key])
    return torch.tensor(first), torch.tensor(index)
