"""The HDF5 layout of a file of backbone states: write it, and check a file before it is read.

    /encoder_states  [rows, width]   states of all encoder inputs, one input after another
    /encoder_key     uint8 [N, 16]   key of each input (`vl_lst.backbones.states.keys`)
    /encoder_length  int32 [N]       tokens of each input
    /decoder_...     the same for pairs of an input and an answer; missing without a decoder
    /output_weight   [V, width]      output layer of the backbone, if it is kept
    /output_bias     [V]             its bias, if it has one
    attribute `spec`                 JSON of a `StateSpec`
    attribute `texts`                JSON of a `TextsRecord`
    attribute `state_index`          in an index: see `index.py`

A text of T tokens takes `S * T` rows: the embedding of its tokens, then their states after each
kept block, then perhaps the output of the stack. So one read fills a padded batch. Texts have no
gaps, hence lengths alone tell where each begins. Values in bfloat16, which HDF5 lacks, are stored
as their bits in uint16.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import h5py
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.run_files import first_problem
from feature_extraction.errors import StoreError
from feature_extraction.store.dataset_checks import (
    check_no_user_block,
    check_stored,
    local_dataset,
)
from feature_extraction.store.hdf5_reader import FileKind
from feature_extraction.store.hdf5_text import read_text_attribute, write_text_attribute
from feature_extraction.store.hdf5_writer import check_size_limit, hdf5_in
from feature_extraction.store.layout import HDF5_FORMAT, PAGE_BYTES
from vl_lst.backbones.states.keys import KEY_BYTES
from vl_lst.backbones.states.spec import Sha256, StateDtype, StateSpec
from vl_lst.backbones.states.table import MAX_TOKENS, StateTable, Texts, expected_bytes

__all__ = [
    "STATE_FILE",
    "ShardOfStates",
    "Stack",
    "StoredLayout",
    "TextsRecord",
    "read_layout",
    "read_state_spec",
    "stacks_of",
    "write_layout",
    "write_record",
]

STATE_FILE = FileKind("state", "vl-lst extract-states --task TASK --backbone NAME --out FILE.h5")
STORED_TYPES: dict[StateDtype, Any] = {
    "float32": h5py.h5t.IEEE_F32LE,
    "bfloat16": h5py.h5t.STD_U16LE,
    "float16": h5py.h5t.IEEE_F16LE,
}
MAX_TEXTS = 2**31
MAX_SPEC_LENGTH = 2**16

Stack = Literal["encoder", "decoder"]


class ShardOfStates(BaseModel):
    """Which part of a larger extraction a file holds.

    Args:
        number: 1-based number of the shard.
        count: Number of shards.
        whole_sha256: `StateTable.sha256` of the whole extraction.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: Annotated[int, Field(ge=1)]
    count: Annotated[int, Field(ge=1)]
    whole_sha256: Sha256


