"""An index: one HDF5 file that joins several stores without copying their features.

    attribute `index`    JSON: the name of each file and how many images it lists, in their order
    /features            virtual float16 [images, tokens, channels] over theirs, for other programs
    the rest             as in any store (`feature_extraction.store.layout`), for all images

The files are named relative to the index, in its folder or below, so that the folder can be moved.
The virtual dataset is never opened here: HDF5 reads NaN where a file is missing, and where the
description of such a dataset is damaged it may end the process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feature_extraction.errors import StoreError
from feature_extraction.spec import FeatureSpec
from feature_extraction.store.hdf5_writer import hdf5_bytes
from feature_extraction.store.layout import (
    HDF5_FORMAT,
    INDEX_ATTRIBUTE,
    MOST_IMAGES,
    check_table,
    write_table,
)
from feature_extraction.store.table import read_image_ids
from feature_extraction.store.texts import read_text, write_text

# V tokens, C channels

__all__ = ["IndexEntry", "check_entry_name", "read_index", "write_index"]

FEATURES = "features"
MOST_FILES = 2**16
LONGEST_NAME = 1024
LONGEST_RECORD = 2**26


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One of the files an index joins.

    Args:
        name: The file, relative to the folder of the index, with forward slashes.
        image_ids: Its images, in order.
        status: uint8 `[images]`, what became of each.
    """

    name: str
    image_ids: tuple[str, ...]
    status: NDArray[np.uint8]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    images: Annotated[int, Field(ge=1, le=MOST_IMAGES)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    files: Annotated[list[_File], Field(min_length=1, max_length=MOST_FILES)]


def write_index(
    path: Path,
    spec: FeatureSpec,
    entries: Sequence[IndexEntry],
    image_size: NDArray[np.int32],
    reasons: Sequence[str],
) -> None:
    """Write an index.

    Args:
        path: The file to create.
        spec: How the features of all entries are made.
        entries: The files, in the order in which their images follow each other.
        image_size: int32 `[images, 2]`, height and width of all images.
        reasons: Why each image failed; empty for those that did not.

    Raises:
        StoreError: A name is not one that `read_index` accepts.
        OSError: The file cannot be written.
    """
    image_ids = [image_id for entry in entries for image_id in entry.image_ids]
    shape_VC = (spec.tokens, spec.channels)
    whole = h5py.h5s.create_simple((len(image_ids), *shape_VC))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    properties.set_fill_value(np.array(np.nan, "<f2"))
    start = 0
    for entry in entries:
        check_entry_name(entry.name)
        rows = len(entry.image_ids)
        whole.select_hyperslab((start, 0, 0), (rows, *shape_VC))
        source = h5py.h5s.create_simple((rows, *shape_VC))
        # Selected explicitly: of an implicit "all" the file would not keep the shape.
        source.select_hyperslab((0, 0, 0), (rows, *shape_VC))
        properties.set_virtual(whole, entry.name.encode(), f"/{FEATURES}".encode(), source)
        start += rows
    whole.select_all()
    status = np.concatenate([entry.status for entry in entries])
    files = [_File(name=entry.name, images=len(entry.image_ids)) for entry in entries]

    def fill(file: h5py.File) -> None:
        h5py.h5d.create(file.id, FEATURES.encode(), h5py.h5t.IEEE_F16LE, whole, properties)
        write_table(file, spec, image_ids, status, image_size, reasons)
        write_text(file, INDEX_ATTRIBUTE, _Record(files=files).model_dump_json())

    path.write_bytes(hdf5_bytes(fill, libver=HDF5_FORMAT))


def read_index(file: h5py.File) -> list[IndexEntry] | None:
    """Read which files an index joins; `None` where the file is not an index.

    Everything is checked before it is read, no other file is touched, nor the virtual dataset.

    Raises:
        StoreError: It is an index, but not such as `write_index` makes.
    """
    text = read_text(file, INDEX_ATTRIBUTE, LONGEST_RECORD)
    if text is None:
        return None
    try:
        record = _Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or INDEX_ATTRIBUTE
        raise StoreError(
            f"the attribute {INDEX_ATTRIBUTE!r} is not one this program reads: {where}: "
            f"{first['msg']}. Join the files again."
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
    """Refuse the name of a file that does not lie in the folder of the index or below.

    Raises:
        StoreError: With the name and what is wrong with it.
    """
    parts = name.split("/")
    if (
        not 1 <= len(name) <= LONGEST_NAME
        or PurePosixPath(name).is_absolute()
        or not {"", ".", ".."}.isdisjoint(parts)
        # HDF5 would replace a percent sign and what follows it.
        or any(character in "%\\" or not character.isprintable() for character in name)
    ):
        raise StoreError(
            f"the index joins the file {name[:LONGEST_NAME]!r}, expected a plain name in its own "
            "folder or below (no '..', no '%', not absolute); refused"
        )
