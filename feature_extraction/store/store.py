"""One feature file, read by image id in any process.

A file is checked before anything is read from it (`feature_extraction.store.layout`). Only images
with the status `DONE` have features; failed images are listed with their reasons.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import HOW_TO_EXTRACT, StoreError
from feature_extraction.names import abbreviate, near_names_hint
from feature_extraction.spec import FeatureSpec
from feature_extraction.store.filters import compression_name, read_filters
from feature_extraction.store.hdf5_reader import READ_ERRORS, open_hdf5, read_error
from feature_extraction.store.image_table import describe_repeated_ids, read_image_table
from feature_extraction.store.layout import Metadata, Status, check_layout, read_spec
from feature_extraction.store.reader import FeatureReader
from feature_extraction.store.row_reader import open_row_reader
from feature_extraction.store.shards import ShardRecord, read_shard_record
from feature_extraction.store.source import Source, read_source

# N requested images, V tokens, C channels

__all__ = ["FeatureStore", "combine_metadata", "has_same_content", "no_features_error"]

COMPARE_BLOCK_BYTES = 2**24


class FeatureStore:
    """The features of one HDF5 file; safe in forked and spawned workers.

    Each process opens its own handle at its first read; the handle is not pickled.

    Args:
        path: The HDF5 file.

    Raises:
        StoreError: There is no such file, it is damaged, or it is not a feature store.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        with open_hdf5(self._path) as file:
            check_layout(file)
            self._spec = read_spec(file)
            self._shard = read_shard_record(file)
            self._source = read_source(file)
            self._rows = open_row_reader(self._path, file["features"])
            _, self._tokens, self._channels = file["features"].shape
            self._compression = compression_name(read_filters(file["features"]))
            table = read_image_table(file)
        if (self._tokens, self._channels) != (self._spec.tokens, self._spec.channels):
            raise StoreError(
                f"{self._path}: /features holds {self._tokens} tokens of {self._channels} values, "
                f"but its spec has {self._spec.tokens} of {self._spec.channels}. Do not use the "
                f"file; extract the features again: {HOW_TO_EXTRACT}"
            )
        repeated = describe_repeated_ids(table.image_ids)
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
        """Settings of the features."""
        return self._spec

    @property
    def shard(self) -> ShardRecord | None:
        """Which part of a larger extraction the file holds; `None` for a complete one."""
        return self._shard

    @property
    def source(self) -> Source | None:
        """Where imported features were downloaded from; `None` if they were not."""
        return self._source

    @property
    def tokens(self) -> int:
        """Feature vectors per image."""
        return int(self._tokens)

    @property
    def channels(self) -> int:
        """Values per feature vector."""
        return int(self._channels)

    @property
    def failures(self) -> Mapping[str, str]:
        """Reason by id for each image that could not be read."""
        return self._table.failures

    @property
    def compression(self) -> str:
        """Compression of the features: `zstd`, `gzip` or `none`."""
        return self._compression

    @property
    def files(self) -> tuple["FeatureStore", ...]:
        """This store alone."""
        return (self,)

    @property
    def listed_ids(self) -> tuple[str, ...]:
        """Ids of all images the store lists, done or not, in file order."""
        return self._table.image_ids

    @property
    def listed_sizes(self) -> NDArray[np.int32]:
        """Height and width of each of `listed_ids`, int32 `[images, 2]`; zeros if it failed."""
        return self._table.image_size

    @property
    def status(self) -> NDArray[np.uint8]:
        """Status of each of `listed_ids`, uint8 `[images]`; values of `Status`."""
        return self._table.status

    def __len__(self) -> int:
        """Return the number of images that have features."""
        return len(self._row)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids of images that have features, in file order."""
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
            raise read_error(self._path, error) from error

    def image_size(self, image_id: str) -> tuple[int, int]:
        """Return height and width of the photograph in pixels, after EXIF rotation.

        Raises:
            StoreError: The image has no features here.
        """
        height, width = self._table.image_size[self._row_of(image_id)]
        return int(height), int(width)

    def missing(self, image_ids: Iterable[str]) -> list[str]:
        """Return the `image_ids` without features, in the given order and without repeats."""
        return [image_id for image_id in dict.fromkeys(image_ids) if image_id not in self._row]

    def read(self, image_ids: Sequence[str]) -> NDArray[np.float16]:
        """Return the features of several images, float16 `[images, tokens, channels]`.

        Args:
            image_ids: Ids in any order; repeats are allowed.

        Raises:
            StoreError: An image has no features here, or the file can no longer be read.
        """
        try:
            rows = list(map(self._row.__getitem__, image_ids))
        except KeyError:
            if isinstance(image_ids, str):
                raise StoreError(
                    f"the images to read are the string {image_ids!r:.60}: expected a list of ids"
                ) from None
            rows = [self._row_of(image_id) for image_id in image_ids]
        features_NVC = np.empty((len(rows), self._tokens, self._channels), np.float16)
        try:
            self._rows.read_into(rows, features_NVC)
        except READ_ERRORS as error:
            raise read_error(self._path, error) from error
        return features_NVC

    def read_into(self, image_id: str, features_VC: NDArray[np.float16]) -> None:
        """Fill a contiguous float16 array `[tokens, channels]` with the features of one image.

        Raises:
            StoreError: The image has no features here, or the file can no longer be read.
        """
        rows = [self._row_of(image_id)]
        try:
            self._rows.read_into(rows, features_VC[None])
        except READ_ERRORS as error:
            raise read_error(self._path, error) from error

    def require_finished(self) -> None:
        """Check that every image is done or failed.

        Raises:
            StoreError: Images are pending.
        """
        is_pending = ~np.isin(self.status, (Status.DONE, Status.FAILED))
        if is_pending.any():
            pending = [self.listed_ids[row] for row in np.flatnonzero(is_pending)]
            raise StoreError(
                f"{self._path} is not finished: {len(pending):,} images are pending "
                f"({abbreviate(pending)}). Run its extraction again."
            )

    def close(self) -> None:
        """Close this process's handle; the next read opens it again."""
        self._rows.close()

    def _row_of(self, image_id: str) -> int:
        row = self._row.get(image_id)
        if row is not None:
            return row
        raise no_features_error(self, str(self._path), image_id)


