"""Open a file of backbone states, or an index of several.

V vocabulary, W width of the decoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_extraction.errors import StoreError
from feature_extraction.store.hdf5_reader import open_hdf5
from feature_extraction.store.stamped_file import stamp_of
from vl_lst.backbones.layers import OutputLayer
from vl_lst.backbones.states.index import IndexOfStates, read_state_index
from vl_lst.backbones.states.layout import (
    STATE_FILE,
    Stack,
    StoredLayout,
    read_layout,
    stacks_of,
)
from vl_lst.backbones.states.spec import DTYPES, StateDtype, StateSpec
from vl_lst.backbones.states.stack_reader import (
    PaddedStates,
    ReopenedFile,
    StackPart,
    StackReader,
)

__all__ = ["PaddedStates", "StackReader", "StateReader"]


@dataclass(frozen=True, slots=True)
class _File:
    file: ReopenedFile
    layout: StoredLayout


class StateReader:
    """The states of a backbone in one file, or in the files that an index joins.

    Safe in forked and spawned workers: each process opens a file at its first read.

    Args:
        path: The file, or an index made by `vl_lst.backbones.states.index.join_states`.

    Raises:
        StoreError: There is no such file, it is damaged, or it holds no states.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        """The file, or the index."""
        with open_hdf5(self.path, STATE_FILE) as file:
            index = read_state_index(file)
        if index is None:
            self._files = [_open_file(self.path)]
        else:
            self._files = _open_indexed(self.path, index)
        first = self._files[0].layout
        self.spec: StateSpec = first.spec
        """Settings of the states."""
        self.texts_sha256 = first.record.sha256 if index is None else index.whole_sha256
        """Digest of all texts: `StateTable.sha256`."""
        self.encoder = self._stack("encoder")
        """The states of encoder inputs."""
        self.decoder = None if self.spec.decoder is None else self._stack("decoder")
        """The states of pairs of an encoder input and an answer; `None` without a decoder."""

    @property
    def files(self) -> Sequence[Path]:
        """The files that hold the states."""
        return [each.file.path for each in self._files]

    def output_layer(self) -> OutputLayer | None:
        """Return weight and bias of the output layer; `None` if they are not kept.

        Its scale and bound are those of the backbone's configuration, and are not in the file.

        Raises:
            StoreError: The file can no longer be read.
        """
        spec = self.spec.output
        if spec is None:
            return None
        rows, dtype = (spec.vocabulary_size,), spec.dtype
        return OutputLayer(
            weight_VW=self._read("output_weight", (*rows, spec.width), dtype),
            bias_V=self._read("output_bias", rows, dtype) if spec.has_bias else None,
        )

    def close(self) -> None:
        """Close this process's handles; the next read opens them again."""
        for each in self._files:
            each.file.close()

    def _stack(self, stack: Stack) -> StackReader:
        spec = self.spec.encoder if stack == "encoder" else self.spec.decoder
        assert spec is not None
        parts = [
            StackPart(
                each.file,
                each.layout.offsets[f"{stack}_states"],
                stacks_of(each.layout.spec, each.layout.table)[stack],
            )
            for each in self._files
        ]
        return StackReader(stack, spec, self.spec.dtype, parts, str(self.path))

    def _read(self, name: str, shape: tuple[int, ...], dtype: StateDtype) -> Tensor:
        values = torch.empty(shape, dtype=DTYPES[dtype])
        target: NDArray[Any] = values.view(torch.uint8).numpy()
        first = self._files[0]
        first.file.fetch(first.layout.offsets[name], [target])
        return values


def _open_file(path: Path) -> _File:
    with open_hdf5(path, STATE_FILE) as file:
        # Taken from the path, not from the open file, to notice a file that was replaced meanwhile.
        stamp = stamp_of(path)
        layout = read_layout(file)
    return _File(ReopenedFile(path, stamp), layout)


def _open_indexed(path: Path, index: IndexOfStates) -> list[_File]:
    """Open the files of an index, and check that they have not changed since it was made."""
    files = []
    for entry in index.files:
        try:
            file = _open_file(path.parent / entry.name)
        except StoreError as error:
            reason = str(error).rstrip(".")
            raise StoreError(
                f"{path} is an index, and one of the files it joins cannot be used: {reason}. Keep "
                "joined files in the folder of their index when you move it."
            ) from None
        differences = file.layout.spec.differences(index.spec)
        if file.layout.record.sha256 != entry.sha256:
            differences.append("it holds other texts")
        if differences:
            raise StoreError(
                f"{file.file.path} has changed since {path} was made ({'; '.join(differences)}). "
                "Join the files again."
            )
        files.append(file)
    return files
