"""Read the features of one image from a file of another program.

Supported layouts:

    IMAGE_ID.h5            an HDF5 file with the dataset `IMAGE_ID/features`, as VL-T5 and its
                           successors write it, optionally with `IMAGE_ID/img_h` and
                           `IMAGE_ID/img_w`; or with the dataset `features`
    IMAGE_ID.npy           a NumPy array
    IMAGE_ID.npz           a single array, or one called `features`
    IMAGE_ID.safetensors   a single tensor, or one called `features`

in a folder and its subfolders; or one HDF5, NumPy or safetensors file with one entry per image; or
files with one row per image (`feature_extraction.exchange.foreign.tables`). The features of an
image are float `[tokens, channels]`, or `[channels]` for one vector per image.

The image id is the name without folders and image suffix. Shape, type and storage are checked
before anything is read. Links are not followed, nothing is allocated for data that is declared but
not stored, and nothing is unpickled.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from feature_extraction.errors import FeatureFileError, StoreError
from feature_extraction.exchange.foreign.feature_file import (
    DAMAGE_ERRORS,
    FEATURES,
    HOLDS_MANY_IMAGES,
    FeatureFile,
    StoredArray,
    describe_damage,
    find_rows_name,
    parse_token_shape,
    refusal,
)
from feature_extraction.exchange.foreign.hdf5 import HDF5_SUFFIXES, open_image
from feature_extraction.exchange.foreign.npy import read_npy_header
from feature_extraction.exchange.foreign.tables import open_row
from feature_extraction.store.disk import require_regular_file

# V tokens, C channels

__all__ = ["read_features", "read_shape"]

SAFETENSORS_FLOATS = ("F16", "BF16", "F32", "F64")


def read_shape(file: FeatureFile) -> tuple[int, int]:
    """Return the tokens and channels of an image's features; only headers are read.

    Raises:
        FeatureFileError: The file is damaged.
        StoreError: It holds something else, or is not safe to read.
    """
    with _open(file) as array:
        return parse_token_shape(file, array.shape)


def read_features(
    file: FeatureFile, shape: tuple[int, int]
) -> tuple[NDArray[np.float16], tuple[int, int]]:
    """Return an image's features and its height and width.

    Args:
        file: Location of the features.
        shape: Expected tokens and channels.

    Returns:
        Features, float16 `[tokens, channels]`; height and width in pixels, zeros if not known.

    Raises:
        FeatureFileError: The file is damaged, or its values do not fit float16.
        StoreError: The shape differs, the file holds something else, or it is not safe to read.
    """
    with _open(file) as array:
        found = parse_token_shape(file, array.shape)
        if found != shape:
            raise StoreError(
                f"the features of {file.image_id!r} ({file.place}) have the shape {list(found)}, "
                f"those of other images {list(shape)} (tokens, channels). All features of a store "
                "must have the same shape: replace or remove the file, and run the same command "
                "again."
            )
        values, image_size = array.read(), array.image_size
    with np.errstate(over="ignore"):
        features_VC: NDArray[np.float16] = values.astype(np.float16).reshape(shape)
    if not np.isfinite(features_VC).all():
        raise FeatureFileError("it holds values that are not finite, or too large for float16")
    return features_VC, image_size


@contextmanager
def _open(file: FeatureFile) -> Iterator[StoredArray]:
    require_regular_file(file.path)
    opener = open_row if file.row is not None else _OPENERS[file.path.suffix.lower()]
    try:
        with opener(file) as array:
            yield array
    except DAMAGE_ERRORS as error:
        raise FeatureFileError(describe_damage(file.path, error, file.place)) from error


@contextmanager
def _open_npy(file: FeatureFile) -> Iterator[StoredArray]:
    with file.path.open("rb") as opened:
        shape, dtype, order = read_npy_header(file.path, opened)
        parse_token_shape(file, shape)

        def read() -> NDArray[Any]:
            return np.fromfile(opened, dtype, math.prod(shape)).reshape(shape, order=order)

        yield StoredArray(shape, read)


@contextmanager
def _open_npz(file: FeatureFile) -> Iterator[StoredArray]:
    with ZipFile(file.path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        name = _choose_array(file, list(members), "arrays")
        with archive.open(members[name]) as opened:
            shape, dtype, order = read_npy_header(file.path, opened)
            parse_token_shape(file, shape)

            def read() -> NDArray[Any]:
                # Read only the declared size, even if the archive holds more.
                data = opened.read(math.prod(shape) * dtype.itemsize)
                return np.frombuffer(data, dtype).reshape(shape, order=order)

            yield StoredArray(shape, read)


@contextmanager
def _open_safetensors(file: FeatureFile) -> Iterator[StoredArray]:
    # Through torch, because NumPy does not have bfloat16.
    with safe_open(file.path, framework="pt") as opened:
        name = _choose_array(file, list(opened.keys()), "tensors")
        tensor = opened.get_slice(name)
        if tensor.get_dtype() not in SAFETENSORS_FLOATS:
            raise refusal(file.path, f"it holds {tensor.get_dtype()}, expected floating point")
        shape = tuple(tensor.get_shape())
        yield StoredArray(shape, lambda: opened.get_tensor(name).double().numpy())


def _choose_array(file: FeatureFile, names: list[str], what: str) -> str:
    """Return the name of the array with the image's features.

    Raises:
        StoreError: The file holds many images, or no array has the expected name.
    """
    if file.key in names:
        return str(file.key)
    if find_rows_name(names) is not None:
        raise refusal(file.path, HOLDS_MANY_IMAGES)
    if len(names) == 1:
        return names[0]
    if FEATURES not in names:
        raise refusal(
            file.path,
            f"it holds {len(names)} {what}, expected one, or one called {FEATURES!r}; to import "
            "all of them, pass the file itself",
        )
    return FEATURES


_OPENERS: dict[str, Callable[[FeatureFile], AbstractContextManager[StoredArray]]] = {
    **dict.fromkeys(HDF5_SUFFIXES, open_image),
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".safetensors": _open_safetensors,
}
