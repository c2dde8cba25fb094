"""Damaged and hostile files of states: reading them returns values or raises an error."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from plain_states import INPUTS, TABLE, input_states, write_states
from random_damage import require_values_or_errors

from feature_extraction.errors import StoreError
from vl_lst.backbones.states.reader import StateReader
from vl_lst.backbones.states.table import StateTable, Texts

TRIALS = 90
READ = """
from vl_lst.backbones.states.reader import StateReader

keys = StateReader(Path(sys.argv[1])).encoder._key_N.tolist()

def read(path):
    reader = StateReader(path)
    reader.encoder.read(keys)
    reader.output_layer()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as on Linux")
def test_random_damage_gives_values_or_an_error(tmp_path: Path) -> None:
    require_values_or_errors(write_states(tmp_path / "states.h5"), READ, TRIALS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_states(tmp_path / "states.h5")


def replaced(name: str, data: object, **options: object) -> Callable[[h5py.File], None]:
    """Return a change that writes other data in the place of a dataset."""

    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, data=data, **options)

    return change


def attribute(name: str, old: str, new: str) -> Callable[[h5py.File], None]:
    """Return a change of a part of an attribute."""

    def change(file: h5py.File) -> None:
        text = file.attrs[name]
        text = text.decode() if isinstance(text, bytes) else text
        assert old in text
        file.attrs[name] = text.replace(old, new)

    return change


def external_link(file: h5py.File) -> None:
    del file["encoder_states"]
    file["encoder_states"] = h5py.ExternalLink("/etc/passwd", "/x")


def external_storage(file: h5py.File) -> None:
    shape = file["encoder_states"].shape
    del file["encoder_states"]
    file.create_dataset("encoder_states", shape, "<f4", external=[("/etc/passwd", 0, 9999)])


def virtual(file: h5py.File) -> None:
    shape = file["encoder_states"].shape
    del file["encoder_states"]
    layout = h5py.VirtualLayout(shape, "<f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape)
    file.create_virtual_dataset("encoder_states", layout)


def references(file: h5py.File) -> None:
    shape = file["encoder_states"].shape
    del file["encoder_states"]
    file.create_dataset("encoder_states", shape, h5py.ref_dtype)


def absurd(file: h5py.File) -> None:
    """Declare many texts without storing them."""
    for name, shape, kind in (
        ("encoder_key", (2**30, 16), h5py.h5t.STD_U8LE),
        ("encoder_length", (2**30,), h5py.h5t.STD_I32LE),
    ):
        del file[name]
        h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(shape))


def never_written(file: h5py.File) -> None:
    shape = file["encoder_states"].shape
    del file["encoder_states"]
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, b"encoder_states", h5py.h5t.IEEE_F32LE, space)


