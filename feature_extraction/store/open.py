"""Open feature files: one file, an index of several, or several files together."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from feature_extraction.errors import HOW_TO_EXTRACT, StoreError
from feature_extraction.spec import FeatureSpec
from feature_extraction.store.hdf5_reader import open_hdf5
from feature_extraction.store.index import IndexEntry, read_index
from feature_extraction.store.joined import JoinedStore
from feature_extraction.store.layout import read_spec
from feature_extraction.store.outputs import resolve_link
from feature_extraction.store.reader import FeatureReader
from feature_extraction.store.store import FeatureStore

__all__ = ["is_index", "open_features"]


def open_features(paths: str | Path | Sequence[str | Path]) -> FeatureReader:
    """Open feature files as one reader.

    Args:
        paths: A feature file, an index made by `vl-lst features join`, or a list of these with
            equal specs, such as one file of train and one of val images.

    Raises:
        StoreError: A file, or one that an index lists, is missing or damaged; the specs differ, or
            an image occurs twice.
    """
    if not isinstance(paths, Iterable | Path):
        raise StoreError(
            f"the feature files are {paths!r:.60} ({type(paths).__name__}): expected a path, or "
            "several in a list"
        )
    several = [paths] if isinstance(paths, str | Path) else list(paths)
    if not several:
        raise StoreError(f"no feature file was given. Make one: {HOW_TO_EXTRACT}")
    stores = [store for path in several for store in _open_stores(Path(path))]
    if len(stores) == 1:
        return stores[0]
    return JoinedStore(stores, ", ".join(str(path) for path in several))


def is_index(path: Path) -> bool:
    """Whether `path` is a valid index; the files it joins are not opened."""
    try:
        with open_hdf5(path) as file:
            return read_index(file) is not None
    except StoreError:
        return False


def _open_stores(path: Path) -> list[FeatureStore]:
    """Open the store at `path`, or all stores that the index at `path` lists."""
    with open_hdf5(path) as file:
        entries = read_index(file)
        spec = None if entries is None else read_spec(file)
    if entries is None or spec is None:
        return [FeatureStore(path)]
    return [_open_indexed(path, spec, entry) for entry in entries]


def _open_indexed(index: Path, spec: FeatureSpec, entry: IndexEntry) -> FeatureStore:
    """Open a file that an index lists, and check that it has not changed since it was joined."""
    # Do not read HDF5's virtual dataset: it returns fill values if a file is missing.
    path = index.parent / entry.name
    if not path.exists():
        # The names are relative to the index itself, not to a link to it.
        path = resolve_link(index).parent / entry.name
    try:
        store = FeatureStore(path)
    except StoreError as error:
        reason = str(error).rstrip(".")
        raise StoreError(
            f"{index} is an index, and one of the files it joins cannot be used: {reason}. Keep "
            "joined files in the folder of their index when you move it."
        ) from None
    differences = store.spec.differences(spec)
    if store.listed_ids != entry.image_ids:
        differences.append("it lists other images")
    elif store.status.tobytes() != entry.status.tobytes():
        differences.append("other images are done")
    if differences:
        raise StoreError(
            f"{path} has changed since {index} was made ({'; '.join(differences)}). Join the "
            f"files again: vl-lst features join FILES --out {index}"
        )
    return store
