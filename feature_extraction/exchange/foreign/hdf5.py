"""Features in HDF5 files of other programs: checked before they are read, links not followed."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5l
from numpy.typing import NDArray

from feature_extraction.errors import FeatureFileError, StoreError
from feature_extraction.exchange.foreign.feature_file import (
    DAMAGE_ERRORS,
    FEATURES,
    HOLDS_MANY_IMAGES,
    ID_NAMES,
    UNKNOWN_SIZE,
    FeatureFile,
    StoredArray,
    describe_damage,
    find_rows_name,
    parse_token_shape,
    refusal,
)
from feature_extraction.store.hdf5_text import read_rows_of_text
from feature_extraction.store.layout import PAGE_BYTES

__all__ = ["HDF5_SUFFIXES", "Entries", "check_rows", "list_hdf5", "open_image", "read_names"]

HDF5_SUFFIXES = (".h5", ".hdf5")
BUILT_IN_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_LZF,
}
MAX_EXPANSION = 2
MAX_CHUNK_BYTES = 2**26
MAX_SIDE = 2**31 - 1
MAX_DEPTH = 8


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of a file with one entry per image.

    Args:
        names: Names of the entries.
        are_groups: Whether the entries are groups that contain the features, or datasets.
    """

    names: list[str]
    are_groups: bool


def list_hdf5(path: Path) -> Entries | None:
    """List the images of a file with one group or dataset per image.

    Returns:
        The entries; `None` if the file has one row per image and a list of names instead.

    Raises:
        StoreError: The file is not HDF5, or is a feature store of this program.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            names, attributes = _names_in(path, file), set(file.attrs)
            if find_rows_name(names) is None and (
                FEATURES not in names or _has_group(file, FEATURES)
            ):
                return _list_entries(file, names)
    except PermissionError as error:
        raise StoreError(describe_damage(path, error)) from None
    except DAMAGE_ERRORS as error:
        raise StoreError(f"{path} cannot be read as HDF5 ({error}): it is damaged") from None
    if "spec" not in attributes and find_rows_name(names):
        return None
    raise StoreError(
        f"{path} is already a feature store, or its rows have no names: expected /{FEATURES} and "
        f"image names in one of {', '.join(ID_NAMES[:5])}"
    )


def _names_in(path: Path, group: h5py.Group) -> list[str]:
    """Return the names of a group's entries.

    Raises:
        StoreError: A name is not UTF-8; h5py returns it as bytes.
    """
    for name in group:
        if isinstance(name, bytes):
            raise refusal(
                path,
                f"{group.name} has an entry named {name!r:.80}, which is not UTF-8",
            )
    return list(group)


def _has_group(file: h5py.File, name: str) -> bool:
    """Whether a file contains a group of this name, not a link to one."""
    return _has(file, name) and _is_own(file, name) and isinstance(file[name], h5py.Group)


def _list_entries(file: h5py.File, names: list[str]) -> Entries:
    """List the entries of a file; the first decides if they are images or groups of images."""
    if _has_group(file, FEATURES) and not _has(file[FEATURES], FEATURES):
        inner = _names_in(Path(file.filename), file[FEATURES])
        return Entries([f"{FEATURES}/{name}" for name in inner], are_groups=False)
    first = file[names[0]] if names and _is_own(file, names[0]) else None
    if isinstance(first, h5py.Group) and len(first) and not _has(first, FEATURES):
        seen: set[Any] = set()
        nested = [path for name in names for path in _nested(file, name, MAX_DEPTH, seen)]
        return Entries(nested or names, are_groups=True)
    return Entries(names, are_groups=not isinstance(first, h5py.Dataset))


def _nested(group: h5py.Group, name: str, depth: int, seen: set[Any]) -> Iterator[str]:
    """Yield the paths of the groups with features below a group, without following links."""
    found = group[name] if _is_own(group, name) else None
    if not isinstance(found, h5py.Group):
        return
    if _has(found, FEATURES):
        yield name
    elif depth and found.id not in seen:
        # Groups may contain each other, which makes the number of paths infinite.
        seen.add(found.id)
        for inner in _names_in(Path(group.file.filename), found):
            for path in _nested(found, inner, depth - 1, seen):
                yield f"{name}/{path}"


@contextmanager
def open_image(file: FeatureFile) -> Iterator[StoredArray]:
    """Open the features of one image.

    Raises:
        FeatureFileError: The file is damaged.
        StoreError: It holds something else, or is not safe to read.
    """
    with h5py.File(file.path, "r", rdcc_nbytes=0, locking=False) as opened:
        group, dataset = _find_dataset(file, opened)
        check_dataset(file.path, dataset)
        parse_token_shape(file, dataset.shape)
        if dataset.chunks and any(
            chunk > length for chunk, length in zip(dataset.chunks, dataset.shape, strict=True)
        ):
            raise refusal(
                file.path,
                f"{dataset.name} has chunks of {dataset.chunks}, more than its {dataset.shape}",
            )
        _check_stored(file.path, dataset)
        size = (_side(file.path, group, "img_h"), _side(file.path, group, "img_w"))
        yield StoredArray(
            dataset.shape,
            lambda: np.asarray(dataset[()]),
            size if all(size) else UNKNOWN_SIZE,
        )


def _find_dataset(file: FeatureFile, opened: h5py.File) -> tuple[h5py.Group, h5py.Dataset]:
    """Return the group and the dataset of an image; the group may be the file itself."""
    name = _name_in(file, opened)
    if name is None:
        if any(_has(opened, id_name) for id_name in ID_NAMES):
            raise refusal(file.path, HOLDS_MANY_IMAGES)
        group: Any = opened
    else:
        group = opened
        for part in name.split("/"):
            group = get_member(file.path, group, part)
        if isinstance(group, h5py.Dataset) and file.key is not None:
            return opened, group
        if not isinstance(group, h5py.Group):
            raise refusal(file.path, f"/{name} is a {type(group).__name__}, expected a group")
    dataset = get_member(file.path, group, FEATURES)
    if not isinstance(dataset, h5py.Dataset):
        name = f"{group.name.rstrip('/')}/{FEATURES}"
        raise refusal(file.path, f"{name} is a {type(dataset).__name__}, expected a dataset")
    return group, dataset


def _name_in(file: FeatureFile, opened: h5py.File) -> str | None:
    """Return the image's name in its file; `None` if the features are at the top level."""
    names = [file.image_id] if file.key is None else [file.key, file.image_id]
    for name in names:
        if _has(opened, name):
            return name
    return None if _has(opened, FEATURES) else names[0]


