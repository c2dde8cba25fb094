"""What goes into a model: a batch in which equal texts are held, and computed, once.

B examples, U unique prompts, P unique (prompt, answer) pairs, I images, N feature vectors, M of
them after pooling, F channels, T text tokens, L answer tokens, A answers.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["DEFAULT_TASK", "Batch", "unique_rows"]

DEFAULT_TASK = "task"


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
