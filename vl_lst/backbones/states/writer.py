"""Write a file of backbone states so that writing can be interrupted at any point and resumed.

N texts, S states per token, T tokens, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vl_lst.backbones.layers import OutputLayer
from vl_lst.backbones.states.spec import StateSpec
from vl_lst.backbones.states.table import StateTable

__all__ = ["StateWriter"]


class StateWriter:
    """Writer of a file of states; resumes unfinished work on the same file.

    A context manager that locks the folder of unfinished work. Leaving the block without `finish`
    keeps that work for the next writer.

    Args:
        out: Path of the finished file.
        spec: Settings of the states.
        table: All texts, in file order: that in which they are computed is best.
        output: Output layer to keep, if `spec.output` is set.
        shard: Which part of a larger extraction the file holds; `None` for a complete one.

    Raises:
        StoreError: Another process writes to `out`, the unfinished work has other settings or
            texts, there is not enough disk space, or the folder cannot be written.
    """

    inputs_done: NDArray[np.bool_]
    """Which inputs are written, bool `[N]`."""
    pairs_done: NDArray[np.bool_]
    """Which pairs are written, bool `[N]`."""

    def __init__(
        self,
        out: Path,
        spec: StateSpec,
        table: StateTable,
        *,
        output: OutputLayer | None = None,
        shard: object = None,
    ) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        raise NotImplementedError

    def write_inputs(
        self,
        start: int,
        states: Sequence[Tensor],
        describe: Callable[[int], str] | None = None,
    ) -> None:
        """Write the states of consecutive encoder inputs, and commit about once a second.

        Args:
            start: Row of the first input in the table.
            states: For each input `[S, T, D]` without padding: the embedding, the kept blocks in
                order, and the output of the stack if it is kept.
            describe: Returns the text at a position of `states`, for messages.

        Raises:
            StoreError: A state is not finite in the file's type, or there is no space left.
        """
        raise NotImplementedError

    def write_pairs(
        self,
        start: int,
        states: Sequence[Tensor],
        describe: Callable[[int], str] | None = None,
    ) -> None:
        """Write the states of consecutive pairs; see `write_inputs`."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write the metadata, move the finished file to its path, and remove the folder.

        Raises:
            StoreError: There is no space left, or texts are still pending.
        """
        raise NotImplementedError
