"""Features in HDF5 files of other programs: looked at before they are read, no link followed."""

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
from feature_extraction.exchange.feature_files import (
    DAMAGE,
    FEATURES,
    ID_NAMES,
    UNKNOWN_SIZE,
    FeatureFile,
    StoredArray,
    damage,
    refusal,
    rows_name,
    token_shape,
)
from feature_extraction.store.layout import PAGE_BYTES
from feature_extraction.store.table import read_texts

__all__ = ["Listed", "check_rows", "list_hdf5", "open_hdf5", "read_names"]

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
class Listed:
    """What a file with an entry for each image has.

    Args:
        names: Of the entries.
        are_groups: Whether they are groups, with the features in them, or datasets themselves.
    """

    names: list[str]
    are_groups: bool


def list_hdf5(path: Path) -> Listed | None:
    """List the images of a file that has a group or a dataset for each.

    Returns:
        Their names; `None` if the file has a row per image and a list of names instead.

    Raises:
        StoreError: It is not HDF5, or a feature store of this program.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            names, attributes = _names_in(path, file), set(file.attrs)
            if rows_name(names) is None and (FEATURES not in names or _has_group(file, FEATURES)):
                return _listed(file, names)
    except PermissionError as error:
        raise StoreError(damage(path, error)) from None
    except DAMAGE as error:
        raise StoreError(f"{path} cannot be read as HDF5 ({error}): it is damaged") from None
    if "spec" not in attributes and rows_name(names):
        return None
    raise StoreError(
        f"{path} is a feature store already, or holds the features of no named image: expected "
        f"/{FEATURES} and the names of its rows, as one of {', '.join(ID_NAMES[:5])}"
    )


def _names_in(path: Path, group: h5py.Group) -> list[str]:
    """Return what a group's entries are called.

    Raises:
        StoreError: One has a name that is not UTF-8, which h5py returns as bytes.
    """
    for name in group:
        if isinstance(name, bytes):
            raise refusal(
                FeatureFile("", path),
                f"{group.name} has an entry named {name!r:.80}, which is not UTF-8",
            )
    return list(group)


def _has_group(file: h5py.File, name: str) -> bool:
    """Whether a file holds a group of this name itself."""
    return _has(file, name) and _is_own(file, name) and isinstance(file[name], h5py.Group)


def _listed(file: h5py.File, names: list[str]) -> Listed:
    """List the entries of a file; the first tells whether they are images or groups of images."""
    if _has_group(file, FEATURES) and not _has(file[FEATURES], FEATURES):
        inner = _names_in(Path(file.filename), file[FEATURES])
        return Listed([f"{FEATURES}/{name}" for name in inner], are_groups=False)
    first = file[names[0]] if names and _is_own(file, names[0]) else None
    if isinstance(first, h5py.Group) and len(first) and not _has(first, FEATURES):
        seen: set[Any] = set()
        nested = [path for name in names for path in _nested(file, name, MAX_DEPTH, seen)]
        return Listed(nested or names, are_groups=True)
    return Listed(names, are_groups=not isinstance(first, h5py.Dataset))


def _nested(group: h5py.Group, name: str, depth: int, seen: set[Any]) -> Iterator[str]:
    """Go through the paths of the groups with features below a group, following no link."""
    found = group[name] if _is_own(group, name) else None
    if not isinstance(found, h5py.Group):
        return
    if _has(found, FEATURES):
        yield name
    elif depth and found.id not in seen:
        # Groups may hold each other, so that there are more paths than can be followed.
        seen.add(found.id)
        for inner in _names_in(Path(group.file.filename), found):
            for path in _nested(found, inner, depth - 1, seen):
                yield f"{name}/{path}"


@contextmanager
def open_hdf5(file: FeatureFile) -> Iterator[StoredArray]:
    """Open the features of one image.

    Raises:
        FeatureFileError: The file is damaged.
        StoreError: It holds something else, or must not be read.
    """
    with h5py.File(file.path, "r", rdcc_nbytes=0, locking=False) as opened:
        group, dataset = _of_image(file, opened)
        check_dataset(file, dataset)
        token_shape(file, dataset.shape)
        if dataset.chunks and any(
            chunk > length for chunk, length in zip(dataset.chunks, dataset.shape, strict=True)
        ):
            raise refusal(
                file,
                f"{dataset.name} has chunks of {dataset.chunks}, more than its {dataset.shape}",
            )
        _check_stored(file, dataset)
        size = (_side(file, group, "img_h"), _side(file, group, "img_w"))
        yield StoredArray(
            dataset.shape,
            lambda: np.asarray(dataset[()]),
            size if all(size) else UNKNOWN_SIZE,
        )


def _of_image(file: FeatureFile, opened: h5py.File) -> tuple[h5py.Group, h5py.Dataset]:
    """Find the group and the dataset of an image; the group may be the file itself."""
    name = _name_in(file, opened)
    if name is None:
        if any(_has(opened, id_name) for id_name in ID_NAMES):
            raise refusal(
                file,
                "it holds the features of many images, with their names; name the file itself to "
                "import them",
            )
        group: Any = opened
    else:
        group = opened
        for part in name.split("/"):
            group = linked(file, group, part)
        if isinstance(group, h5py.Dataset) and file.key is not None:
            return opened, group
        if not isinstance(group, h5py.Group):
            raise refusal(file, f"/{name} is a {type(group).__name__}, expected a group")
    dataset = linked(file, group, FEATURES)
    if not isinstance(dataset, h5py.Dataset):
        name = f"{group.name.rstrip('/')}/{FEATURES}"
        raise refusal(file, f"{name} is a {type(dataset).__name__}, expected a dataset")
    return group, dataset


def _name_in(file: FeatureFile, opened: h5py.File) -> str | None:
    """Return what the image is called in its file; `None` where its features lie at the top."""
    names = [file.image_id] if file.key is None else [file.key, file.image_id]
    for name in names:
        if _has(opened, name):
            return name
    return None if _has(opened, FEATURES) else names[0]


def _has(group: h5py.Group, name: str) -> bool:
    # Only the first part of a path is checked, so that no link is followed.
    return bool(group.id.links.exists(name.partition("/")[0].encode()))


def _is_own(group: h5py.Group, name: str) -> bool:
    """Whether a group holds what has this name itself, and does not link to it."""
    return bool(group.id.links.get_info(name.encode()).type == h5l.TYPE_HARD)


def _side(file: FeatureFile, group: h5py.Group, name: str) -> int:
    """Read a photograph's height or width; 0 where it is not there."""
    if not _has(group, name):
        return 0
    dataset = linked(file, group, name)
    if (
        not isinstance(dataset, h5py.Dataset)
        or dataset.external is not None
        or dataset.is_virtual
        or dataset.dtype.kind not in "iu"
        or dataset.size != 1
    ):
        raise refusal(file, f"{group.name}/{name} is not one whole number")
    side = int(np.asarray(dataset[()]).item())
    if not 0 <= side <= MAX_SIDE:
        raise refusal(file, f"{group.name}/{name} is {side}, expected pixels")
    return side


