"""Reading features back: one file or several, by image id, in any process.

A file is checked before anything is read from it (`feature_extraction.layout`). Only images whose
extraction is done count as present; failed ones are known with their reasons.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import StoreError
from feature_extraction.layout import Status, check_layout, read_spec
from feature_extraction.spec import FeatureSpec

# N images asked for, V tokens, C channels

__all__ = ["FeatureReader", "FeatureStore", "JoinedStore", "open_features"]

HOW_TO_EXTRACT = "vl-lst extract-features --images FOLDER --out FILE.h5"


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


class FeatureStore:
    """The features of one HDF5 file; safe in forked and spawned workers.

    Each process opens the file for itself, at its first read; pickling leaves the handle behind.

    Args:
        path: The HDF5 file.

    Raises:
        StoreError: There is no such file, it is damaged, or it is not a feature store.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._file: h5py.File | None = None
        self._pid = -1
        with _readable(self._path), self._open() as file:
            check_layout(file)
            self._spec = read_spec(file)
            _, self._tokens, self._channels = file["features"].shape
            image_ids = [str(image_id) for image_id in file["image_id"].asstr()[:]]
            status = file["status"][:]
            self._image_size: NDArray[np.int32] = file["image_size"][:]
            failed_rows = np.flatnonzero(status == Status.FAILED)
            reasons = file["reason"].asstr()
            self._failures = {image_ids[row]: str(reasons[row]) for row in failed_rows}
        if (self._tokens, self._channels) != (self._spec.tokens, self._spec.channels):
            raise StoreError(
                f"{self._path}: /features holds {self._tokens} tokens of {self._channels} numbers, "
                f"its spec says {self._spec.tokens} of {self._spec.channels}; the file is not to "
                f"be trusted, extract again: {HOW_TO_EXTRACT}"
            )
        if len(set(image_ids)) < len(image_ids):
            repeated = _first(_repeated(image_ids))
            raise StoreError(f"{self._path}: image ids occur more than once: {repeated}")
        self._all_ids = tuple(image_ids)
        done_rows = np.flatnonzero(status == Status.DONE)
        self._row = {image_ids[row]: int(row) for row in done_rows}

    @property
    def path(self) -> Path:
        """The HDF5 file."""
        return self._path

    @property
    def spec(self) -> FeatureSpec:
        """How the features were made."""
        return self._spec

    @property
    def tokens(self) -> int:
        """Feature vectors per image."""
        return int(self._tokens)

    @property
    def channels(self) -> int:
        """Numbers per feature vector."""
        return int(self._channels)

    @property
    def failures(self) -> Mapping[str, str]:
        """Reason by id of each image that could not be read."""
        return self._failures

    @property
    def listed_ids(self) -> tuple[str, ...]:
        """Ids of all images the store was made for, done or not, in the order of the file."""
        return self._all_ids

    def __len__(self) -> int:
        """Count the images that have features."""
        return len(self._row)

    def __iter__(self) -> Iterator[str]:
        """Go through the ids of images that have features, in the order of the file."""
        return iter(self._row)

    def __contains__(self, image_id: object) -> bool:
        """Whether the image has features."""
        return image_id in self._row

    def __getitem__(self, image_id: str) -> NDArray[np.float16]:
        """Return the features of one image, float16 `[tokens, channels]`.

        Raises:
            StoreError: The image has no features here.
        """
        features_VC: NDArray[np.float16] = self.read([image_id])[0]
        return features_VC

    def image_size(self, image_id: str) -> tuple[int, int]:
        """Return the height and width of the photograph in pixels, as it is seen upright.

        Raises:
            StoreError: The image has no features here.
        """
        height, width = self._image_size[self._row_of(image_id)]
        return int(height), int(width)

    def missing(self, image_ids: Iterable[str]) -> list[str]:
        """Return those of `image_ids` that have no features, each once, in the order given."""
        return [image_id for image_id in dict.fromkeys(image_ids) if image_id not in self._row]

    def read(self, image_ids: Sequence[str]) -> NDArray[np.float16]:
        """Return the features of several images, float16 `[images, tokens, channels]`.

        Args:
            image_ids: Ids in any order; an id may occur more than once.

        Raises:
            StoreError: An image has no features here, or the file cannot be read any more.
        """
        rows = [self._row_of(image_id) for image_id in image_ids]
        features_NVC = np.empty((len(rows), self._tokens, self._channels), np.float16)
        with _readable(self._path):
            dataset = self._opened()["features"]
            for position, row in enumerate(rows):
                dataset.read_direct(features_NVC, np.s_[row], np.s_[position])
        return features_NVC

    def close(self) -> None:
        """Close this process's handle; the next read opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the handle behind: it means nothing in another process."""
        return {**self.__dict__, "_file": None, "_pid": -1}

    def _row_of(self, image_id: str) -> int:
        row = self._row.get(image_id)
        if row is not None:
            return row
        reason = self._failures.get(image_id)
        found = f"could not be read when it was made: {reason}" if reason else "is not in it"
        raise StoreError(
            f"{self._path}: image {image_id!r} {found}. Extract the features of the folder that "
            f"holds it: {HOW_TO_EXTRACT}"
        )

    def _opened(self) -> h5py.File:
        if self._pid != os.getpid():
            # A forked child closes the handle it inherited before opening its own: HDF5 would
            # otherwise take the same file descriptor, and its offset, for both processes.
            self.close()
            self._pid = os.getpid()
        if self._file is None:
            self._file = self._open()
        return self._file

    def _open(self) -> h5py.File:
        # A chunk is one image and is read once: caching chunks would only copy them.
        return h5py.File(self._path, "r", rdcc_nbytes=0, locking="best-effort")


