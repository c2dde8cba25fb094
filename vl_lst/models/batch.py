"""Input of a model: a batch in which equal texts are stored and computed once.

B examples, U unique prompts, P unique (prompt, answer) pairs, I images, N feature vectors,
F channels, T text tokens, L answer tokens, A answers, X any number of columns.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from vl_lst.backbones.stored import BackboneStates
from vl_lst.checks import require_tensor
from vl_lst.errors import ModelError

__all__ = ["DEFAULT_TASK", "Batch", "unique_rows"]

DEFAULT_TASK = "task"
# Number of dimensions of each field, and whether its numbers are floating-point numbers.
TENSORS = {
    "features_BINF": (4, True),
    "prompt_ids_UT": (2, False),
    "prompt_index_B": (1, False),
    "prompt_rows_U": (1, False),
    "labels_BL": (2, False),
    "pair_rows_P": (1, False),
    "pair_index_B": (1, False),
    "weights_B": (1, True),
    "scores_BA": (2, True),
    "values_B": (1, True),
}
REQUIRED = ("prompt_ids_UT", "prompt_index_B")
# Those with a row per example.
PER_EXAMPLE = tuple(name for name in TENSORS if name.rpartition("_")[2].startswith("B"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Examples as tensors.

    Args:
        prompt_ids_UT: Token ids of the unique prompts, padded.
        prompt_index_B: Index of each example's prompt.
        features_BINF: Image features as stored; `None` if the examples have no images.
        labels_BL: Token ids of the answers, padded with `IGNORED` (-100); needed to train a
            generation head.
        prompt_rows_U: Index of one example for each unique prompt; needed if the backbone reads
            the images. Examples with the same prompt then have the same images too.
        pair_rows_P: Index of one example for each unique (prompt, answer) pair; `None` if every
            example is its own pair.
        pair_index_B: Index of each example's pair; given together with `pair_rows_P`.
        weights_B: Weight of each example's loss.
        scores_BA: Soft score of each answer in the list; needed to train a classification head.
        values_B: Answers that are numbers; needed to train a regression head.
        states: States of the backbone for the unique prompts and pairs, if they are read from a
            file; `None` if the backbone computes them.
        example_ids: IDs for messages and predictions.
        task: Name of the task whose head is used.

    Raises:
        ModelError: A tensor has another number of dimensions, type or number of rows.
    """

    prompt_ids_UT: Tensor
    prompt_index_B: Tensor
    features_BINF: Tensor | None = None
    prompt_rows_U: Tensor | None = None
    labels_BL: Tensor | None = None
    pair_rows_P: Tensor | None = None
    pair_index_B: Tensor | None = None
    weights_B: Tensor | None = None
    scores_BA: Tensor | None = None
    values_B: Tensor | None = None
    states: BackboneStates | None = None
    example_ids: tuple[str, ...] = ()
    task: str = DEFAULT_TASK

    def __post_init__(self) -> None:
        for name, (dimensions, is_floating) in TENSORS.items():
            value = getattr(self, name)
            if value is not None or name in REQUIRED:
                require_tensor(
                    f"{name} of a batch", value, dimensions=dimensions, is_floating=is_floating
                )
        self.require_rows("features_BINF")
        if self.states is not None:
            found = len(self.states.encoder.mask_NT)
            if found != len(self.prompt_ids_UT):
                raise ModelError(
                    f"the states of a batch are of {found} prompts: expected "
                    f"{len(self.prompt_ids_UT)}, as many as prompt_ids_UT"
                )
        if (self.pair_rows_P is None) != (self.pair_index_B is None):
            raise ModelError("a batch has one of pair_rows_P and pair_index_B: expected both")

    def require_rows(self, *names: str) -> None:
        """Check that fields, unless they are `None`, have one row per example.

        Raises:
            ModelError: A field has another number of rows.
        """
        for name in names:
            value = getattr(self, name)
            if value is not None and len(value) != len(self):
                raise ModelError(
                    f"{name} of a batch has {len(value)} rows: expected {len(self)}, as many as "
                    "prompt_index_B"
                )

    def __len__(self) -> int:
        return self.prompt_index_B.shape[0]

    def to(self, device: torch.device | str) -> "Batch":
        """Copy the batch to a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Copy the batch to page-locked memory, from which copies to a GPU are asynchronous."""
        return self._map(Tensor.pin_memory)

    def unshare(self, chosen: Tensor | None = None) -> "Batch":
        """Return examples without sharing: one prompt and one pair per example.

        Args:
            chosen: Rows of the examples; `None` means all, in order.
        """
        if chosen is not None:
            return self._select(chosen).unshare()
        states = self.states
        if states is not None:
            pairs = self.prompt_index_B if self.labels_BL is None else self.pair_index_B
            states = states.select(self.prompt_index_B, pairs)
        rows = torch.arange(len(self), device=self.prompt_index_B.device)
        return replace(
            self,
            prompt_ids_UT=self.prompt_ids_UT.index_select(0, self.prompt_index_B),
            prompt_index_B=rows,
            prompt_rows_U=None if self.prompt_rows_U is None else rows,
            pair_rows_P=None if self.pair_rows_P is None else rows,
            pair_index_B=None if self.pair_index_B is None else rows,
            states=states,
        )

    def _select(self, rows: Tensor) -> "Batch":
        """Return some examples with all unique prompts; only `unshare` makes it a whole batch."""
        rows = rows.to(self.prompt_index_B.device)
        tensors: dict[str, Any] = {
            name: value.index_select(0, rows)
            for name in PER_EXAMPLE
            if (value := getattr(self, name)) is not None
        }
        ids = tuple(self.example_ids[row] for row in rows.tolist()) if self.example_ids else ()
        return replace(self, example_ids=ids, **tensors)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors: dict[str, Any] = {
            field.name: change(value)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        if self.states is not None:
            tensors["states"] = self.states.map(change)
        return replace(self, **tensors)


def unique_rows(rows_BX: Tensor) -> tuple[Tensor, Tensor]:
    """Find the unique rows of a matrix.

    Args:
        rows_BX: Matrix of integers.

    Returns:
        The index of the first occurrence of each unique row [U], in order of appearance, and the
        index of every row among the unique ones [B].
    """
    position: dict[tuple[int, ...], int] = {}
    first: list[int] = []
    index: list[int] = []
    for row, key in enumerate(map(tuple, rows_BX.tolist())):
        if key not in position:
            position[key] = len(first)
            first.append(row)
        index.append(position[key])
    return torch.tensor(first), torch.tensor(index)
