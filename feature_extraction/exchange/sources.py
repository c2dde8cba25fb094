"""Features that other programs made, as they lie on disk: found, checked, read image by image.

    IMAGE_ID.h5            an HDF5 file with the dataset `IMAGE_ID/features`: the ancestors' layout;
                           `img_h` and `img_w` beside it are the photograph's height and width; or
                           with the dataset `features`
    IMAGE_ID.npy           a NumPy array
    IMAGE_ID.npz           one NumPy array, or one called `features`
    IMAGE_ID.safetensors   one tensor, or one called `features`

in one folder or in folders of it, or one HDF5, NumPy or safetensors file with an entry for each
image. The features of an image are float `[tokens, channels]`, or `[channels]` where there is one
vector per image. `feature_extraction.exchange.tables` says which files have a row for each image.

An id is the name without folders and without the suffix of an image. Shape, type and storage are
looked at before anything is read. What points elsewhere, holds objects or declares more than it has
is never followed or allocated, and nothing is unpickled.
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
from feature_extraction.exchange.feature_files import (
    DAMAGE,
    FEATURES,
    FeatureFile,
    StoredArray,
    damage,
    refusal,
    rows_name,
    token_shape,
)
from feature_extraction.exchange.finding import HDF5_SUFFIXES
from feature_extraction.exchange.hdf5_sources import open_hdf5
from feature_extraction.exchange.tables import open_row, read_npy_header
from feature_extraction.store.disk import require_regular_file

# V tokens, C channels

__all__ = ["FeatureFile", "feature_shape", "read_features"]

SAFETENSORS_FLOATS = ("F16", "BF16", "F32", "F64")


def feature_shape(file: FeatureFile) -> tuple[int, int]:
    """Return tokens and channels of an image's features; nothing but headers is read.

    Raises:
        FeatureFileError: The file is damaged.
        StoreError: It holds something else, or must not be read.
    """
    with _opened(file) as array:
        return token_shape(file, array.shape)


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
        found = token_shape(file, array.shape)
        if found != shape:
            raise StoreError(
                f"the features of {file.image_id!r} ({file.place}) have the shape {list(found)}, "
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


@contextmanager
def _opened(file: FeatureFile) -> Iterator[StoredArray]:
    require_regular_file(file.path)
    opener = open_row if file.row is not None else _OPENERS[file.path.suffix.lower()]
    try:
        with opener(file) as array:
            yield array
    except DAMAGE as error:
        raise FeatureFileError(damage(file.path, error, file.place)) from error


@contextmanager
def _open_npy(file: FeatureFile) -> Iterator[StoredArray]:
    with file.path.open("rb") as opened:
        shape, dtype, order = read_npy_header(file, opened)
        token_shape(file, shape)

        def read() -> NDArray[Any]:
            return np.fromfile(opened, dtype, math.prod(shape)).reshape(shape, order=order)

        yield StoredArray(shape, read)


@contextmanager
def _open_npz(file: FeatureFile) -> Iterator[StoredArray]:
    with ZipFile(file.path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        name = _chosen(file, list(members), "arrays")
        with archive.open(members[name]) as opened:
            shape, dtype, order = read_npy_header(file, opened)
            token_shape(file, shape)

            def read() -> NDArray[Any]:
                # No more than is declared, whatever the archive holds.
                data = opened.read(math.prod(shape) * dtype.itemsize)
                return np.frombuffer(data, dtype).reshape(shape, order=order)

            yield StoredArray(shape, read)


@contextmanager
def _open_safetensors(file: FeatureFile) -> Iterator[StoredArray]:
    # Through torch, because NumPy has no bfloat16.
    with safe_open(file.path, framework="pt") as opened:
        name = _chosen(file, list(opened.keys()), "tensors")
        tensor = opened.get_slice(name)
        if tensor.get_dtype() not in SAFETENSORS_FLOATS:
            raise refusal(file, f"it holds {tensor.get_dtype()}, expected floating point")
        shape = tuple(tensor.get_shape())
        yield StoredArray(shape, lambda: opened.get_tensor(name).double().numpy())


def _chosen(file: FeatureFile, names: list[str], what: str) -> str:
    """Choose among the arrays of a file.

    Raises:
        StoreError: It is of many images, or none of the arrays is called as expected.
    """
    if file.key in names:
        return str(file.key)
    if rows_name(names) is not None:
        raise refusal(
            file,
            "it holds the features of many images, with their names; name the file itself to "
            "import them",
        )
    if len(names) == 1:
        return names[0]
    if FEATURES not in names:
        raise refusal(
            file,
            f"it holds {len(names)} {what}, expected one, or one called {FEATURES!r}; to import "
            "all of them, name the file itself",
        )
    return FEATURES


_OPENERS: dict[str, Callable[[FeatureFile], AbstractContextManager[StoredArray]]] = {
    **dict.fromkeys(HDF5_SUFFIXES, open_hdf5),
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".safetensors": _open_safetensors,
}