def linked(file: FeatureFile, group: h5py.Group, name: str) -> Any:
    """Return what a group holds under a name, if it holds it itself.

    Raises:
        FeatureFileError: It holds nothing of that name.
        StoreError: It is a link to elsewhere.
    """
    # `in` and [] follow links, so the kind of link is asked first.
    encoded = name.encode()
    if not group.id.links.exists(encoded):
        others = ", ".join(_names_in(file.path, group)[:3])
        raise FeatureFileError(
            f"{file.path} has no {group.name.rstrip('/')}/{name}"
            + (f" but {others}; to import all of it, name the file itself" if others else "")
        )
    kind = group.id.links.get_info(encoded).type
    if kind != h5l.TYPE_HARD:
        found = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "an external link"}
        raise refusal(
            file, f"{group.name.rstrip('/')}/{name} is {found.get(kind, 'a link of a user type')}"
        )
    return group[name]


def check_dataset(file: FeatureFile, dataset: h5py.Dataset) -> None:
    """Refuse a dataset that is not floating point, is in other files, or needs a plugin to read.

    Raises:
        StoreError: With what was found.
    """
    if dataset.external is not None or dataset.is_virtual:
        raise refusal(file, f"{dataset.name} keeps its data in other files")
    if dataset.dtype.kind != "f":
        raise refusal(file, f"{dataset.name} is {dataset.dtype}, expected floating point")
    if dataset.shape is None:
        raise refusal(file, f"{dataset.name} is empty, expected floating point")
    _check_filters(file, dataset)


