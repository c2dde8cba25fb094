"""An index: one HDF5 file that joins several stores without copying their features.

    attribute `index`    JSON: name and number of images of each file, in order
    /features            virtual float16 [images, tokens, channels] for other programs
    everything else      as in any store (`feature_extraction.store.layout`), for all images

The files are in the folder of the index or below, and their names are relative to it, so that the
folder can be moved. This package never opens the virtual dataset: HDF5 returns NaN for missing
files, and a damaged description of such a dataset can crash the process.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.run_files import first_problem
from feature_extraction.errors import StoreError
from feature_extraction.store.hdf5_text import read_text_attribute, write_text_attribute
from feature_extraction.store.hdf5_writer import hdf5_bytes
from feature_extraction.store.image_table import read_image_ids
from feature_extraction.store.layout import (
    HDF5_FORMAT,
    INDEX_ATTRIBUTE,
    MAX_IMAGES,
    Metadata,
    check_table,
    write_metadata,
)

# V tokens, C channels

__all__ = ["IndexEntry", "check_entry_name", "read_index", "write_index"]

FEATURES = "features"
MAX_FILES = 2**16
MAX_NAME_LENGTH = 1024
MAX_RECORD_LENGTH = 2**26


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One of the files that an index joins.

    Args:
        name: Path relative to the folder of the index, with forward slashes.
        image_ids: Ids of its images, in order.
        status: uint8 `[images]`; values of `Status`.
    """

    name: str
    image_ids: tuple[str, ...]
    status: NDArray[np.uint8]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    images: Annotated[int, Field(ge=1, le=MAX_IMAGES)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    files: Annotated[list[_File], Field(min_length=1, max_length=MAX_FILES)]


def write_index(path: Path, files: Mapping[str, int], metadata: Metadata) -> None:
    """Write an index.

    Args:
        path: File to create.
        files: Number of images by name for each file to join, in order.
        metadata: Metadata of all images.

    Raises:
        StoreError: `read_index` would refuse the name of a file.
        OSError: The file cannot be written.
    """
    shape_VC = (metadata.spec.tokens, metadata.spec.channels)
    whole = h5py.h5s.create_simple((len(metadata.image_ids), *shape_VC))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    properties.set_fill_value(np.array(np.nan, "<f2"))
    start = 0
    for name, rows in files.items():
        check_entry_name(name)
        whole.select_hyperslab((start, 0, 0), (rows, *shape_VC))
        source = h5py.h5s.create_simple((rows, *shape_VC))
        # Select explicitly: with an implicit "all" the file would not record the shape.
        source.select_hyperslab((0, 0, 0), (rows, *shape_VC))
        properties.set_virtual(whole, name.encode(), f"/{FEATURES}".encode(), source)
        start += rows
    whole.select_all()
    record = _Record(files=[_File(name=name, images=rows) for name, rows in files.items()])

    def fill(file: h5py.File) -> None:
        h5py.h5d.create(file.id, FEATURES.encode(), h5py.h5t.IEEE_F16LE, whole, properties)
        write_metadata(file, metadata)
        write_text_attribute(file, INDEX_ATTRIBUTE, record.model_dump_json())

    path.write_bytes(hdf5_bytes(fill, libver=HDF5_FORMAT))


def read_index(file: h5py.File) -> list[IndexEntry] | None:
    """Return the entries of an index; `None` if the file is not an index.

    Everything is checked before it is read. Neither other files nor the virtual dataset are opened.

    Raises:
        StoreError: The index is damaged, or was not written by `write_index`.
    """
    text = read_text_attribute(file, INDEX_ATTRIBUTE, MAX_RECORD_LENGTH)
    if text is None:
        return None
    try:
        record = _Record.model_validate_json(text)
    except ValidationError as error:
        raise StoreError(
            f"the attribute {INDEX_ATTRIBUTE!r} cannot be read: {first_problem(error)}. Join the "
            "files again."
        ) from None
    for each in record.files:
        check_entry_name(each.name)
    check_table(file, sum(each.images for each in record.files))
    image_ids, status = read_image_ids(file), file["status"][:]
    entries, start = [], 0
    for each in record.files:
        rows = slice(start, start + each.images)
        entries.append(IndexEntry(each.name, image_ids[rows], status[rows]))
        start += each.images
    return entries


def check_entry_name(name: str) -> None:
    """Refuse the name of a file that is not in the folder of the index or below.

    Raises:
        StoreError: The name is absolute, contains `..` or `%`, or is not a plain name.
    """
    parts = name.split("/")
    if (
        not 1 <= len(name) <= MAX_NAME_LENGTH
        or PurePosixPath(name).is_absolute()
        or not {"", ".", ".."}.isdisjoint(parts)
        # HDF5 expands % sequences in file names.
        or any(character in "%\\" or not character.isprintable() for character in name)
    ):
        raise StoreError(
            f"the index lists the file {name[:MAX_NAME_LENGTH]!r}, expected a relative path "
            "in the folder of the index or below, without '..' or '%'; refused"
        )
