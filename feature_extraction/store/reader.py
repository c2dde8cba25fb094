"""What trainers and evaluators need of features, whatever files hold them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feature_extraction.spec import FeatureSpec

__all__ = ["FeatureReader", "StoredFile"]


class StoredFile(Protocol):
    """One file of a reader."""

    @property
    def path(self) -> Path:
        """The HDF5 file."""

    @property
    def compression(self) -> str:
        """How its features are compressed: `zstd`, `gzip` or `none`."""


class FeatureReader(Protocol):
    """What trainers and evaluators need of a store, or of several read as one."""

    @property
    def spec(self) -> FeatureSpec:
        """How the features were made."""

    @property
    def tokens(self) -> int:
        """Feature vectors per image."""

    @property
    def channels(self) -> int:
        """Numbers per feature vector."""

    @property
    def files(self) -> Sequence[StoredFile]:
        """The files that hold the features."""

    @property
    def listed_ids(self) -> Sequence[str]:
        """Ids of all images, with features or not, in the order of the files."""

    @property
    def failures(self) -> Mapping[str, str]:
        """Reason by id of each image that could not be read."""

    def __len__(self) -> int:
        """Count the images that have features."""

    def __iter__(self) -> Iterator[str]:
        """Go through the ids of images that have features, in the order of the file."""

    def __contains__(self, image_id: object) -> bool:
        """Whether the image has features."""

    def __getitem__(self, image_id: str) -> NDArray[np.float16]:
        """Return the features of one image, float16 `[tokens, channels]`."""

    def image_size(self, image_id: str) -> tuple[int, int]:
        """Return the height and width of the photograph in pixels, as it is seen upright."""

    def missing(self, image_ids: Iterable[str]) -> list[str]:
        """Return those of `image_ids` that have no features, each once, in the order given."""

    def read(self, image_ids: Sequence[str]) -> NDArray[np.float16]:
        """Return the features of several images, float16 `[images, tokens, channels]`."""
