"""Write a file of backbone states so that writing can be interrupted at any point and resumed.

The journal (`feature_extraction.store.resumable_writer`) has the spec and the digest of the texts
in its header, and the rows of a batch in each line.

N texts, S states per token, T tokens, D width.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from feature_extraction.errors import StoreError
from feature_extraction.store.resumable_writer import Blocks, Progress, ResumableWriter
from vl_lst.backbones.layers import OutputLayer
from vl_lst.backbones.states.layout import (
    ShardOfStates,
    Stack,
    TextsRecord,
    stacks_of,
    write_layout,
)
from vl_lst.backbones.states.spec import DTYPES, StackSpec, StateDtype, StateSpec
from vl_lst.backbones.states.table import MAX_TOKENS, StateTable, Texts

__all__ = ["StateWriter"]

# Upper bounds on the lines of the journal: the header, and any other, which covers a text or more.
MAX_HEADER_BYTES = 2**20
MAX_ENTRY_BYTES = 2**7


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    journal: Literal[1] = 1
    spec: StateSpec
    texts: TextsRecord
    counts: dict[Stack, int]
    blocks: Blocks


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    stack: Stack
    start: Annotated[int, Field(ge=0)]
    texts: Annotated[int, Field(ge=1)]


class StateWriter(ResumableWriter[_Header, _Entry]):
    """Writer of a file of states; resumes unfinished work on the same file.

    A context manager that locks the folder of unfinished work. Leaving the block without `finish`
    keeps that work for the next writer.

    Args:
        out: Path of the finished file.
        spec: Settings of the states.
        table: All texts, in file order; the order in which they are computed writes fastest.
        output: Output layer to keep, if the spec has one.
        shard: Which part of a larger extraction the file holds; `None` for a complete one.

    Raises:
        StoreError: Another process writes to `out`, the unfinished work has other settings or
            texts, there is not enough disk space, or the folder cannot be written. Or the texts are
            not valid: a stack has none, a text is too long, or a key occurs twice.
        ValueError: The output layer is not the one of the spec, or there are pairs and no decoder.
    """

    def __init__(
        self,
        out: Path,
        spec: StateSpec,
        table: StateTable,
        *,
        output: OutputLayer | None = None,
        shard: ShardOfStates | None = None,
    ) -> None:
        if spec.decoder is None and len(table.pairs):
            raise ValueError("the table has pairs, and the spec has no decoder")
        self._texts = stacks_of(spec, table)
        _check_table(self._texts)
        count = sum(map(len, self._texts.values()))
        super().__init__(
            out,
            _Header,
            _Entry,
            max_journal_bytes=MAX_HEADER_BYTES + MAX_ENTRY_BYTES * count,
        )
        self._spec = spec
        self._table = table
        self._record = TextsRecord(sha256=table.sha256, shard=shard)
        self._output = _output_data(spec, output)
        self._stacks: dict[Stack, StackSpec] = {"encoder": spec.encoder}
        if spec.decoder is not None:
            self._stacks["decoder"] = spec.decoder
        self._done = {stack: np.zeros(len(texts), np.bool_) for stack, texts in self._texts.items()}
        # Position of each text in the data of its stack, in bytes; the last is the end.
        self._position = {
            stack: np.concatenate(([0], np.cumsum(texts.length_N, dtype=np.int64)))
            * self._token_bytes(stack)
            for stack, texts in self._texts.items()
        }
        self._open()

    @property
    def inputs_done(self) -> NDArray[np.bool_]:
        """Which inputs are written, bool `[N]`."""
        return self._done["encoder"]

    @property
    def pairs_done(self) -> NDArray[np.bool_]:
        """Which pairs are written, bool `[N]`; empty without a decoder."""
        return self._done.get("decoder", np.zeros(0, np.bool_))

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
            ValueError: The states have another shape than the table and the spec say.
        """
        self._write("encoder", start, states, describe)

    def write_pairs(
        self,
        start: int,
        states: Sequence[Tensor],
        describe: Callable[[int], str] | None = None,
    ) -> None:
        """Write the states of consecutive pairs; see `write_inputs`."""
        self._write("decoder", start, states, describe)

    def finish(self) -> None:
        """Write the output layer and the metadata, and move the finished file to its path.

        Raises:
            StoreError: There is no space left, or texts are still pending.
        """
        blocks = self._blocks[len(self._texts) :]
        for (offset, _), data in zip(blocks, self._output, strict=True):
            self._write_data(data, offset)
        super().finish()

    def _write(
        self,
        stack: Stack,
        start: int,
        states: Sequence[Tensor],
        describe: Callable[[int], str] | None,
    ) -> None:
        spec, texts = self._stacks[stack], self._texts[stack]
        offset, _ = self._blocks[list(self._texts).index(stack)]
        for number, each in enumerate(states):
            row = start + number
            expected = (spec.planes, int(texts.length_N[row]), spec.width)
            if each.shape != expected:
                raise ValueError(
                    f"the states of text {row} of the {stack} are {list(each.shape)}, expected "
                    f"{list(expected)}"
                )
            name = describe(number) if describe else f"text {row:,} of the {stack}"
            data = _bytes_of(_convert(each, self._spec.dtype, name))
            self._write_data(data, offset + int(self._position[stack][row]))
        if states:
            self._note(_Entry(stack=stack, start=start, texts=len(states)))

    def _token_bytes(self, stack: Stack) -> int:
        spec = self._stacks[stack]
        return spec.planes * spec.width * self._spec.itemsize

    def _write_layout(self, handle: int, name: Path) -> Blocks:
        blocks = write_layout(handle, name, self._spec, self._table, self._record)
        return tuple(blocks.values())

    def _header(self, blocks: Blocks) -> _Header:
        counts = {stack: len(texts) for stack, texts in self._texts.items()}
        return _Header(spec=self._spec, texts=self._record, counts=counts, blocks=blocks)

    def _differences(self, found: _Header, wanted: _Header) -> list[str]:
        differences = found.spec.differences(wanted.spec)
        differences += [
            f"{name}: found {version}, expected {wanted.spec.packages.get(name)}"
            for name, version in found.spec.packages.items()
            if version != wanted.spec.packages.get(name)
        ]
        if found.texts.sha256 != wanted.texts.sha256:
            differences.append(
                f"texts: found {sum(found.counts.values()):,}, expected "
                f"{sum(wanted.counts.values()):,} (their tokens differ)"
            )
        elif found.texts.shard != wanted.texts.shard:
            differences.append("shard: the texts of the whole extraction have changed")
        if not differences and found != wanted:
            differences.append("the layout, which another version of HDF5 made")
        return differences

    def _apply(self, entry: _Entry) -> bool:
        done = self._done.get(entry.stack)
        if done is None or entry.start + entry.texts > len(done):
            return False
        done[entry.start : entry.start + entry.texts] = True
        return True

    def _progress(self) -> Progress:
        pending = sum(
            int(texts.length_N[~self._done[stack]].sum(dtype=np.int64)) * self._token_bytes(stack)
            for stack, texts in self._texts.items()
        )
        return Progress(
            done=sum(int(done.sum()) for done in self._done.values()),
            total=sum(map(len, self._texts.values())),
            pending_bytes=pending + sum(data.nbytes for data in self._output),
            items="texts",
            data="states",
        )

    def _how_to_fit(self) -> str:
        smaller = ", or store 16 bits (--precision bf16)" if self._spec.dtype == "float32" else ""
        return f"Free some space, choose another --out, or keep fewer layers (--layers){smaller}."


