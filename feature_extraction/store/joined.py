"""Several stores with equal specs, read as one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import StoreError
from feature_extraction.spec import FeatureSpec
from feature_extraction.store.image_table import describe_repeated_ids
from feature_extraction.store.store import FeatureStore, no_features_error

# N requested images, V tokens, C channels

__all__ = ["JoinedStore"]


class JoinedStore:
    """Several stores with equal specs, read as one.

    Args:
        stores: At least one store.
        name: Name of the joined store in messages. Default: the paths of its files.

    Raises:
        StoreError: Their specs differ, or an image is in more than one.
    """

    def __init__(self, stores: Sequence[FeatureStore], name: str | None = None) -> None:
        first = stores[0]
        self._name = name or ", ".join(str(store.path) for store in stores)
        self._stores = tuple(stores)
        self._store_of: dict[str, FeatureStore] = {}
        for store in stores:
            differences = store.spec.differences(first.spec)
            if differences:
                raise StoreError(
                    f"{store.path} was made with other settings than {first.path} "
                    f"({'; '.join(differences)}). Features can be used together only if their "
                    "settings are the same: extract one of them again."
                )
            self._store_of.update(dict.fromkeys(store, store))
        repeated = describe_repeated_ids(self.listed_ids)
        if repeated:
            raise StoreError(
                f"{self._name} share images: {repeated}. Pass the features of each image once."
            )

    @property
    def spec(self) -> FeatureSpec:
        """Settings of the features."""
        return self._stores[0].spec

    @property
    def tokens(self) -> int:
        """Feature vectors per image."""
        return self._stores[0].tokens

    @property
    def channels(self) -> int:
        """Values per feature vector."""
        return self._stores[0].channels

    @property
    def files(self) -> tuple[FeatureStore, ...]:
        """The stores, one per file."""
        return self._stores

    @property
    def listed_ids(self) -> tuple[str, ...]:
        """Ids of all images the stores list, done or not, file by file."""
        return tuple(image_id for store in self._stores for image_id in store.listed_ids)

    @property
    def failures(self) -> Mapping[str, str]:
        """Reason by id for each image that could not be read."""
        return {key: why for store in self._stores for key, why in store.failures.items()}

    def __len__(self) -> int:
        """Return the number of images that have features."""
        return len(self._store_of)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids of images that have features, file by file."""
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
        """Return height and width of the photograph in pixels, after EXIF rotation.

        Raises:
            StoreError: The image has no features here.
        """
        return self._owner(image_id).image_size(image_id)

    def missing(self, image_ids: Iterable[str]) -> list[str]:
        """Return the `image_ids` without features, in the given order and without repeats."""
        return [image_id for image_id in dict.fromkeys(image_ids) if image_id not in self]

    def read(self, image_ids: Sequence[str]) -> NDArray[np.float16]:
        """Return the features of several images, float16 `[images, tokens, channels]`.

        Raises:
            StoreError: An image has no features here, or a file can no longer be read.
        """
        features_NVC = np.empty((len(image_ids), self.tokens, self.channels), np.float16)
        for position, image_id in enumerate(image_ids):
            self._owner(image_id).read_into(image_id, features_NVC[position])
        return features_NVC

    def _owner(self, image_id: str) -> FeatureStore:
        store = self._store_of.get(image_id)
        if store is not None:
            return store
        raise no_features_error(self, self._name, image_id)