def _check_filters(file: FeatureFile, dataset: h5py.Dataset) -> None:
    # For any other HDF5 would load code from wherever the environment says.
    properties = dataset.id.get_create_plist()
    numbers = {properties.get_filter(place)[0] for place in range(properties.get_nfilters())}
    if not numbers <= BUILT_IN_FILTERS:
        raise refusal(
            file,
            f"{dataset.name} is compressed by HDF5 filter {min(numbers - BUILT_IN_FILTERS)}, "
            "expected one that HDF5 itself has; h5repack makes it so",
        )


def _check_stored(file: FeatureFile, dataset: h5py.Dataset) -> None:
    """Make sure that all of it is there, which HDF5 would read as zeros, and no more."""
    declared, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if stored > MAX_EXPANSION * declared + PAGE_BYTES:
        # Decompression is not bounded by what is declared, only by what is stored.
        raise refusal(file, f"{dataset.name} declares {declared:,} bytes, {stored:,} are stored")
    _check_whole(file, dataset)


def _check_whole(file: FeatureFile, dataset: h5py.Dataset) -> None:
    declared, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if dataset.chunks is None:
        if stored < declared:
            raise FeatureFileError(f"{file.path} is incomplete: {dataset.name} was never written")
        return
    lengths = zip(dataset.shape, dataset.chunks, strict=True)
    if dataset.id.get_num_chunks() < math.prod(-(-length // chunk) for length, chunk in lengths):
        raise FeatureFileError(f"{file.path} is incomplete: parts of {dataset.name} are missing")


def check_rows(file: FeatureFile, opened: h5py.File) -> h5py.Dataset:
    """Return the dataset with a row for each image, checked; its name is as `rows_name` says.

    Raises:
        FeatureFileError: Parts of it are missing.
        StoreError: It is not such a dataset, or must not be read.
    """
    name = rows_name(_names_in(file.path, opened)) or FEATURES
    dataset = linked(file, opened, name)
    if not isinstance(dataset, h5py.Dataset):
        raise refusal(file, f"/{name} is a {type(dataset).__name__}")
    check_dataset(file, dataset)
    if dataset.ndim not in (2, 3):
        raise refusal(
            file,
            f"/{name} has the shape {dataset.shape}, expected [images, tokens, channels] or "
            "[images, channels]",
        )
    # The last chunk of rows may be larger than what is left for it, so each is bounded by itself.
    _check_chunks(file, dataset)
    _check_whole(file, dataset)
    return dataset


def _check_chunks(file: FeatureFile, dataset: h5py.Dataset) -> None:
    """Bound what one chunk takes in memory: it is decompressed as a whole."""
    if dataset.chunks is None:
        return
    chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise refusal(
            file,
            f"{dataset.name} has chunks of {chunk_bytes:,} bytes, expected at most "
            f"{MAX_CHUNK_BYTES:,}; h5repack makes smaller ones",
        )
    largest = 0

    def note(chunk: Any) -> None:
        nonlocal largest
        largest = max(largest, chunk.size)

    dataset.id.chunk_iter(note)
    if largest > MAX_EXPANSION * chunk_bytes + PAGE_BYTES:
        raise refusal(
            file, f"a chunk of {dataset.name} of {chunk_bytes:,} bytes takes {largest:,} there"
        )


def read_names(file: FeatureFile, opened: h5py.File, rows: int) -> list[str]:
    """Read the names of a file's rows.

    Args:
        file: The file, for messages.
        opened: The file.
        rows: How many there must be.

    Raises:
        StoreError: They are not as many as rows, no texts or whole numbers, or lie elsewhere.
    """
    name = next(name for name in ID_NAMES if _has(opened, name))
    dataset = linked(file, opened, name)
    if (
        not isinstance(dataset, h5py.Dataset)
        or dataset.external is not None
        or dataset.is_virtual
        or dataset.ndim != 1
    ):
        raise refusal(file, f"/{name} is not a plain list of names")
    if dataset.shape[0] != rows:
        raise refusal(
            file,
            f"its features have {rows:,} rows and /{name} {dataset.shape[0]:,} names, expected "
            "one for each",
        )
    _check_filters(file, dataset)
    _check_chunks(file, dataset)
    if dataset.dtype.kind in "iu":
        numbers: NDArray[Any] = dataset[:]
        return [str(number) for number in numbers.tolist()]
    if h5py.check_string_dtype(dataset.dtype) is None:
        raise refusal(file, f"/{name} is {dataset.dtype}, expected texts or whole numbers")
    try:
        return list(read_texts(dataset, range(rows)))
    except UnicodeDecodeError as error:
        raise refusal(file, f"/{name} holds names that are not UTF-8 ({error})") from None
