"""Text in an HDF5 attribute, looked at before it is read."""

import h5py

from feature_extraction.errors import StoreError

__all__ = ["read_text"]


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