class TextsRecord(BaseModel):
    """What the table of texts is checked against.

    Args:
        sha256: `StateTable.sha256` of the file's texts.
        shard: Which part of a larger extraction they are; `None` for a complete one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Sha256
    shard: ShardOfStates | None = None


@dataclass(frozen=True, slots=True)
class StoredLayout:
    """What is in a file that was checked.

    Args:
        spec: Settings of the states.
        record: Record of the texts.
        table: The texts.
        offsets: Position in the file of each dataset with data, by its name.
    """

    spec: StateSpec
    record: TextsRecord
    table: StateTable
    offsets: Mapping[str, int]


def stacks_of(spec: StateSpec, table: StateTable) -> dict[Stack, Texts]:
    """Return the texts of each stack that the backbone has."""
    stacks: dict[Stack, Texts] = {"encoder": table.inputs}
    if spec.decoder is not None:
        stacks["decoder"] = table.pairs
    return stacks


def write_layout(
    handle: int, name: Path, spec: StateSpec, table: StateTable, record: TextsRecord
) -> dict[str, tuple[int, int]]:
    """Create a file whose states are allocated but not written.

    Args:
        handle: See `feature_extraction.store.layout.write_layout`.
        name: See there.
        spec: Settings of the states.
        table: The texts.
        record: Their record.

    Returns:
        Offset and end in bytes, by name, of each dataset that is not written.

    Raises:
        OSError: The path cannot be created, or the file is larger than this process may write.
    """
    check_size_limit(expected_bytes(spec, table))
    with hdf5_in(
        handle,
        name,
        libver=HDF5_FORMAT,
        alignment_threshold=PAGE_BYTES,
        alignment_interval=PAGE_BYTES,
    ) as file:
        blocks = {
            name: _allocate(file, name, shape, dtype)
            for name, (shape, dtype) in _data(spec, table).items()
        }
        for stack, texts in stacks_of(spec, table).items():
            file.create_dataset(f"{stack}_key", data=texts.keys_N, track_times=False)
            lengths_N = texts.length_N.astype("<i4")
            file.create_dataset(f"{stack}_length", data=lengths_N, track_times=False)
        write_record(file, "spec", spec)
        write_record(file, "texts", record)
    return blocks


def write_record(file: h5py.File, name: str, record: BaseModel) -> None:
    """Write a record as an attribute."""
    write_text_attribute(file, name, record.model_dump_json())


def read_state_spec(file: h5py.File) -> StateSpec:
    """Read the attribute `spec`.

    Raises:
        StoreError: It is missing, or not a spec.
    """
    text = read_text_attribute(file, "spec", MAX_SPEC_LENGTH)
    if text is None:
        raise StoreError("the attribute 'spec' with the settings of the states is missing")
    return StateSpec.from_json(text)


def read_layout(file: h5py.File) -> StoredLayout:
    """Read everything but the states, and refuse a file that extraction did not write.

    Types, shapes and storage are examined before any data are read. A file that passes refers to no
    other file and stores all the data that it declares.

    Raises:
        StoreError: The file is refused; the message states what was found and expected.
    """
    check_no_user_block(file)
    local_dataset(file, "encoder_states")
    spec, record = read_state_spec(file), _read_texts_record(file)
    stacks: tuple[Stack, ...] = ("encoder",) if spec.decoder is None else ("encoder", "decoder")
    texts = {stack: _read_texts(file, stack) for stack in stacks}
    table = StateTable(texts["encoder"], texts.get("decoder", Texts.of(())))
    if table.sha256 != record.sha256:
        raise StoreError(
            "the table of texts differs from its digest: it is damaged. Extract the states again."
        )
    blocks = {
        name: _check_data(file, name, shape, dtype)
        for name, (shape, dtype) in _data(spec, table).items()
    }
    spans = sorted(blocks.values())
    if any(end > start for (_, end), (start, _) in zip(spans, spans[1:], strict=False)):
        raise StoreError(
            "two of its datasets overlap: expected separate ones. Extract the states again."
        )
    offsets = {name: start for name, (start, _) in blocks.items()}
    return StoredLayout(spec, record, table, offsets)


def _data(spec: StateSpec, table: StateTable) -> dict[str, tuple[tuple[int, ...], StateDtype]]:
    """Return shape and type of each dataset that is written without HDF5."""
    data: dict[str, tuple[tuple[int, ...], StateDtype]] = {}
    for name, stack, texts in (
        ("encoder_states", spec.encoder, table.inputs),
        ("decoder_states", spec.decoder, table.pairs),
    ):
        if stack is not None:
            data[name] = ((texts.tokens * stack.planes, stack.width), spec.dtype)
    if spec.output is not None:
        size, dtype = spec.output.vocabulary_size, spec.output.dtype
        data["output_weight"] = ((size, spec.output.width), dtype)
        if spec.output.has_bias:
            data["output_bias"] = ((size,), dtype)
    return data


def _allocate(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: StateDtype
) -> tuple[int, int]:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.h5d.create(file.id, name.encode(), STORED_TYPES[dtype], space, properties)
    return _span(dataset)


def _span(dataset: h5py.h5d.DatasetID) -> tuple[int, int]:
    """Return offset and end in bytes of a contiguous dataset."""
    offset = dataset.get_offset()
    if offset is None:
        raise StoreError(f"{dataset.name.decode()} was never written")
    size = int(np.prod(dataset.shape, dtype=object)) * dataset.get_type().get_size()
    return int(offset), int(offset) + size


def _check_data(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: StateDtype
) -> tuple[int, int]:
    dataset = local_dataset(file, name)
    if dataset.shape != shape or not dataset.id.get_type().equal(STORED_TYPES[dtype]):
        raise StoreError(
            f"/{name} is {dataset.dtype} {dataset.shape}, expected {dtype} {shape}"
            f"{' as bits in uint16' if dtype == 'bfloat16' else ''}"
        )
    if dataset.chunks is not None:
        raise StoreError(f"/{name} is stored in chunks, expected one block")
    check_stored(dataset)
    offset, end = _span(dataset.id)
    if end > file.id.get_filesize():
        raise StoreError(f"/{name} extends beyond the end of the file; the file was truncated")
    return offset, end


def _read_texts(file: h5py.File, stack: Stack) -> Texts:
    keys = local_dataset(file, f"{stack}_key")
    lengths = local_dataset(file, f"{stack}_length")
    count = keys.shape[0] if keys.ndim else 0
    for dataset, shape, dtype in (
        (keys, (count, KEY_BYTES), np.dtype("u1")),
        (lengths, (count,), np.dtype("<i4")),
    ):
        if dataset.shape != shape or dataset.dtype != dtype or not 1 <= count <= MAX_TEXTS:
            raise StoreError(
                f"{dataset.name} is {dataset.dtype} {dataset.shape}, expected {dtype} {shape} with "
                "at least one text"
            )
        if dataset.id.get_create_plist().get_nfilters():
            raise StoreError(f"{dataset.name} is compressed, expected plain storage")
        check_stored(dataset)
    texts = Texts(keys[:], lengths[:])
    if not (texts.length_N.min() >= 1 and texts.length_N.max() <= MAX_TOKENS):
        raise StoreError(
            f"/{stack}_length has values from {texts.length_N.min():,} to "
            f"{texts.length_N.max():,}, expected 1 to {MAX_TOKENS:,}"
        )
    return texts


def _read_texts_record(file: h5py.File) -> TextsRecord:
    text = read_text_attribute(file, "texts", MAX_SPEC_LENGTH)
    if text is None:
        raise StoreError("the attribute 'texts' is missing; the file is damaged or of another kind")
    try:
        return TextsRecord.model_validate_json(text)
    except ValidationError as error:
        raise StoreError(
            f"the attribute 'texts' cannot be read: {first_problem(error)}. Extract the states "
            "again."
        ) from None
