"""Reading features back: one file or several, by image id, in any process.

A file is checked before anything is read from it (`feature_extraction.store.layout`). Only images
whose extraction is done count as present; failed ones are known with their reasons.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import HOW_TO_EXTRACT, StoreError
from feature_extraction.names import near_names_hint
from feature_extraction.spec import FeatureSpec
from feature_extraction.store.filters import compression_name, read_filters
from feature_extraction.store.index import IndexEntry, read_index
from feature_extraction.store.joined import JoinedStore
from feature_extraction.store.layout import Status, check_layout, read_spec
from feature_extraction.store.reader import FeatureReader
from feature_extraction.store.rows import row_reader
from feature_extraction.store.shards import ShardRecord, read_shard_record
from feature_extraction.store.table import read_table, repeated_ids
from feature_extraction.store.targets import link_target, partial_folder

# N images asked for, V tokens, C channels

__all__ = [
    "FeatureReader",
    "FeatureStore",
    "JoinedStore",
    "holds_same",
    "is_index",
    "open_features",
]

COMPARED_BYTES = 2**24
READ_ERRORS = (StoreError, OSError, RuntimeError, ValueError, KeyError, TypeError)


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
        with _readable(self._path), _opened(self._path) as file:
            check_layout(file)
            self._spec = read_spec(file)
            self._shard = read_shard_record(file)
            self._rows = row_reader(self._path, file["features"])
            _, self._tokens, self._channels = file["features"].shape
            self._compression = compression_name(read_filters(file["features"]))
            table = read_table(file)
        if (self._tokens, self._channels) != (self._spec.tokens, self._spec.channels):
            raise StoreError(
                f"{self._path}: /features holds {self._tokens} tokens of {self._channels} numbers, "
                f"its spec says {self._spec.tokens} of {self._spec.channels}; the file is not to "
                f"be trusted, extract again: {HOW_TO_EXTRACT}"
            )
        repeated = repeated_ids(table.image_ids)
        if repeated:
            raise StoreError(f"{self._path}: image ids occur more than once: {repeated}")
        self._table = table
        done_rows = np.flatnonzero(table.status == Status.DONE).tolist()
        self._row = {table.image_ids[row]: row for row in done_rows}

    @property
    def path(self) -> Path:
        """The HDF5 file."""
        return self._path

    @property
    def spec(self) -> FeatureSpec:
        """How the features were made."""
        return self._spec

    @property
    def shard(self) -> ShardRecord | None:
        """Which part of a larger extraction this is; `None` for a whole one."""
        return self._shard

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
        return self._table.failures

    @property
    def compression(self) -> str:
        """How its features are compressed: `zstd`, `gzip` or `none`."""
        return self._compression

    @property
    def files(self) -> tuple["FeatureStore", ...]:
        """This store alone."""
        return (self,)

    @property
    def listed_ids(self) -> tuple[str, ...]:
        """Ids of all images the store was made for, done or not, in the order of the file."""
        return self._table.image_ids

    @property
    def listed_sizes(self) -> NDArray[np.int32]:
        """Height and width of each of `listed_ids`, `[images, 2]`; zeros where it failed."""
        return self._table.image_size

    @property
    def status(self) -> NDArray[np.uint8]:
        """What became of each of `listed_ids`, as `feature_extraction.store.layout.Status`."""
        return self._table.status

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
        row = self._row.get(image_id)
        if row is None:
            row = self._row_of(image_id)
        try:
            return self._rows.read(row)
        except READ_ERRORS as error:
            raise _explained(self._path, error) from error

    def image_size(self, image_id: str) -> tuple[int, int]:
        """Return the height and width of the photograph in pixels, as it is seen upright.

        Raises:
            StoreError: The image has no features here.
        """
        height, width = self._table.image_size[self._row_of(image_id)]
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
        try:
            rows = list(map(self._row.__getitem__, image_ids))
        except KeyError:
            if isinstance(image_ids, str):
                raise StoreError(
                    f"the images to read are the text {image_ids!r:.60}: expected a list of ids"
                ) from None
            rows = [self._row_of(image_id) for image_id in image_ids]
        features_NVC = np.empty((len(rows), self._tokens, self._channels), np.float16)
        try:
            self._rows.read_into(rows, features_NVC)
        except READ_ERRORS as error:
            raise _explained(self._path, error) from error
        return features_NVC

    def read_into(self, image_id: str, features_VC: NDArray[np.float16]) -> None:
        """Fill a contiguous float16 array `[tokens, channels]` with the features of one image.

        Raises:
            StoreError: The image has no features here, or the file cannot be read any more.
        """
        rows = [self._row_of(image_id)]
        try:
            self._rows.read_into(rows, features_VC[None])
        except READ_ERRORS as error:
            raise _explained(self._path, error) from error

    def close(self) -> None:
        """Close this process's handle; the next read opens it again."""
        self._rows.close()

    def _row_of(self, image_id: str) -> int:
        row = self._row.get(image_id)
        if row is not None:
            return row
        reason = self._table.failures.get(image_id)
        found = f"could not be read when it was made: {reason}" if reason else "is not in it"
        hint = "" if reason else near_names_hint([image_id], self)
        raise StoreError(
            f"{self._path}: image {image_id!r} {found}. Extract the features of the folder that "
            f"holds it: {HOW_TO_EXTRACT}.{hint}"
        )