def no_features_error(store: FeatureReader, name: str, image_id: str) -> StoreError:
    """Return the error to raise when an image has no features in a store.

    Args:
        store: The store.
        name: Name of the store in the message.
        image_id: Id of the image.
    """
    reason = store.failures.get(image_id)
    found = f"could not be read during extraction: {reason}" if reason else "is missing"
    hint = "" if reason else near_names_hint([image_id], store)
    return StoreError(
        f"{name}: image {image_id!r} {found}. Extract the features of the folder that holds it: "
        f"{HOW_TO_EXTRACT}.{hint}"
    )


def combine_metadata(stores: Sequence[FeatureStore], shard: ShardRecord | None = None) -> Metadata:
    """Return the metadata of a file that would hold the images of several stores in order.

    Args:
        stores: Stores with equal specs.
        shard: Shard record of that file.
    """
    return Metadata(
        spec=stores[0].spec,
        image_ids=[image_id for store in stores for image_id in store.listed_ids],
        status=np.concatenate([store.status for store in stores]),
        image_size=np.concatenate([store.listed_sizes for store in stores]),
        reasons=[store.failures.get(i, "") for store in stores for i in store.listed_ids],
        shard=shard,
        source=stores[0].source if len({store.source for store in stores}) == 1 else None,
    )


def has_same_content(store: FeatureStore, parts: Sequence[FeatureStore]) -> bool:
    """Whether a store holds the images and features of other stores, one after another.

    Raises:
        StoreError: One of them cannot be read.
    """
    listed = tuple(image_id for part in parts for image_id in part.listed_ids)
    if (
        store.spec.to_json() != parts[0].spec.to_json()
        or store.listed_ids != listed
        or store.status.tobytes() != b"".join(part.status.tobytes() for part in parts)
        or _done_sizes(store) != b"".join(map(_done_sizes, parts))
        or store.failures != {key: why for part in parts for key, why in part.failures.items()}
    ):
        return False
    step = max(1, COMPARE_BLOCK_BYTES // (2 * store.tokens * store.channels))
    for part in parts:
        present = list(part)
        for start in range(0, len(present), step):
            image_ids = present[start : start + step]
            if store.read(image_ids).tobytes() != part.read(image_ids).tobytes():
                return False
    return True


def _done_sizes(store: FeatureStore) -> bytes:
    # The size of a failed image has no meaning.
    sizes: bytes = store.listed_sizes[store.status == Status.DONE].tobytes()
    return sizes
