"""Text in HDF5: written so that damage is noticed, looked at before it is read.

Text of variable length lies in a heap of its own, without a checksum, and where that is damaged
HDF5 may never come back. So everything is written with a fixed length.
"""

from collections.abc import Sequence

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import StoreError

__all__ = ["fixed_texts", "read_text", "write_text"]


def fixed_texts(texts: Sequence[str]) -> NDArray[np.bytes_]:
    """Return texts as an array that h5py writes as UTF-8 of fixed length."""
    encoded = [text.encode() for text in texts]
    return np.array(encoded, h5py.string_dtype("utf-8", max(1, *map(len, encoded))))


def write_text(file: h5py.File, name: str, text: str) -> None:
    """Write an attribute that is one text."""
    (value,) = values = fixed_texts([text])
    file.attrs.create(name, value, dtype=values.dtype)


def read_text(file: h5py.File, name: str, longest: int) -> str | None:
    """Read an attribute of a file that is one text; `None` where there is none.

    Args:
        file: The file.
        name: The attribute.
        longest: Most characters it may have.

    Raises:
        StoreError: It is something else, or longer.
    """
    if name not in file.attrs:
        return None
    attribute = file.attrs.get_id(name)
    string = h5py.check_string_dtype(attribute.dtype)
    if string is None or attribute.shape != () or (string.length or 0) > longest:
        raise StoreError(f"the attribute {name!r} is not a text, expected JSON")
    text = file.attrs[name]
    if len(text) > longest:
        raise StoreError(f"the attribute {name!r} has {len(text):,} characters; refused")
    return text.decode() if isinstance(text, bytes) else str(text)
