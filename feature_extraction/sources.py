"""Features that other programs made, as they lie on disk: found, checked, read image by image.

    IMAGE_ID.h5            an HDF5 file with the dataset `IMAGE_ID/features`: the ancestors' layout;
                           `img_h` and `img_w` beside it are the photograph's height and width
    IMAGE_ID.npy           a NumPy array
    IMAGE_ID.safetensors   one tensor, or one called `features`

in one folder or in folders of it, or one HDF5 file with many groups `IMAGE_ID`. The features of an
image are float `[tokens, channels]`, or `[channels]` where there is one vector per image.

Shape, type and storage are looked at before anything is read. What points elsewhere, holds objects
or declares more than it has is never followed or allocated, and nothing is unpickled.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5l
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from feature_extraction.errors import FeatureFileError, StoreError
from feature_extraction.images import is_utf8, walk_files
from feature_extraction.layout import MOST_VALUES_PER_IMAGE, PAGE_BYTES

# V tokens, C channels

__all__ = ["FeatureFile", "feature_shape", "find_features", "read_features"]

DATASET = "features"
HDF5_SUFFIXES = (".h5", ".hdf5")
BUILT_IN_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_LZF,
}
MOST_EXPANSION = 2
UNKNOWN_SIZE = (0, 0)
LONGEST_SIDE = 2**31 - 1
SAFETENSORS_FLOATS = ("F16", "BF16", "F32", "F64")

# What h5py, NumPy and safetensors raise on damaged files.
DAMAGE = (
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    SyntaxError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """Where the features of one image lie; several images may lie in one HDF5 file."""

    image_id: str
    path: Path


@dataclass(frozen=True, slots=True)
class _Array:
    """An array that is read when asked for."""

    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]
    image_size: tuple[int, int] = UNKNOWN_SIZE


def find_features(source: Path, *, besides: Path | None = None) -> list[FeatureFile]:
    """Find the images that have features in a folder, or in one HDF5 file; sorted by id.

    Names that start with a dot are skipped; links to folders are followed, each folder once.

    Args:
        source: The folder, or the HDF5 file.
        besides: A file that does not count, such as the store that is made of the others.

    Raises:
        StoreError: There are none, two files are for one image, or a name is not UTF-8.
    """
    if source.is_file() and source.suffix.lower() in HDF5_SUFFIXES:
        found = _groups(source)
    elif source.is_dir():
        found = [
            FeatureFile(path.stem, path)
            for path in walk_files(source)
            if path.suffix.lower() in _OPENERS and not _is_same(path, besides)
        ]
    else:
        state = "is neither a folder nor an HDF5 file" if source.exists() else "does not exist"
        raise StoreError(f"{source} {state}; expected features as {_LAYOUTS}")
    path_of: dict[str, Path] = {}
    for file in found:
        if not is_utf8(file.image_id):
            raise StoreError(
                f"the name {file.image_id!r} in {source} is not UTF-8, so it cannot be an image "
                "id; rename it"
            )
        if file.image_id in path_of:
            raise StoreError(
                f"two files are for the image {file.image_id!r}: {path_of[file.image_id]} and "
                f"{file.path}. Remove or rename one."
            )
        path_of[file.image_id] = file.path
    if not found:
        raise StoreError(f"no features in {source}; expected {_LAYOUTS}")
    return sorted(found, key=lambda file: file.image_id)


def feature_shape(file: FeatureFile) -> tuple[int, int]:
    """Return tokens and channels of an image's features; nothing but headers is read.

    Raises:
        FeatureFileError: The file is damaged.
        StoreError: It holds something else, or must not be read.
    """
    with _opened(file) as array:
        return _token_shape(file, array.shape)


def read_features(
    file: FeatureFile, shape: tuple[int, int]
) -> tuple[NDArray[np.float16], tuple[int, int]]:
    """Return an image's features, and its height and width.

    Args:
        file: Where they are.
        shape: Tokens and channels they must have.

    Returns:
        float16 `[tokens, channels]`; height and width in pixels, zeros where they are not known.

    Raises:
        FeatureFileError: The file is damaged, or its numbers do not fit float16.
        StoreError: They have another shape, it holds something else, or must not be read.
    """
    with _opened(file) as array:
        found = _token_shape(file, array.shape)
        if found != shape:
            raise StoreError(
                f"the features of {file.image_id!r} ({file.path}) have the shape {list(found)}, "
                f"those of other images {list(shape)} (tokens, channels). Features of one store "
                "are made alike: put the right file in its place, or leave it out, and run the "
                "same command again."
            )
        values, image_size = array.read(), array.image_size
    with np.errstate(over="ignore"):
        features_VC: NDArray[np.float16] = values.astype(np.float16).reshape(shape)
    if not np.isfinite(features_VC).all():
        raise FeatureFileError("it holds numbers that are not finite, or too large for float16")
    return features_VC, image_size


def _is_same(path: Path, other: Path | None) -> bool:
    # Names first: resolving every path of a large folder takes long.
    return other is not None and path.name == other.name and path.resolve() == other.resolve()


def _groups(path: Path) -> list[FeatureFile]:
    try:
        with h5py.File(path, "r") as file:
            names = list(file)
    except DAMAGE as error:
        raise StoreError(f"{path} cannot be read as HDF5 ({error}): it is damaged") from None
    if DATASET in names:
        raise StoreError(
            f"{path} is a feature store already, or holds the features of no named image; "
            f"expected {_LAYOUTS}"
        )
    return [FeatureFile(name, path) for name in names]


@contextmanager
def _opened(file: FeatureFile) -> Iterator[_Array]:
    try:
        with _OPENERS[file.path.suffix.lower()](file) as array:
            yield array
    except DAMAGE as error:
        raise FeatureFileError(f"{file.path} is damaged or cut short: {error}") from error


@contextmanager
def _open_hdf5(file: FeatureFile) -> Iterator[_Array]:
    with h5py.File(file.path, "r", rdcc_nbytes=0) as opened:
        group = _linked(file, opened, file.image_id)
        if not isinstance(group, h5py.Group):
            raise _refusal(file, f"/{file.image_id} is a {type(group).__name__}, expected a group")
        dataset = _linked(file, group, DATASET)
        if not isinstance(dataset, h5py.Dataset):
            raise _refusal(file, f"{group.name}/{DATASET} is a {type(dataset).__name__}")
        if dataset.external is not None or dataset.is_virtual:
            raise _refusal(file, f"{dataset.name} keeps its data in other files")
        if dataset.dtype.kind != "f":
            raise _refusal(file, f"{dataset.name} is {dataset.dtype}, expected floating point")
        _token_shape(file, dataset.shape)
        _check_filters(file, dataset)
        _check_stored(file, dataset)
        size = (_side(file, group, "img_h"), _side(file, group, "img_w"))
        yield _Array(
            dataset.shape,
            lambda: np.asarray(dataset[()]),
            size if all(size) else UNKNOWN_SIZE,
        )


def _side(file: FeatureFile, group: h5py.Group, name: str) -> int:
    """Read a photograph's height or width; 0 where it is not there."""
    if not group.id.links.exists(name.encode()):
        return 0
    dataset = _linked(file, group, name)
    if (
        not isinstance(dataset, h5py.Dataset)
        or dataset.external is not None
        or dataset.is_virtual
        or dataset.dtype.kind not in "iu"
        or dataset.size != 1
    ):
        raise _refusal(file, f"{group.name}/{name} is not one whole number")
    side = int(np.asarray(dataset[()]).item())
    if not 0 <= side <= LONGEST_SIDE:
        raise _refusal(file, f"{group.name}/{name} is {side}, expected pixels")
    return side


