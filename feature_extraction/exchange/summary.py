"""What is in a store, in numbers: its images, their fate, its size, and how its values lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from feature_extraction.spec import FeatureSpec
from feature_extraction.store.store import FeatureReader, open_features

__all__ = ["StoreSummary", "ValueSummary", "summarise"]

IMAGES_SAMPLED = 64
SAMPLED_BYTES = 2**28
BINS = 12
# So that a few very large values, which many towers give, do not leave one bin with all the rest.
SHOWN_SHARE = 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueSummary:
    """How the values of some images lie.

    Args:
        images: Images looked at, spread evenly over the file.
        least: Smallest value.
        greatest: Largest value.
        mean: Of all values.
        std: Standard deviation of all values.
        zero_share: Share of values that are exactly zero, in [0, 1].
        not_finite: Values that are NaN or infinite, which are left out of all else.
        edges: Borders of the histogram's bins, one more than there are bins; the first and the
            last bin also count what lies beyond them.
        counts: Values in each bin.
    """

    images: int
    least: float
    greatest: float
    mean: float
    std: float
    zero_share: float
    not_finite: int
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSummary:
    """What is in a store.

    Args:
        spec: How the features were made.
        files: The files that hold them; of an index those it joins.
        compression: How each of them is compressed, each way once: `none`, `zstd` or `gzip`.
        listed: Images the store was made for.
        done: Images that have features.
        failures: Reason by id of each image that could not be read.
        pending: Images that have neither.
        file_bytes: Size of the file; of an index, with those it joins.
        values: How the values of a sample lie; `None` where no image has features.
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
    )


def _summarise_values(store: FeatureReader) -> ValueSummary:
    image_ids = list(store)
    affordable = SAMPLED_BYTES // (4 * store.tokens * store.channels)
    sampled = min(len(image_ids), IMAGES_SAMPLED, max(1, affordable))
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
        least=float(finite.min()),
        greatest=float(finite.max()),
        mean=float(finite.mean(dtype=np.float64)),
        std=float(finite.std(dtype=np.float64)),
        zero_share=float((finite == 0).mean()),
        not_finite=int(values.size - np.isfinite(values).sum()),
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
    )