def open_features(paths: str | Path | Sequence[str | Path]) -> FeatureReader:
    """Open one feature file, or several made alike, such as one of train and one of val images.

    Args:
        paths: Each a file of features, or an index that `features join` made of several.

    Raises:
        StoreError: A file, or one that an index names, is missing or damaged; the specs differ, or
            an image occurs twice.
    """
    if not isinstance(paths, Iterable | Path):
        raise StoreError(
            f"the feature files are {paths!r:.60} ({type(paths).__name__}): expected a path, or "
            "several in a list"
        )
    several = [paths] if isinstance(paths, str | Path) else list(paths)
    if not several:
        raise StoreError(f"no feature file was given; make one: {HOW_TO_EXTRACT}")
    stores = [store for path in several for store in _stores(Path(path))]
    if len(stores) == 1:
        return stores[0]
    return JoinedStore(stores, ", ".join(str(path) for path in several))


def holds_same(store: FeatureStore, parts: Sequence[FeatureStore]) -> bool:
    """Whether a store holds the images and features of other stores, one after another.

    Raises:
        StoreError: One of them cannot be read.
    """
    listed = tuple(image_id for part in parts for image_id in part.listed_ids)
    if (
        store.spec.to_json() != parts[0].spec.to_json()
        or store.listed_ids != listed
        or store.status.tobytes() != b"".join(part.status.tobytes() for part in parts)
        or _sizes_done(store) != b"".join(map(_sizes_done, parts))
        or store.failures != {key: why for part in parts for key, why in part.failures.items()}
    ):
        return False
    step = max(1, COMPARED_BYTES // (2 * store.tokens * store.channels))
    for part in parts:
        present = list(part)
        for start in range(0, len(present), step):
            image_ids = present[start : start + step]
            if store.read(image_ids).tobytes() != part.read(image_ids).tobytes():
                return False
    return True


def _sizes_done(store: FeatureStore) -> bytes:
    # Of failed images a size means nothing.
    sizes: bytes = store.listed_sizes[store.status == Status.DONE].tobytes()
    return sizes


def is_index(path: Path) -> bool:
    """Whether the file is an index that `read_index` accepts; the files it joins are not opened."""
    try:
        with _readable(path), _opened(path) as file:
            return read_index(file) is not None
    except StoreError:
        return False


def _stores(path: Path) -> list[FeatureStore]:
    """Open the store at `path`, or all that the index at `path` lists."""
    with _readable(path), _opened(path) as file:
        entries = read_index(file)
        spec = None if entries is None else read_spec(file)
    if entries is None or spec is None:
        return [FeatureStore(path)]
    return [_indexed_store(path, spec, entry) for entry in entries]


def _indexed_store(index: Path, spec: FeatureSpec, entry: IndexEntry) -> FeatureStore:
    """Open one file of an index and make sure that it is still the one that was joined."""
    # Never through HDF5's virtual dataset, which gives fill values where a file is missing.
    path = index.parent / entry.name
    if not path.exists():
        # The names are relative to the index itself, not to a link to it.
        path = link_target(index).parent / entry.name
    try:
        store = FeatureStore(path)
    except StoreError as error:
        raise StoreError(
            f"{index} is an index, and one of the files it joins cannot be used: {error} Files "
            "that were joined belong beside their index, wherever it is moved."
        ) from None
    differences = spec.differences(store.spec)
    if store.listed_ids != entry.image_ids:
        differences.append("other images")
    elif store.status.tobytes() != entry.status.tobytes():
        differences.append("other images done")
    if differences:
        raise StoreError(
            f"{path} has changed since {index} was made of it ({'; '.join(differences)}). Join the "
            f"files again: vl-lst features join FILES --out {index}"
        )
    return store


def _opened(path: Path) -> h5py.File:
    # Files are replaced whole, never written in place; and some file systems have no locks.
    return h5py.File(path, "r", locking=False)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Tell a missing, an unfinished and a damaged file apart."""
    if not path.is_file():
        raise StoreError(f"feature file {path} {_absence(path)}. Make it with {HOW_TO_EXTRACT}")
    try:
        yield
    except READ_ERRORS as error:
        raise _explained(path, error) from error


def _absence(path: Path) -> str:
    """Describe what exists where a file was expected."""
    if path.is_dir():
        return "is a folder"
    if path.exists():
        return "does not exist as a file: it is a device, a named pipe or a socket"
    if partial_folder(path).exists():
        return "is not finished: run the same command again"
    return "does not exist"


def _explained(path: Path, error: Exception) -> StoreError:
    """Turn what HDF5 or the system says about a damaged file into what a person can act on."""
    if isinstance(error, StoreError):
        return StoreError(f"{path}: {error}")
    if isinstance(error, PermissionError):
        return StoreError(
            f"{path} cannot be read: permission denied. Ask its owner for permission to read it, "
            "or give another file."
        )
    return StoreError(
        f"{path} cannot be read as an HDF5 feature store ({error}). It is damaged, cut short "
        f"or something else: copy it again from its source, or make it anew: {HOW_TO_EXTRACT}"
    )
