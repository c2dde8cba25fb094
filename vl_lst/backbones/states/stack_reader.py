"""Read the states of one stack, encoder or decoder, by key and in any process.

N texts, S states per token, K kept blocks, T tokens, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_extraction.errors import StoreError
from feature_extraction.store.hdf5_reader import READ_ERRORS, read_error
from feature_extraction.store.stamped_file import Stamp, StampedFile
from vl_lst.backbones.states.keys import KEY_BYTES
from vl_lst.backbones.states.layout import STATE_FILE, Stack
from vl_lst.backbones.states.spec import DTYPES, StackSpec, StateDtype
from vl_lst.backbones.states.table import Texts, concatenate

__all__ = ["PaddedStates", "ReopenedFile", "StackPart", "StackReader"]


@dataclass(frozen=True, slots=True)
class PaddedStates:
    """States of several texts; all but the mask are views of one tensor.

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


class ReopenedFile:
    """A file that each process opens at its first read; an open handle is not pickled.

    Args:
        path: The file.
        stamp: Its stamp when it was checked.
    """

    def __init__(self, path: Path, stamp: Stamp) -> None:
        self.path = path
        self._stamp = stamp
        self._file: StampedFile | None = None

    def fetch(self, offset: int, targets: Sequence[NDArray[Any]]) -> None:
        """Fill contiguous arrays with the bytes from `offset` on.

        Raises:
            StoreError: The file cannot be read, or has changed since it was checked.
        """
        with self._opened() as file:
            file.fetch(offset, *targets)

    def announce(self, offset: int, size: int) -> None:
        """Tell the system that bytes will be read soon.

        Raises:
            StoreError: The file cannot be read, or has changed since it was checked.
        """
        with self._opened() as file:
            file.announce(offset, size)

    @contextmanager
    def _opened(self) -> Iterator[StampedFile]:
        try:
            # Positioned reads have no state: a forked child can keep using the handle.
            if self._file is None:
                self._file = StampedFile(self.path, self._stamp)
            yield self._file
        except READ_ERRORS as error:
            raise read_error(self.path, error, STATE_FILE) from error

    def close(self) -> None:
        """Close this process's handle; the next read opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


@dataclass(frozen=True, slots=True)
class StackPart:
    """The states of a stack in one file.

    Args:
        file: The file.
        offset: Position of the first state, in bytes.
        texts: The texts, in file order.
    """

    file: ReopenedFile
    offset: int
    texts: Texts


class StackReader:
    """The states of one stack, in one file or several; safe in forked and spawned workers.

    Args:
        stack: Which stack.
        spec: Which states are kept.
        dtype: Type of the states.
        parts: The files.
        name: Name of the whole in messages.

    Raises:
        StoreError: A text occurs twice.
    """

    def __init__(
        self,
        stack: Stack,
        spec: StackSpec,
        dtype: StateDtype,
        parts: Sequence[StackPart],
        name: str,
    ) -> None:
        self.spec = spec
        """Which states are kept."""
        self._stack = stack
        self._dtype = DTYPES[dtype]
        self._name = name
        self._files = tuple(part.file for part in parts)
        texts = concatenate([part.texts for part in parts])
        self._length_N = texts.length_N
        self._file_N = np.repeat(np.arange(len(parts)), [len(part.texts) for part in parts])
        token_bytes = spec.planes * spec.width * self._dtype.itemsize
        self._offset_N = np.concatenate(
            [
                part.offset
                + (np.cumsum(part.texts.length_N, dtype=np.int64) - part.texts.length_N)
                * token_bytes
                for part in parts
            ]
        )
        # A sorted array takes less memory than a dictionary, and forked workers share it.
        keys_N = _as_keys(texts.keys_N.tobytes())
        self._row_N = np.argsort(keys_N)
        self._key_N = keys_N[self._row_N]
        repeated = int((self._key_N[1:] == self._key_N[:-1]).sum())
        if repeated:
            raise StoreError(
                f"{name}: {repeated:,} texts of the {stack} occur more than once, expected each "
                "once. Extract the states again."
            )

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._length_N)

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Return the positions in `keys` of those without states."""
        _, is_found = self._find(keys)
        positions: list[int] = np.flatnonzero(~is_found).tolist()
        return positions

    def read(
        self,
        keys: Sequence[bytes],
        layers: Sequence[int] | None = None,
        *,
        describe: Callable[[int], str] | None = None,
    ) -> PaddedStates:
        """Return the states of several texts, padded to the longest.

        Args:
            keys: At least one key; any order, and repeats are allowed.
            layers: Blocks to read, some of `spec.layers`. Default: all of them.
            describe: Returns the text at a position of `keys`, for messages.

        Raises:
            StoreError: A text or a block is missing, or the file can no longer be read.
        """
        rows_N = self._rows(keys, describe)
        planes = self._planes(layers)
        length_N = self._length_N[rows_N]
        width = self.spec.width
        states_SNTD = torch.empty(
            (len(planes), len(keys), int(length_N.max()), width), dtype=self._dtype
        )
        # The same memory as bytes: NumPy has no bfloat16.
        bytes_SNTC: NDArray[np.uint8] = states_SNTD.view(torch.uint8).numpy()
        runs = _consecutive(planes)
        token_bytes = self.spec.planes * bytes_SNTC.shape[-1]
        for row, length in zip(rows_N, length_N.tolist(), strict=True):
            file = self._files[self._file_N[row]]
            file.announce(int(self._offset_N[row]), length * token_bytes)
        for position, (row, length) in enumerate(zip(rows_N, length_N.tolist(), strict=True)):
            bytes_SNTC[:, position, length:] = 0
            offset, file = int(self._offset_N[row]), self._files[self._file_N[row]]
            for run in runs:
                targets = [bytes_SNTC[s, position, :length] for s in run]
                plane_bytes = length * bytes_SNTC.shape[-1]
                file.fetch(offset + planes[run[0]] * plane_bytes, targets)
        mask_NT = torch.arange(states_SNTD.shape[2]) < torch.from_numpy(length_N)[:, None]
        has_final = self.spec.has_final
        return PaddedStates(
            embedding_NTD=states_SNTD[0],
            blocks_KNTD=states_SNTD[1 : len(planes) - has_final],
            final_NTD=states_SNTD[-1] if has_final else None,
            mask_NT=mask_NT,
        )

    def _planes(self, layers: Sequence[int] | None) -> list[int]:
        """Return which of a text's planes to read, the embedding first."""
        absent = sorted(set(layers or ()) - set(self.spec.layers))
        if absent:
            raise StoreError(
                f"{self._name} holds the states of the {self._stack}'s blocks "
                f"{list(self.spec.layers)}, and {absent} are needed. Extract the states with the "
                f"settings of this run: {STATE_FILE.command}"
            )
        wanted = self.spec.layers if layers is None else layers
        planes = [0, *(1 + self.spec.layers.index(layer) for layer in wanted)]
        return [*planes, self.spec.planes - 1] if self.spec.has_final else planes

    def _rows(
        self, keys: Sequence[bytes], describe: Callable[[int], str] | None
    ) -> NDArray[np.int64]:
        rows_N, is_found = self._find(keys)
        if is_found.all():
            return rows_N
        position = int(np.argmin(is_found))
        text = describe(position) if describe else f"the key {keys[position].hex()}"
        raise StoreError(
            f"{self._name} holds no states of the {self._stack} for {text}: they were extracted "
            "for other data, or with other settings of prompts. Extract the states with the "
            f"settings of this run: {STATE_FILE.command}"
        )

    def _find(self, keys: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the row of each key, and whether it is found; other rows have no meaning."""
        wanted_N = _as_keys(b"".join(keys))
        place_N = np.searchsorted(self._key_N, wanted_N).clip(max=len(self) - 1)
        return self._row_N[place_N], self._key_N[place_N] == wanted_N


def _as_keys(content: bytes) -> NDArray[np.bytes_]:
    return np.frombuffer(content, f"S{KEY_BYTES}")


def _consecutive(planes: Sequence[int]) -> list[range]:
    """Return the positions in `planes` of each run of consecutive planes, which one read fills."""
    starts = [s for s, plane in enumerate(planes) if s == 0 or planes[s - 1] + 1 != plane]
    return [
        range(start, end) for start, end in zip(starts, [*starts[1:], len(planes)], strict=True)
    ]
