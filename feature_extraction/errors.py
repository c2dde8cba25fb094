"""Errors about images, encoders and feature stores.

    FeatureError
    ├── ImageError       an image cannot be decoded
    ├── EncoderError     an encoder is unknown, or its weights cannot be loaded
    ├── FeatureFileError the features of one image cannot be read during an import
    ├── LockError        the file system does not support locks
    └── StoreError       a feature store is missing, damaged, or has other settings

Each message states what was found, what was expected and what to do.
"""

__all__ = [
    "HOW_TO_EXTRACT",
    "EncoderError",
    "FeatureError",
    "FeatureFileError",
    "ImageError",
    "LockError",
    "StoreError",
    "stored_reason",
]


# Advice for messages about missing features.
HOW_TO_EXTRACT = "vl-lst extract-features --images FOLDER --out FILE.h5"


# A store reserves the length of its longest reason for every image.
MAX_REASON_LENGTH = 200


def stored_reason(error: Exception) -> str:
    """Return the message of an error in the form that a store can hold.

    Messages of decoders may quote the file, but HDF5 text cannot contain NUL or lone surrogates.
    """
    text = str(error).encode(errors="backslashreplace").decode().replace("\0", "\\0")
    return text if len(text) <= MAX_REASON_LENGTH else text[: MAX_REASON_LENGTH - 1] + "…"


class FeatureError(Exception):
    """Base class of all errors of this package."""


class ImageError(FeatureError):
    """An image cannot be decoded."""


class EncoderError(FeatureError):
    """An image encoder is unknown, or its weights cannot be loaded."""


class FeatureFileError(FeatureError):
    """The features of one image cannot be read during an import; other images may be fine."""


class LockError(FeatureError):
    """The file system does not support the locks that keep other processes out."""


class StoreError(FeatureError):
    """A feature store is missing, damaged, or has other settings than expected."""
