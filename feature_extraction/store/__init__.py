"""The HDF5 feature store: its layout, reading, and writing that can be interrupted at any point.

A store is one feature file, or several that are read as one.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feature_extraction.store.open import open_features

__all__ = ["open_features"]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that importing `store.disk` does not load h5py.
    if name != "open_features":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from feature_extraction.store.open import open_features

    return open_features
