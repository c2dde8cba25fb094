"""One image's features in a file of another program: location, naming conventions, errors."""

import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError

from feature_extraction.errors import StoreError
from feature_extraction.store.layout import MAX_VALUES_PER_IMAGE

__all__ = [
    "DAMAGE_ERRORS",
    "FEATURES",
    "HOLDS_MANY_IMAGES",
    "HOW_TO_NAME_ROWS",
    "HOW_TO_REPLACE",
    "ID_NAMES",
    "UNKNOWN_SIZE",
    "FeatureFile",
    "StoredArray",
    "describe_damage",
    "explain_damage",
    "find_features_name",
    "find_rows_name",
    "is_name_of_many",
    "parse_token_shape",
    "refusal",
]

FEATURES = "features"
# Names that other programs use for an array with one row per image.
ROWS_NAMES = (
    FEATURES,
    "feature",
    "feats",
    "embeddings",
    "embedding",
    "image_features",
    "image_embeddings",
    "image_embedding",
    "img_emb",
)
# The same names with a split before or a number after them, NumPy's default name of an array, and
# the names of encoder outputs in transformers.
MANY_IMAGES = re.compile(
    r"((all|train|val|valid|test|dev|image|img|vis|visual|vision|clip|coco)[-_.]?)*"
    r"(features?|feats?|embeddings?|embeds?|embs?|vectors)([-_.]?\d+)*"
    r"|arr_\d+|last_hidden_state|pooler_output",
    re.IGNORECASE,
)
# Names that other programs use for the list of image names.
ID_NAMES = (
    "image_ids",
    "image_id",
    "ids",
    "id",
    "keys",
    "key",
    "img_ids",
    "img_id",
    "image_names",
    "image_paths",
    "image_path",
    "filenames",
    "file_names",
    "file_name",
    "filename",
    "paths",
    "names",
)
UNKNOWN_SIZE = (0, 0)

# Exceptions that h5py, NumPy, pyarrow, zipfile and safetensors raise on damaged files.
DAMAGE_ERRORS = (
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    SyntaxError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """Location of the features of one image.

    Args:
        image_id: Id of the image.
        path: The file, which may hold several images.
        key: Name of the image in the file, if it differs from the id.
        row: Row of the image, if the file has one row per image.
    """

    image_id: str
    path: Path
    key: str | None = None
    row: int | None = None

    @property
    def place(self) -> str:
        """The file and the position in it, for messages."""
        if self.row is not None:
            return f"{self.path}, row {self.row:,}"
        return str(self.path) if self.key is None else f"{self.path}, {self.key!r}"


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array that is read on demand.

    Args:
        shape: Shape of the array.
        read: Function that reads it.
        image_size: Height and width of the photograph in pixels; zeros if they are not known.
    """

    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]
    image_size: tuple[int, int] = UNKNOWN_SIZE


def parse_token_shape(file: FeatureFile, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the tokens and channels of an array of the given shape.

    Raises:
        StoreError: The shape is not that of one image's features.
    """
    if len(shape) not in (1, 2) or not 1 <= math.prod(shape) <= MAX_VALUES_PER_IMAGE:
        many = ""
        if len(shape) == 3:
            many = (
                f". If these are {shape[0]:,} images in one file: {HOW_TO_NAME_ROWS}. If it is a "
                "feature map [channels, rows, columns], save it as [rows * columns, channels]"
            )
        raise refusal(
            file.path,
            f"the features of {file.image_id!r} have the shape {list(shape)}, expected "
            f"[tokens, channels] or [channels]{many}",
        )
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


HOLDS_MANY_IMAGES = (
    "it holds the features of many images, with their names; pass the file itself to import them"
)
HOW_TO_REPLACE = "Replace or remove the file and run the same command again."
HOW_TO_NAME_ROWS = (
    "Put the image names into image_ids.npy or image_ids.txt in the same folder, one per row, or "
    "save one HDF5 file with the datasets features and image_ids"
)


def find_features_name(names: Iterable[str]) -> str | None:
    """Return the name most likely to hold the features of many images; `None` if none does.

    Args:
        names: Names of a file's datasets, arrays or columns.
    """
    known = list(names)
    common = next((name for name in ROWS_NAMES if name in known), None)
    return common or next(filter(is_name_of_many, known), None)


def find_rows_name(names: Iterable[str]) -> str | None:
    """Return `find_features_name(names)` if there is a list of image names as well, else `None`."""
    known = list(names)
    return find_features_name(known) if any(name in known for name in ID_NAMES) else None


def is_name_of_many(name: str) -> bool:
    """Whether an array of this name is likely to hold the features of many images."""
    return MANY_IMAGES.fullmatch(name) is not None


def describe_damage(path: Path, error: Exception, place: str | None = None) -> str:
    """Return why a file cannot be read, for a message.

    Args:
        path: The file.
        error: Error of a library.
        place: The file and the position in it; default: the file.
    """
    # Libraries word this differently, or report a missing file.
    if os.access(path, os.F_OK) and not os.access(path, os.R_OK):
        return f"{place or path} cannot be read: permission denied. Change its permissions."
    reason = getattr(error, "strerror", None) or error
    return f"{place or path} is damaged or truncated: {reason}"


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Raise library errors about a damaged file in the block as a `StoreError`.

    Raises:
        StoreError: See `describe_damage`.
    """
    try:
        yield
    except DAMAGE_ERRORS as error:
        raise StoreError(describe_damage(path, error)) from error


def refusal(path: Path, found: str) -> StoreError:
    """Return the error for a file that is not read because of what was found in it."""
    return StoreError(f"{path}: {found}. It was not read. {HOW_TO_REPLACE}")
