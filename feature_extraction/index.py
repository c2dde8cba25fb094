"""An index: one HDF5 file that joins several stores without copying their features.

    /features    virtual float16 [images, tokens, channels] over the `/features` of the joined files
    the rest     as in any store (`feature_extraction.layout`), for all images

The files are named relative to the index, in its folder or below, so that the folder can be moved.
Where one of them is missing, HDF5 itself reads NaN; `open_features` never gets that far.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.disk import hdf5_errors_as_os_errors
from feature_extraction.errors import StoreError
from feature_extraction.layout import (
    HDF5_FORMAT,
    check_features_shape,
    check_table,
    own_dataset,
    write_table,
)
from feature_extraction.spec import FeatureSpec
from feature_extraction.table import read_image_ids

# V tokens, C channels

__all__ = ["IndexEntry", "check_entry_name", "read_index", "write_index"]

FEATURES = "features"
MOST_FILES = 2**16
LONGEST_NAME = 1024


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
    with hdf5_errors_as_os_errors(), h5py.File(path, "w", libver=HDF5_FORMAT) as file:
        whole.select_all()
        h5py.h5d.create(file.id, FEATURES.encode(), h5py.h5t.IEEE_F16LE, whole, properties)
        status = np.concatenate([entry.status for entry in entries])
        write_table(file, spec, image_ids, status, image_size, reasons)


def read_index(file: h5py.File) -> list[IndexEntry] | None:
    """Read which files an index joins; `None` where the file is not an index.

    Everything is checked before it is read, and no other file is touched.

    Raises:
        StoreError: It is an index, but not such as `write_index` makes.
    """
    if FEATURES not in set(file) or not isinstance(file.get(FEATURES, getlink=True), h5py.HardLink):
        return None
    if not isinstance(file[FEATURES], h5py.Dataset) or not file[FEATURES].is_virtual:
        return None
    features = own_dataset(file, FEATURES, may_be_virtual=True)
    properties = features.id.get_create_plist()
    count = properties.get_virtual_count()
    if not 1 <= count <= MOST_FILES:
        raise StoreError(f"the index joins {count:,} files, expected 1 to {MOST_FILES:,}")
    spans = [_span(properties, number) for number in range(count)]
    # The shape is asked for last: of a dataset without limits HDF5 would open the files for it.
    check_features_shape(features)
    images, *shape_VC = features.shape
    stop = 0
    for first, last in spans:
        if first != [stop, 0, 0] or last[1:] != [size - 1 for size in shape_VC]:
            raise StoreError(
                f"the index joins the images {first[0]} to {last[0]} where {stop} should come "
                "next, expected whole files one after the other"
            )
        stop = last[0] + 1
    if stop != images:
        raise StoreError(f"the index joins {stop:,} images and declares {images:,}")
    check_table(file, images)
    image_ids = read_image_ids(file)
    status = file["status"][:]
    entries = []
    for number, (first, last) in enumerate(spans):
        rows = slice(first[0], last[0] + 1)
        name = properties.get_virtual_filename(number)
        entries.append(IndexEntry(name, image_ids[rows], status[rows]))
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


def _span(properties: Any, number: int) -> tuple[list[int], list[int]]:
    """Check one mapping; return its first and last place in the virtual dataset."""
    check_entry_name(properties.get_virtual_filename(number))
    dataset = properties.get_virtual_dsetname(number)
    if dataset.removeprefix("/") != FEATURES:
        raise StoreError(f"the index joins the dataset {dataset[:80]!r}, expected /{FEATURES}")
    bounds = []
    for space in (properties.get_virtual_vspace(number), properties.get_virtual_srcspace(number)):
        if space.get_simple_extent_ndims() != 3:
            raise StoreError("the index joins features of other than three dimensions")
        first, last = (list(map(int, corner)) for corner in space.get_select_bounds())
        box = [end - begin + 1 for begin, end in zip(first, last, strict=True)]
        if space.get_select_npoints() != np.prod(box, dtype=object) or min(box) < 1:
            raise StoreError("the index joins parts of files, expected whole ones")
        bounds.append((first, last, box))
    (first, last, box), (source_first, _, source_box) = bounds
    if source_first != [0, 0, 0] or source_box != box:
        raise StoreError("the index joins parts of files, expected whole ones")
    return first, last
