"""One image's features as another program left them: where they are, and how they are refused."""

import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError

from feature_extraction.errors import StoreError
from feature_extraction.store.layout import MOST_VALUES_PER_IMAGE

__all__ = [
    "DAMAGE",
    "FEATURES",
    "HOW_TO_NAME_ROWS",
    "ID_NAMES",
    "UNKNOWN_SIZE",
    "FeatureFile",
    "StoredArray",
    "damage",
    "features_name",
    "is_name_of_many",
    "refusal",
    "rows_name",
    "token_shape",
]

FEATURES = "features"
# Names that other programs give to the features of many images.
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
# The same with the name of a split before or a number after them; the name that NumPy gives to an
# array without one; and the names that transformers gives to the output of an encoder.
MANY = re.compile(
    r"((all|train|val|valid|test|dev|image|img|vis|visual|vision|clip|coco)[-_.]?)*"
    r"(features?|feats?|embeddings?|embeds?|embs?|vectors)([-_.]?\d+)*"
    r"|arr_\d+|last_hidden_state|pooler_output",
    re.IGNORECASE,
)
# Names that other programs give to the names of these images.
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

# What h5py, NumPy, pyarrow, zipfile and safetensors raise on damaged files.
DAMAGE = (
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
    """Where the features of one image lie.

    Args:
        image_id: The image.
        path: The file; several images may lie in one.
        key: What the image is called in the file, where that is not its id.
        row: Its row, in a file with a row for each image.
    """

    image_id: str
    path: Path
    key: str | None = None
    row: int | None = None

    @property
    def place(self) -> str:
        """The file, and what of it, for messages."""
        if self.row is not None:
            return f"{self.path}, row {self.row:,}"
        return str(self.path) if self.key is None else f"{self.path}, {self.key!r}"


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array that is read when asked for."""

    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]
    image_size: tuple[int, int] = UNKNOWN_SIZE


def token_shape(file: FeatureFile, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return tokens and channels of an array's shape.

    Raises:
        StoreError: It is not the shape of one image's features.
    """
    if len(shape) not in (1, 2) or not 1 <= math.prod(shape) <= MOST_VALUES_PER_IMAGE:
        many = ""
        if len(shape) == 3:
            many = (
                f": are these {shape[0]:,} images in one file? {HOW_TO_NAME_ROWS}. Is it a map "
                "[channels, rows, columns]? Save it as [rows * columns, channels]"
            )
        raise refusal(
            file,
            f"the features of {file.image_id!r} have the shape {list(shape)}, expected "
            f"[tokens, channels] or [channels]{many}",
        )
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


HOW_TO_NAME_ROWS = (
    "Put their names into image_ids.npy or image_ids.txt in its folder, one per row, or both into "
    "one HDF5 file, as the datasets features and image_ids"
)


def features_name(names: Iterable[str]) -> str | None:
    """Return what may hold the features of many images among names; `None` where nothing does.

    Args:
        names: Of a file's datasets, arrays or columns.
    """
    known = list(names)
    usual = next((name for name in ROWS_NAMES if name in known), None)
    return usual or next(filter(is_name_of_many, known), None)


def rows_name(names: Iterable[str]) -> str | None:
    """Return the same as `features_name`, if names of images are there as well."""
    known = list(names)
    return features_name(known) if any(name in known for name in ID_NAMES) else None


def is_name_of_many(name: str) -> bool:
    """Whether what has this name is likely to hold the features of many images, not of one."""
    return MANY.fullmatch(name) is not None


def damage(path: Path, error: Exception, place: str | None = None) -> str:
    """Say why a file cannot be read.

    Args:
        path: The file.
        error: What a library said.
        place: The file and what of it, where that is not all.
    """
    # Libraries say it in other words, or that there is no such file.
    if os.access(path, os.F_OK) and not os.access(path, os.R_OK):
        return f"{place or path} cannot be read: permission denied. Change its permissions."
    reason = getattr(error, "strerror", None) or error
    return f"{place or path} is damaged or cut short: {reason}"


def refusal(file: FeatureFile, found: str) -> StoreError:
    """Return the error about a file that must not be read."""
    return StoreError(
        f"{file.path}: {found}. It was not read. Replace or remove the file and run the same "
        "command again."
    )