def _linked(file: FeatureFile, group: h5py.Group, name: str) -> Any:
    # `in` and [] follow links, so the kind of link is asked first.
    encoded = name.encode()
    if not group.id.links.exists(encoded):
        others = ", ".join(list(group)[:3])
        raise FeatureFileError(
            f"{file.path} has no {group.name.rstrip('/')}/{name}"
            + (f" but {others}; to import all of it, name the file itself" if others else "")
        )
    kind = group.id.links.get_info(encoded).type
    if kind != h5l.TYPE_HARD:
        found = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "an external link"}
        raise _refusal(
            file, f"{group.name.rstrip('/')}/{name} is {found.get(kind, 'a link of a user type')}"
        )
    return group[name]


def _check_filters(file: FeatureFile, dataset: h5py.Dataset) -> None:
    # For any other HDF5 would load code from wherever the environment says.
    properties = dataset.id.get_create_plist()
    numbers = {properties.get_filter(place)[0] for place in range(properties.get_nfilters())}
    if not numbers <= BUILT_IN_FILTERS:
        raise _refusal(
            file,
            f"{dataset.name} is compressed by HDF5 filter {min(numbers - BUILT_IN_FILTERS)}, "
            "expected one that HDF5 itself has; h5repack makes it so",
        )


def _check_stored(file: FeatureFile, dataset: h5py.Dataset) -> None:
    """Make sure that all of it is there, which HDF5 would read as zeros, and no more."""
    declared, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if stored > MOST_EXPANSION * declared + PAGE_BYTES:
        # Decompression is not bounded by what is declared, only by what is stored.
        raise _refusal(file, f"{dataset.name} declares {declared:,} bytes, {stored:,} are stored")
    if dataset.chunks is None:
        if stored < declared:
            raise FeatureFileError(f"{file.path} is incomplete: {dataset.name} was never written")
        return
    lengths = list(zip(dataset.shape, dataset.chunks, strict=True))
    if any(chunk > length for length, chunk in lengths):
        raise _refusal(
            file, f"{dataset.name} has chunks of {dataset.chunks}, more than its {dataset.shape}"
        )
    if dataset.id.get_num_chunks() < math.prod(-(-length // chunk) for length, chunk in lengths):
        raise FeatureFileError(f"{file.path} is incomplete: parts of {dataset.name} are missing")


@contextmanager
def _open_npy(file: FeatureFile) -> Iterator[_Array]:
    with file.path.open("rb") as opened:
        version = np.lib.format.read_magic(opened)
        if version not in _NPY_HEADERS:
            raise _refusal(file, f"it is of NumPy's format {version}, unknown here")
        shape, fortran_order, dtype = _NPY_HEADERS[version](opened)
        if dtype.kind != "f":
            raise _refusal(file, f"it holds {dtype}, expected floating point")
        _token_shape(file, shape)

        def read() -> NDArray[Any]:
            values = np.fromfile(opened, dtype, math.prod(shape))
            return values.reshape(shape, order="F" if fortran_order else "C")

        yield _Array(shape, read)


@contextmanager
def _open_safetensors(file: FeatureFile) -> Iterator[_Array]:
    # Through torch, because NumPy has no bfloat16.
    with safe_open(file.path, framework="pt") as opened:
        names = list(opened.keys())
        name = names[0] if len(names) == 1 else DATASET
        if name not in names:
            raise _refusal(
                file, f"it holds {len(names)} tensors, expected one, or one called {DATASET!r}"
            )
        tensor = opened.get_slice(name)
        if tensor.get_dtype() not in SAFETENSORS_FLOATS:
            raise _refusal(file, f"it holds {tensor.get_dtype()}, expected floating point")
        shape = tuple(tensor.get_shape())
        yield _Array(shape, lambda: opened.get_tensor(name).double().numpy())


def _token_shape(file: FeatureFile, shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) not in (1, 2) or not 1 <= math.prod(shape) <= MOST_VALUES_PER_IMAGE:
        raise _refusal(
            file,
            f"the features of {file.image_id!r} have the shape {list(shape)}, expected "
            "[tokens, channels] or [channels]",
        )
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


def _refusal(file: FeatureFile, found: str) -> StoreError:
    return StoreError(
        f"{file.path}: {found}. It was not read. Replace or remove the file and run the same "
        "command again."
    )


_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_OPENERS = {
    **dict.fromkeys(HDF5_SUFFIXES, _open_hdf5),
    ".npy": _open_npy,
    ".safetensors": _open_safetensors,
}
_LAYOUTS = (
    "files IMAGE_ID.h5 with the dataset IMAGE_ID/features, IMAGE_ID.npy or IMAGE_ID.safetensors, "
    "or one HDF5 file with a group for each image"
)