STATES = np.zeros((65, 6), np.float32)
CHANGES = [
    (external_link, "ExternalLink, expected data in the file itself"),
    (external_storage, "keeps its data in other files"),
    (virtual, "virtual dataset"),
    (references, "references or objects"),
    (absurd, "the file is incomplete"),
    (never_written, "the file is incomplete"),
    (lambda file: file.pop("encoder_states"), "/encoder_states is missing"),
    (lambda file: file.pop("output_weight"), "/output_weight is missing"),
    (lambda file: file.attrs.pop("spec"), "'spec' with the settings of the states is missing"),
    (lambda file: file.attrs.pop("texts"), "'texts' is missing"),
    (replaced("encoder_states", STATES.astype("<f2")), "is float16 .* expected float32"),
    (replaced("encoder_states", STATES[:60]), r"expected float32 \(65, 6\)"),
    (replaced("encoder_states", STATES, chunks=(5, 6)), "stored in chunks"),
    (replaced("encoder_key", TABLE.inputs.keys_N[:3]), r"expected int32 \(3,\)"),
    (replaced("encoder_key", TABLE.inputs.keys_N[:, :8].copy()), r"expected uint8 \(4, 16\)"),
    (replaced("encoder_key", np.zeros((4, 16), np.uint8)), "differs from its digest"),
    (replaced("encoder_key", np.array(["a"] * 4, "S4")), "expected uint8"),
    (replaced("encoder_length", np.array([5, -3, 1, 4], "<i4")), "values from -3 to 5"),
    (replaced("encoder_length", np.array([0, 3, 1, 4], "<i4")), "values from 0 to 4"),
    (replaced("encoder_length", np.array([2**30, 3, 1, 4], "<i4")), "expected 1 to 65,536"),
    (replaced("encoder_length", np.array([5, 3, 2, 4], "<i4")), "differs from its digest"),
    (replaced("encoder_length", np.array([5, 3, 1, 4], "<i8")), "expected int32"),
    (
        replaced("encoder_length", np.array([5, 3, 1, 4], "<i4"), compression="gzip", chunks=(4,)),
        "is compressed",
    ),
    (attribute("spec", '"width":6', '"width":100000000'), "width"),
    (attribute("spec", '"width":6', '"width":7'), r"expected float32 \(65, 7\)"),
    (attribute("spec", "[0,2,3]", "[0,2,3,4]"), r"expected float32 \(78, 6\)"),
    (attribute("spec", '"dtype":"float32"', '"dtype":"bfloat16"'), "as bits in uint16"),
    (attribute("texts", TABLE.sha256, "0" * 64), "differs from its digest"),
    (lambda file: file.attrs.create("spec", "x" * 2**17), "characters, expected at most"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_files_that_extraction_does_not_write_are_refused(
    path: Path, change: Callable[[h5py.File], object], message: str
) -> None:
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(StoreError, match=message):
        StateReader(path)


def test_datasets_that_overlap_are_refused(path: Path, tmp_path: Path) -> None:
    # An early version of the format, in which places have no checksum.
    with (
        h5py.File(path, "r") as source,
        h5py.File(tmp_path / "early.h5", "w", libver=("earliest", "v108")) as target,
    ):
        for name in source:
            target.create_dataset(name, data=source[name][()])
        for name, text in source.attrs.items():
            target.attrs[name] = text
    StateReader(tmp_path / "early.h5")
    with h5py.File(tmp_path / "early.h5", "r") as file:
        first, second = (
            file[name].id.get_offset().to_bytes(8, "little")
            for name in ("encoder_states", "decoder_states")
        )
    content = (tmp_path / "early.h5").read_bytes()
    assert content.count(second) == 1
    (tmp_path / "early.h5").write_bytes(content.replace(second, first))
    with pytest.raises(StoreError, match="two of its datasets overlap"):
        StateReader(tmp_path / "early.h5")


def test_a_key_that_occurs_twice_is_refused(path: Path) -> None:
    """With a digest that fits, as in a file made to deceive."""
    keys_N = TABLE.inputs.keys_N.copy()
    keys_N[1] = keys_N[0]
    table = StateTable(Texts(keys_N, TABLE.inputs.length_N), TABLE.pairs)
    with h5py.File(path, "r+") as file:
        replaced("encoder_key", keys_N)(file)
        attribute("texts", TABLE.sha256, table.sha256)(file)
    with pytest.raises(StoreError, match="1 texts of the encoder occur more than once"):
        StateReader(path)


@pytest.mark.parametrize("kept", [0, 100, 5000, -1])
def test_a_truncated_file_is_refused(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StoreError, match="cannot be read as an HDF5 state store"):
        StateReader(path)


def test_a_file_that_changes_after_it_was_opened_is_noticed(path: Path) -> None:
    unread, reader = StateReader(path), StateReader(path)
    reader.encoder.read(INPUTS)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content + b"more")
    with pytest.raises(StoreError, match="was replaced or changed"):
        unread.encoder.read(INPUTS)
    assert torch.equal(reader.encoder.read(INPUTS[:1]).embedding_NTD[0], input_states(0)[0])


def test_a_file_truncated_while_in_use_is_noticed(path: Path) -> None:
    reader = StateReader(path)
    reader.encoder.read(INPUTS)
    with h5py.File(path, "r") as file:
        offset = file["encoder_states"].id.get_offset()
    os.truncate(path, offset + 100)
    with pytest.raises(StoreError, match="truncated while in use"):
        reader.encoder.read(INPUTS)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="state file .* does not exist. Make it with vl-lst extra"):
        StateReader(tmp_path / "states.h5")
    (tmp_path / "text.h5").write_text("some text")
    with pytest.raises(StoreError, match="another kind of file.*extract the states again"):
        StateReader(tmp_path / "text.h5")
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file["features"] = np.zeros(3)
    with pytest.raises(StoreError, match="/encoder_states is missing; the file is damaged or of"):
        StateReader(tmp_path / "features.h5")
