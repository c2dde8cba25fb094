"""Read backbone states by key, in any process.

N texts, S states per token, K kept blocks, T tokens, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vl_lst.backbones.layers import OutputLayer
from vl_lst.backbones.states.spec import StackSpec, StateSpec

__all__ = ["PaddedStates", "StackReader", "StateReader"]


@dataclass(frozen=True, slots=True)
class PaddedStates:
    """States of several texts; all fields are views of one tensor but the mask.

    Args:
        embedding_NTD: Input of the first block; zeros for padding, as in all fields.
        blocks_KNTD: Output of each requested block.
        final_NTD: Output of the stack; `None` if it is not kept.
        mask_NT: False for padding, which comes last.
    """

    embedding_NTD: Tensor
    blocks_KNTD: Tensor
    final_NTD: Tensor | None
    mask_NT: Tensor


class StackReader:
    """The states of one stack; safe in forked and spawned workers."""

    spec: StackSpec

    def __len__(self) -> int:
        """Return the number of texts."""
        raise NotImplementedError

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Return the positions in `keys` of those without states."""
        raise NotImplementedError

    def lengths(self, keys: Sequence[bytes]) -> list[int]:
        """Return the number of tokens of each text.

        Raises:
            StoreError: One is missing.
        """
        raise NotImplementedError

    def read(
        self,
        keys: Sequence[bytes],
        layers: Sequence[int] | None = None,
        *,
        describe: Callable[[int], str] | None = None,
    ) -> PaddedStates:
        """Return the states of several texts, padded to the longest.

        Args:
            keys: Keys in any order; repeats are allowed.
            layers: Blocks to read, a subset of `spec.layers`. Default: all of them.
            describe: Returns the text at a position of `keys`, for messages.

        Raises:
            StoreError: A text or a block is missing, or the file can no longer be read.
        """
        raise NotImplementedError


class StateReader:
    """The states of a backbone in one file, or in the files that an index joins.

    Safe in forked and spawned workers: each process opens the file at its first read.

    Args:
        path: The file, or an index.

    Raises:
        StoreError: There is no such file, it is damaged, or it holds no states.
    """

    path: Path
    spec: StateSpec
    texts_sha256: str
    encoder: StackReader
    decoder: StackReader | None

    def __init__(self, path: str | Path) -> None:
        raise NotImplementedError

    def output_layer(self) -> OutputLayer | None:
        """Return weight and bias of the output layer; `None` if the file does not hold it.

        Its scale and bound are those of the backbone's configuration, and are not in the file.
        """
        raise NotImplementedError
