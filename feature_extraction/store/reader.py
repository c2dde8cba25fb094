"""The interface for reading features, in training and evaluation."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feature_extraction.spec import FeatureSpec
from feature_extraction.store.source import Source

__all__ = ["FeatureReader", "StoredFile"]


class StoredFile(Protocol):
    """One file behind a reader."""

    @property
    def path(self) -> Path:
        """The HDF5 file."""

    @property
    def compression(self) -> str:
        """Compression of the features: `zstd`, `gzip` or `none`."""

    @property
    def source(self) -> Source | None:
        """Where imported features were downloaded from; `None` if they were not."""


class FeatureReader(Protocol):
    """One store, or several read as one."""

    @property
    def spec(self) -> FeatureSpec:
        """Settings of the features."""

    @property
    def tokens(self) -> int:
        """Feature vectors per image."""

    @property
    def channels(self) -> int:
        """Values per feature vector."""

    @property
    def files(self) -> Sequence[StoredFile]:
        """The files that hold the features."""

    @property
    def listed_ids(self) -> Sequence[str]:
        """Ids of all images, with features or not, in file order."""

    @property
    def failures(self) -> Mapping[str, str]:
        """Reason by id for each image that could not be read."""

    def __len__(self) -> int:
        """Return the number of images that have features."""

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids of images that have features, in file order."""

    def __contains__(self, image_id: object) -> bool:
        """Whether the image has features."""

    def __getitem__(self, image_id: str) -> NDArray[np.float16]:
        """Return the features of one image, float16 `[tokens, channels]`."""

    def image_size(self, image_id: str) -> tuple[int, int]:
        """Return height and width of the photograph in pixels, after EXIF rotation."""

    def missing(self, image_ids: Iterable[str]) -> list[str]:
        """Return the `image_ids` without features, in the given order and without repeats."""

    def read(self, image_ids: Sequence[str]) -> NDArray[np.float16]:
        """Return the features of several images, float16 `[images, tokens, channels]`."""
