"""Summary of a store: its images, their status, its size, and the distribution of its values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from feature_extraction.spec import FeatureSpec
from feature_extraction.store import open_features
from feature_extraction.store.reader import FeatureReader
from feature_extraction.store.source import Source

__all__ = ["StoreSummary", "ValueSummary", "summarise"]

MAX_SAMPLED_IMAGES = 64
MAX_SAMPLED_BYTES = 2**28
BINS = 12
# Many encoders have a few very large values; a histogram up to them would have one full bin.
SHOWN_SHARE = 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueSummary:
    """Distribution of the values in a sample of images.

    Args:
        images: Number of images in the sample, spread evenly over the file.
        minimum: Smallest value.
        maximum: Largest value.
        mean: Mean of all values.
        std: Standard deviation of all values.
        zero_share: Share of values that are exactly zero, in [0, 1].
        not_finite: Number of NaN and infinite values, which are excluded from everything else.
        edges: Edges of the histogram's bins, one more than bins. The first and the last bin also
            count values beyond their edges.
        counts: Number of values in each bin.
    """

    images: int
    minimum: float
    maximum: float
    mean: float
    std: float
    zero_share: float
    not_finite: int
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSummary:
    """Summary of a store.

    Args:
        spec: Settings of the features.
        files: Files that hold the features; for an index, the files it joins.
        compression: Distinct compressions of these files: `none`, `zstd` or `gzip`.
        listed: Number of images the store lists.
        done: Number of images with features.
        failures: Reason by id for each image that could not be read.
        pending: Number of images that are neither done nor failed.
        file_bytes: Size of the file; for an index, including the files it joins.
        values: Distribution of the values in a sample; `None` if no image has features.
        sources: Distinct sources of these files, of those that were imported from the Hub.
    """

    spec: FeatureSpec
    files: tuple[Path, ...]
    compression: tuple[str, ...]
    listed: int
    done: int
    failures: Mapping[str, str]
    pending: int
    file_bytes: int
    values: ValueSummary | None
    sources: tuple[Source, ...] = ()


def summarise(path: str | Path) -> StoreSummary:
    """Summarise a feature file, or an index and all files it joins.

    Raises:
        StoreError: It is missing, damaged, or not a feature store.
    """
    path = Path(path)
    store = open_features(path)
    listed, done = len(store.listed_ids), len(store)
    files = dict.fromkeys([path, *(each.path for each in store.files)])
    return StoreSummary(
        spec=store.spec,
        files=tuple(each.path for each in store.files),
        compression=tuple(sorted({each.compression for each in store.files})),
        listed=listed,
        done=done,
        failures=store.failures,
        pending=listed - done - len(store.failures),
        file_bytes=sum(each.stat().st_size for each in files),
        values=_summarise_values(store) if done else None,
        sources=tuple(dict.fromkeys(each.source for each in store.files if each.source)),
    )


def _summarise_values(store: FeatureReader) -> ValueSummary:
    image_ids = list(store)
    affordable = MAX_SAMPLED_BYTES // (4 * store.tokens * store.channels)
    sampled = min(len(image_ids), MAX_SAMPLED_IMAGES, max(1, affordable))
    rows = np.linspace(0, len(image_ids) - 1, sampled).round().astype(int)
    values = store.read([image_ids[row] for row in rows]).astype(np.float32).ravel()
    finite = values[np.isfinite(values)]
    if not finite.size:
        finite = np.zeros(1, np.float32)
    rest = (1 - SHOWN_SHARE) / 2
    low, high = np.quantile(finite, [rest, 1 - rest])
    counts, edges = np.histogram(
        finite.clip(low, high), BINS, (low, high) if low < high else (low - 0.5, low + 0.5)
    )
    return ValueSummary(
        images=sampled,
        minimum=float(finite.min()),
        maximum=float(finite.max()),
        mean=float(finite.mean(dtype=np.float64)),
        std=float(finite.std(dtype=np.float64)),
        zero_share=float((finite == 0).mean()),
        not_finite=int(values.size - np.isfinite(values).sum()),
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
    )