def _check_table(texts: dict[Stack, Texts]) -> None:
    for stack, each in texts.items():
        if not len(each):
            raise StoreError(f"there is no text for the {stack}: expected at least one")
        if each.length_N.min() < 1 or each.length_N.max() > MAX_TOKENS:
            raise StoreError(
                f"the texts of the {stack} have {each.length_N.min():,} to "
                f"{each.length_N.max():,} tokens, expected 1 to {MAX_TOKENS:,}"
            )
        if len(np.unique(each.keys_N, axis=0)) < len(each):
            raise StoreError(f"a text of the {stack} occurs twice: expected each once")


def _output_data(spec: StateSpec, output: OutputLayer | None) -> list[memoryview]:
    """Return the bytes of the output layer's weight and bias, as the spec has them."""
    if spec.output is None:
        return []
    if output is None:
        raise ValueError("the spec has an output layer, and none was given")
    shape = (spec.output.vocabulary_size, spec.output.width)
    if output.weight_VW.shape != shape or (output.bias_V is not None) != spec.output.has_bias:
        raise ValueError(f"the output layer is {list(output.weight_VW.shape)}, expected {shape}")
    tensors = [output.weight_VW] + ([] if output.bias_V is None else [output.bias_V])
    return [
        _bytes_of(_convert(tensor.detach(), spec.output.dtype, "the output layer"))
        for tensor in tensors
    ]


def _convert(states: Tensor, dtype: StateDtype, name: str) -> Tensor:
    """Return states in the file's type.

    Raises:
        StoreError: One is not finite.
    """
    converted = states.to("cpu", DTYPES[dtype])
    if not torch.isfinite(converted).all():
        if torch.isfinite(states).all():
            raise StoreError(
                f"a state of {name} is {states.abs().max():.3g}, expected at most "
                f"{torch.finfo(DTYPES[dtype]).max:.3g}, the largest number of {dtype}. Store "
                "bfloat16 instead (--precision bf16)."
            )
        raise StoreError(
            f"the backbone gives a state of {name} that is not finite: expected numbers. Check its "
            "weights, or choose another precision of the backbone."
        )
    return converted


def _bytes_of(tensor: Tensor) -> memoryview:
    flat: NDArray[np.uint8] = tensor.contiguous().flatten().view(torch.uint8).numpy()
    return flat.data
