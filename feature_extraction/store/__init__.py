"""The HDF5 feature store: layout, reading, and writing that survives a kill."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feature_extraction.store.store import open_features

__all__ = ["open_features"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `store.disk` is imported where h5py should not be loaded.
    if name != "open_features":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from feature_extraction.store.store import open_features

    return open_features
