"""Arrays in NumPy's format: read headers and names after checking them."""

from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from feature_extraction.exchange.foreign.feature_file import refusal

__all__ = ["read_npy_header", "read_npy_names", "read_rows_header"]

MAX_NAME_BYTES = 2**14
NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_rows_header(path: Path, opened: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the header of a floating-point array with one row per image.

    Returns:
        Shape and type.

    Raises:
        StoreError: The array has another type, or its rows are not contiguous.
    """
    shape, dtype, order = read_npy_header(path, opened)
    if order == "F" and len(shape) > 1:
        raise refusal(path, "it is in Fortran order; save numpy.ascontiguousarray(array) instead")
    return shape, dtype


def read_npy_header(
    path: Path, opened: IO[bytes]
) -> tuple[tuple[int, ...], np.dtype[Any], Literal["C", "F"]]:
    """Read the header of a floating-point array in NumPy's format.

    Returns:
        Shape, type and memory order.

    Raises:
        StoreError: The array has another type, or an unknown format version.
    """
    shape, fortran_order, dtype = _npy_header(path, opened)
    if dtype.kind != "f":
        raise refusal(path, f"it holds {dtype}, expected floating point")
    return shape, dtype, "F" if fortran_order else "C"


def _npy_header(path: Path, opened: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(opened)
    if version not in NPY_HEADERS:
        raise refusal(path, f"it has version {version} of NumPy's format, expected 1.0 or 2.0")
    header: tuple[tuple[int, ...], bool, np.dtype[Any]] = NPY_HEADERS[version](opened)
    return header


def read_npy_names(path: Path, opened: IO[bytes], rows: int, size: int) -> list[str]:
    """Read row names from an array of strings or integers.

    Args:
        path: The file, for messages.
        opened: The open array, in NumPy's format.
        rows: Expected number of names.
        size: Size of the array's file in bytes.

    Raises:
        StoreError: The array has another type, or another number of names.
    """
    shape, _, dtype = _npy_header(path, opened)
    if dtype.kind not in "iuUS" or dtype.itemsize > MAX_NAME_BYTES:
        raise refusal(
            path,
            f"its names are {dtype}, expected strings or integers; objects are pickled and "
            "therefore refused: save numpy.array(names) of strings",
        )
    if tuple(shape) != (rows,):
        raise refusal(path, f"it has {rows:,} rows, but names of the shape {list(shape)}")
    if rows * dtype.itemsize > size:
        raise refusal(path, f"its {rows:,} names are truncated")
    names = np.frombuffer(opened.read(rows * dtype.itemsize), dtype)
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist()]