def _has(group: h5py.Group, name: str) -> bool:
    # Check only the first part of a path, so that no link is followed.
    return bool(group.id.links.exists(name.partition("/")[0].encode()))


def _is_own(group: h5py.Group, name: str) -> bool:
    """Whether a group contains this name itself, not a link."""
    return bool(group.id.links.get_info(name.encode()).type == h5l.TYPE_HARD)


def _side(path: Path, group: h5py.Group, name: str) -> int:
    """Read a photograph's height or width; 0 if it is missing."""
    if not _has(group, name):
        return 0
    dataset = get_member(path, group, name)
    if (
        not isinstance(dataset, h5py.Dataset)
        or dataset.external is not None
        or dataset.is_virtual
        or dataset.dtype.kind not in "iu"
        or dataset.size != 1
    ):
        raise refusal(path, f"{group.name}/{name} is not a single integer")
    side = int(np.asarray(dataset[()]).item())
    if not 0 <= side <= MAX_SIDE:
        raise refusal(path, f"{group.name}/{name} is {side}, expected a size in pixels")
    return side


def get_member(path: Path, group: h5py.Group, name: str) -> Any:
    """Return the member of a group that has this name.

    Raises:
        FeatureFileError: There is no such member.
        StoreError: It is a link.
    """
    # `in` and [] follow links, so the kind of link is checked first.
    encoded = name.encode()
    if not group.id.links.exists(encoded):
        others = ", ".join(_names_in(path, group)[:3])
        raise FeatureFileError(
            f"{path} has no {group.name.rstrip('/')}/{name}"
            + (f" but {others}; to import all of it, pass the file itself" if others else "")
        )
    kind = group.id.links.get_info(encoded).type
    if kind != h5l.TYPE_HARD:
        found = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "an external link"}
        raise refusal(
            path, f"{group.name.rstrip('/')}/{name} is {found.get(kind, 'a link of a user type')}"
        )
    return group[name]


def check_dataset(path: Path, dataset: h5py.Dataset) -> None:
    """Refuse a dataset that is not floating point, is stored in other files, or needs a plugin.

    Raises:
        StoreError: What was found.
    """
    if dataset.external is not None or dataset.is_virtual:
        raise refusal(path, f"{dataset.name} keeps its data in other files")
    if dataset.dtype.kind != "f":
        raise refusal(path, f"{dataset.name} is {dataset.dtype}, expected floating point")
    if dataset.shape is None:
        raise refusal(path, f"{dataset.name} is empty, expected floating point")
    _check_filters(path, dataset)


