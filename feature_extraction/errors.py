"""What can go wrong with images, encoders and feature stores.

    FeatureError
    ├── ImageError       one image cannot be decoded
    ├── EncoderError     a tower is unknown or its weights do not fit
    ├── FeatureFileError one image's features, to be imported, cannot be read
    ├── LockError        a folder's file system has no locks to keep other processes out
    └── StoreError       a feature store is missing, damaged, or not the one that is needed

Each message says what was found, what was expected and what to do.
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


# What to do where there are no features.
HOW_TO_EXTRACT = "vl-lst extract-features --images FOLDER --out FILE.h5"


# Every image of a store has as much room for a reason as the longest one takes.
LONGEST_REASON = 200


def stored_reason(error: Exception) -> str:
    """Say why an image failed, as a store keeps it.

    What decoders say may quote the file: HDF5 text holds neither NUL nor lone surrogates.
    """
    text = str(error).encode(errors="backslashreplace").decode().replace("\0", "\\0")
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"


class FeatureError(Exception):
    """Root of the tree above."""


class ImageError(FeatureError):
    """One image cannot be decoded."""


class EncoderError(FeatureError):
    """A vision tower is unknown, or its weights cannot be loaded as they should be."""


class FeatureFileError(FeatureError):
    """The features of one image, which are to be imported, cannot be read; others may be."""


class LockError(FeatureError):
    """The file system cannot keep other processes out of what is being written."""


class StoreError(FeatureError):
    """A feature store is missing, damaged, or made with other settings than those needed."""