class JoinedStore:
    """Several stores made with the same settings, read as one.

    Args:
        stores: At least one store.

    Raises:
        StoreError: Their specs differ, or an image is in more than one.
    """

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        first = stores[0]
        self._stores = tuple(stores)
        self._store_of: dict[str, FeatureStore] = {}
        for store in stores:
            differences = first.spec.differences(store.spec)
            if differences:
                raise StoreError(
                    f"{first.path} and {store.path} were made with other settings "
                    f"({'; '.join(differences)}). Features can be used together only when made "
                    "alike: extract one of them again."
                )
            self._store_of.update(dict.fromkeys(store, store))
        listed = [image_id for store in stores for image_id in store.listed_ids]
        if len(set(listed)) < len(listed):
            raise StoreError(
                f"{', '.join(str(store.path) for store in stores)} share images: "
                f"{_first(_repeated(listed))}. Give each image's features once."
            )

    @property
    def spec(self) -> FeatureSpec:
        """How the features were made."""
        return self._stores[0].spec

    @property
    def tokens(self) -> int:
        """Feature vectors per image."""
        return self._stores[0].tokens

    @property
    def channels(self) -> int:
        """Numbers per feature vector."""
        return self._stores[0].channels

    @property
    def failures(self) -> Mapping[str, str]:
        """Reason by id of each image that could not be read."""
        return {key: why for store in self._stores for key, why in store.failures.items()}

    def __len__(self) -> int:
        """Count the images that have features."""
        return len(self._store_of)

    def __iter__(self) -> Iterator[str]:
        """Go through the ids of images that have features, file after file."""
        return iter(self._store_of)

    def __contains__(self, image_id: object) -> bool:
        """Whether the image has features."""
        return image_id in self._store_of

    def __getitem__(self, image_id: str) -> NDArray[np.float16]:
        """Return the features of one image, float16 `[tokens, channels]`.

        Raises:
            StoreError: The image has no features here.
        """
        return self._owner(image_id)[image_id]

    def image_size(self, image_id: str) -> tuple[int, int]:
        """Return the height and width of the photograph in pixels, as it is seen upright.

        Raises:
            StoreError: The image has no features here.
        """
        return self._owner(image_id).image_size(image_id)

    def missing(self, image_ids: Iterable[str]) -> list[str]:
        """Return those of `image_ids` that have no features, each once, in the order given."""
        return [image_id for image_id in dict.fromkeys(image_ids) if image_id not in self]

    def read(self, image_ids: Sequence[str]) -> NDArray[np.float16]:
        """Return the features of several images, float16 `[images, tokens, channels]`.

        Raises:
            StoreError: An image has no features here, or a file cannot be read any more.
        """
        features_NVC = np.empty((len(image_ids), self.tokens, self.channels), np.float16)
        for position, image_id in enumerate(image_ids):
            features_NVC[position] = self._owner(image_id)[image_id]
        return features_NVC

    def _owner(self, image_id: str) -> FeatureStore:
        store = self._store_of.get(image_id)
        if store is not None:
            return store
        reason = self.failures.get(image_id)
        found = f"could not be read when they were made: {reason}" if reason else "is in none"
        paths = ", ".join(str(store.path) for store in self._stores)
        raise StoreError(
            f"{paths}: image {image_id!r} {found}. Extract the features of the folder that holds "
            f"it: {HOW_TO_EXTRACT}"
        )


def open_features(paths: str | Path | Sequence[str | Path]) -> FeatureReader:
    """Open one feature file, or several made alike, such as one of train and one of val images.

    Raises:
        StoreError: A file is missing or damaged, the specs differ, or an image occurs twice.
    """
    several = [paths] if isinstance(paths, str | Path) else list(paths)
    if not several:
        raise StoreError(f"no feature file was given; make one: {HOW_TO_EXTRACT}")
    stores = [FeatureStore(path) for path in several]
    return stores[0] if len(stores) == 1 else JoinedStore(stores)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what HDF5 says about a missing or damaged file into what a person can act on."""
    if not path.is_file():
        unfinished = path.with_name(path.name + ".partial").exists()
        state = "its extraction is not finished: run the same command again" if unfinished else ""
        found = "is a folder" if path.is_dir() else state or "does not exist"
        raise StoreError(f"feature file {path} {found}. Make it with {HOW_TO_EXTRACT}")
    try:
        yield
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} cannot be read as an HDF5 feature store ({error}). It is damaged, cut short "
            f"or something else: copy it again from its source, or make it anew: {HOW_TO_EXTRACT}"
        ) from error


def _repeated(image_ids: Sequence[str]) -> list[str]:
    return [image_id for image_id, count in Counter(image_ids).items() if count > 1]


def _first(image_ids: Sequence[str], most: int = 5) -> str:
    more = f" and {len(image_ids) - most} more" if len(image_ids) > most else ""
    return ", ".join(image_ids[:most]) + more