def _check_filters(path: Path, dataset: h5py.Dataset) -> None:
    # For any other filter, HDF5 would load code from a folder named by the environment.
    properties = dataset.id.get_create_plist()
    numbers = {properties.get_filter(place)[0] for place in range(properties.get_nfilters())}
    if not numbers <= BUILT_IN_FILTERS:
        raise refusal(
            path,
            f"{dataset.name} is compressed with HDF5 filter {min(numbers - BUILT_IN_FILTERS)}, "
            "expected a filter built into HDF5, such as gzip; convert the file with h5repack",
        )


def _check_stored(path: Path, dataset: h5py.Dataset) -> None:
    """Check that all data is stored (HDF5 reads missing data as zeros), and not too much."""
    declared, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if stored > MAX_EXPANSION * declared + PAGE_BYTES:
        # Only the stored size limits how much is decompressed, not the declared size.
        raise refusal(path, f"{dataset.name} declares {declared:,} bytes, {stored:,} are stored")
    _check_complete(path, dataset)


def _check_complete(path: Path, dataset: h5py.Dataset) -> None:
    declared, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if dataset.chunks is None:
        if stored < declared:
            raise FeatureFileError(f"{path} is incomplete: {dataset.name} was never written")
        return
    lengths = zip(dataset.shape, dataset.chunks, strict=True)
    if dataset.id.get_num_chunks() < math.prod(-(-length // chunk) for length, chunk in lengths):
        raise FeatureFileError(f"{path} is incomplete: parts of {dataset.name} are missing")


def check_rows(path: Path, opened: h5py.File) -> h5py.Dataset:
    """Return the dataset with one row per image, after checking it.

    Raises:
        FeatureFileError: Parts of it are missing.
        StoreError: It is not such a dataset, or is not safe to read.
    """
    name = find_rows_name(_names_in(path, opened)) or FEATURES
    dataset = get_member(path, opened, name)
    if not isinstance(dataset, h5py.Dataset):
        raise refusal(path, f"/{name} is a {type(dataset).__name__}")
    check_dataset(path, dataset)
    if dataset.ndim not in (2, 3):
        raise refusal(
            path,
            f"/{name} has the shape {dataset.shape}, expected [images, tokens, channels] or "
            "[images, channels]",
        )
    # The last chunk may extend beyond the last row, so chunks are checked one by one.
    _check_chunks(path, dataset)
    _check_complete(path, dataset)
    return dataset


def _check_chunks(path: Path, dataset: h5py.Dataset) -> None:
    """Limit the memory of a chunk, which is decompressed as a whole."""
    if dataset.chunks is None:
        return
    chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise refusal(
            path,
            f"{dataset.name} has chunks of {chunk_bytes:,} bytes, expected at most "
            f"{MAX_CHUNK_BYTES:,}; make them smaller with h5repack",
        )
    largest = 0

    def note(chunk: Any) -> None:
        nonlocal largest
        largest = max(largest, chunk.size)

    dataset.id.chunk_iter(note)
    if largest > MAX_EXPANSION * chunk_bytes + PAGE_BYTES:
        raise refusal(
            path,
            f"a chunk of {dataset.name} with {chunk_bytes:,} bytes takes {largest:,} in the file",
        )


def read_names(path: Path, opened: h5py.File, rows: int) -> list[str]:
    """Read the names of a file's rows.

    Args:
        path: The file, for messages.
        opened: The open file.
        rows: Expected number of names.

    Raises:
        StoreError: Their number differs, they are neither strings nor integers, or they are stored
            elsewhere.
    """
    name = next(name for name in ID_NAMES if _has(opened, name))
    dataset = get_member(path, opened, name)
    if (
        not isinstance(dataset, h5py.Dataset)
        or dataset.external is not None
        or dataset.is_virtual
        or dataset.ndim != 1
    ):
        raise refusal(path, f"/{name} is not a plain list of names")
    if dataset.shape[0] != rows:
        raise refusal(
            path,
            f"its features have {rows:,} rows, but /{name} has {dataset.shape[0]:,} names; "
            "expected one per row",
        )
    _check_filters(path, dataset)
    _check_chunks(path, dataset)
    if dataset.dtype.kind in "iu":
        numbers: NDArray[Any] = dataset[:]
        return [str(number) for number in numbers.tolist()]
    if h5py.check_string_dtype(dataset.dtype) is None:
        raise refusal(path, f"/{name} is {dataset.dtype}, expected strings or integers")
    try:
        return list(read_rows_of_text(dataset, range(rows)))
    except UnicodeDecodeError as error:
        raise refusal(path, f"/{name} contains names that are not UTF-8 ({error})") from None
