"""An index: a small HDF5 file that joins the shards of one extraction of states.

The attribute `state_index` is its only content. The files are in the folder of the index or below,
and their names are relative to it, so that the folder can be moved.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import h5py
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.run_files import first_problem
from feature_extraction.errors import StoreError
from feature_extraction.names import abbreviate
from feature_extraction.store.hdf5_reader import open_hdf5
from feature_extraction.store.hdf5_text import read_text_attribute
from feature_extraction.store.hdf5_writer import hdf5_bytes
from feature_extraction.store.index import check_entry_name
from feature_extraction.store.layout import HDF5_FORMAT
from feature_extraction.store.outputs import atomic_output, check_output_file
from vl_lst.backbones.states.layout import (
    STATE_FILE,
    StoredLayout,
    read_layout,
    write_record,
)
from vl_lst.backbones.states.spec import Sha256, StateSpec
from vl_lst.backbones.states.table import StateTable, concatenate

__all__ = ["IndexOfStates", "join_states", "read_state_index"]

STATE_INDEX = "state_index"
MAX_FILES = 2**12
MAX_RECORD_LENGTH = 2**22


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sha256: Sha256


class IndexOfStates(BaseModel):
    """The files that an index joins.

    Args:
        spec: Settings of the states of all files.
        files: Name and `TextsRecord.sha256` of each file, in order.
        whole_sha256: `StateTable.sha256` of all texts.
        version: Version of this schema.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    spec: StateSpec
    files: Annotated[tuple[_File, ...], Field(min_length=1, max_length=MAX_FILES)]
    whole_sha256: Sha256
    version: Literal[1] = 1


def read_state_index(file: h5py.File) -> IndexOfStates | None:
    """Return what an index joins; `None` if the file is not an index.

    Raises:
        StoreError: The index is damaged, or lists a file outside its folder.
    """
    text = read_text_attribute(file, STATE_INDEX, MAX_RECORD_LENGTH)
    if text is None:
        return None
    try:
        index = IndexOfStates.model_validate_json(text)
    except ValidationError as error:
        raise StoreError(
            f"the attribute {STATE_INDEX!r} cannot be read: {first_problem(error)}. Join the files "
            "again."
        ) from None
    for each in index.files:
        check_entry_name(each.name)
    return index


def join_states(paths: Sequence[Path], out: Path) -> None:
    """Join the shards of one extraction; the states stay in their files.

    Args:
        paths: All shards, in any order, in the folder of `out` or below.
        out: Index to create; an existing index is replaced.

    Raises:
        StoreError: A shard is missing or damaged, or belongs to another extraction; or `out` cannot
            be written.
    """
    if not paths:
        raise StoreError("no file to join was given")
    check_output_file(out)
    layouts: dict[Path, StoredLayout] = {}
    for path in paths:
        with open_hdf5(path, STATE_FILE) as file:
            layouts[path] = read_layout(file)
    ordered = _in_order(layouts)
    first = layouts[ordered[0]]
    folder = out.absolute().parent
    entries = []
    for path in ordered:
        if not path.absolute().is_relative_to(folder):
            raise StoreError(
                f"{path} is not in {folder}, the folder of the index, or below it: expected it "
                "there, so that the folder can be moved. Move it, or choose another --out."
            )
        name = path.absolute().relative_to(folder).as_posix()
        check_entry_name(name)
        entries.append(_File(name=name, sha256=layouts[path].record.sha256))
    assert first.record.shard is not None
    index = IndexOfStates(
        spec=first.spec, files=tuple(entries), whole_sha256=first.record.shard.whole_sha256
    )
    if out.exists() and not _is_index(out):
        raise StoreError(
            f"{out} exists and is not an index of states; only an index is replaced. Remove it if "
            "it is not needed, or choose another --out."
        )
    with atomic_output(out) as temporary:
        content = hdf5_bytes(
            lambda file: write_record(file, STATE_INDEX, index), libver=HDF5_FORMAT
        )
        temporary.write_bytes(content)


def _in_order(layouts: dict[Path, StoredLayout]) -> list[Path]:
    """Return the shards by number, after checking that they are all of one extraction."""
    (first_path, first), *_ = layouts.items()
    numbers: dict[int, Path] = {}
    for path, layout in layouts.items():
        shard, expected = layout.record.shard, first.record.shard
        if shard is None or expected is None:
            raise StoreError(
                f"{path if shard is None else first_path} is not a shard: expected the shards of "
                "one extraction, made with --shard"
            )
        differences = layout.spec.differences(first.spec)
        if (shard.count, shard.whole_sha256) != (expected.count, expected.whole_sha256):
            differences.append("it is a part of other texts")
        if differences:
            raise StoreError(
                f"{path} and {first_path} belong to different extractions "
                f"({'; '.join(differences)}). Extract all shards with the same settings."
            )
        if shard.number in numbers:
            raise StoreError(
                f"{path} and {numbers[shard.number]} are both shard {shard.number}; pass each once"
            )
        numbers[shard.number] = path
    assert first.record.shard is not None
    count = first.record.shard.count
    missing = sorted(set(range(1, count + 1)) - set(numbers))
    if missing:
        raise StoreError(
            f"{len(missing)} of {count} shards are missing: {abbreviate(list(map(str, missing)))}. "
            "Pass all of them, after each has been extracted."
        )
    ordered = [numbers[number] for number in sorted(numbers)]
    tables = [layouts[path].table for path in ordered]
    whole = StateTable(
        concatenate([table.inputs for table in tables]),
        concatenate([table.pairs for table in tables]),
    )
    if whole.sha256 != first.record.shard.whole_sha256:
        raise StoreError(
            "the shards do not hold the texts of the whole extraction: some are missing or do not "
            "belong to them. Extract the shards again."
        )
    return ordered


def _is_index(path: Path) -> bool:
    try:
        with open_hdf5(path, STATE_FILE) as file:
            return read_state_index(file) is not None
    except StoreError:
        return False
