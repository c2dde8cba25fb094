"""Text in HDF5 files: written with a fixed length, and bounded before it is read.

HDF5 keeps text of variable length in a heap without a checksum; reading a damaged heap may never
return, and a few bytes of it can expand to any amount of text. Therefore text is written with a
fixed length. Files of early versions and of other tools have variable-length text; it is read in
small steps, and never more of it than the file has bytes.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import StoreError

__all__ = ["fixed_length_text", "read_rows_of_text", "read_text_attribute", "write_text_attribute"]

# Upper bound on the text that is read in one step.
STEP_BYTES = 2**26


def fixed_length_text(texts: Sequence[str]) -> NDArray[np.bytes_]:
    """Return texts as an array that h5py writes as fixed-length UTF-8."""
    encoded = [text.encode() for text in texts]
    return np.array(encoded, h5py.string_dtype("utf-8", max(1, *map(len, encoded))))


def write_text_attribute(file: h5py.File, name: str, text: str) -> None:
    """Write a text attribute of a file."""
    (value,) = values = fixed_length_text([text])
    file.attrs.create(name, value, dtype=values.dtype)


def read_text_attribute(file: h5py.File, name: str, max_length: int) -> str | None:
    """Return a text attribute of a file; `None` if it is missing.

    Args:
        file: The file.
        name: Name of the attribute.
        max_length: Maximum number of characters.

    Raises:
        StoreError: It is not a string, or is too long.
    """
    if name not in file.attrs:
        return None
    attribute = file.attrs.get_id(name)
    string = h5py.check_string_dtype(attribute.dtype)
    if string is None or attribute.shape != () or (string.length or 0) > max_length:
        raise StoreError(f"the attribute {name!r} is not a string, expected JSON")
    text = file.attrs[name]
    if len(text) > max_length:
        raise StoreError(
            f"the attribute {name!r} has {len(text):,} characters, expected at most {max_length:,}"
        )
    return text.decode() if isinstance(text, bytes) else str(text)


def read_rows_of_text(dataset: h5py.Dataset, rows: Sequence[int]) -> Iterator[str]:
    """Yield the given rows of a one-dimensional text dataset.

    Args:
        dataset: The dataset.
        rows: Row numbers in ascending order.

    Raises:
        StoreError: The rows hold more text than the file has bytes.
    """
    file_bytes, read = dataset.file.id.get_filesize(), 0
    # A variable-length text can be as long as the file.
    max_length = h5py.check_string_dtype(dataset.dtype).length or file_bytes
    step = max(1, STEP_BYTES // max_length)
    for start in range(0, dataset.shape[0], step):
        wanted = rows[bisect_left(rows, start) : bisect_left(rows, start + step)]
        texts = dataset.asstr("utf-8")[start : start + step] if wanted else []
        for row in wanted:
            text = texts[row - start]
            read += len(text)
            if read > file_bytes:
                raise StoreError(
                    f"{dataset.name} expands to more text than the {file_bytes:,} bytes of the "
                    "file; refused"
                )
            yield str(text)
