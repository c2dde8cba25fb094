"""Features that other programs made become a store, as extraction would have written it.

An image whose file is damaged counts as failed, with the reason. Anything that is not as it should
be (another shape, another type, a link to elsewhere) ends the import with a message.
"""

import hashlib
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import FeatureFileError, StoreError, stored_reason
from feature_extraction.exchange.feature_files import HOW_TO_NAME_ROWS
from feature_extraction.exchange.finding import find
from feature_extraction.exchange.sources import FeatureFile, feature_shape, read_features
from feature_extraction.images.colours import BACKGROUND
from feature_extraction.images.decode import EXACT_PIXELS
from feature_extraction.names import near_names_hint
from feature_extraction.spec import IMPORTED, FeatureSpec, ResizeRule
from feature_extraction.store.layout import Status
from feature_extraction.store.partial import Batch, PartialStore, check_target, partial_folder
from feature_extraction.store.store import FeatureStore

if TYPE_CHECKING:
    from feature_extraction.extract import OnProgress  # needs torch, which an import does not

# N images of a batch, V tokens, C channels

__all__ = ["ImportResult", "import_features", "imported_spec"]

BATCH_BYTES = 2**23
IMAGES_ASKED_FOR_THE_SHAPE = 9
# Far more than any encoder gives of one image.
MAX_TOKENS = 2**14


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """What an import did.

    Args:
        images: Images the store lists.
        imported: Images this run read; the others were done before.
        failures: Reason by id of each image whose file is damaged.
        spec: What the store says of its features.
        file_bytes: Size of the store.
        seconds: Wall time of this run.
        left_out: Number of files that may hold features but were left out, by suffix.
    """

    images: int
    imported: int
    failures: Mapping[str, str]
    spec: FeatureSpec
    file_bytes: int
    seconds: float
    left_out: Mapping[str, int]


def imported_spec(
    encoder: str,
    shape: tuple[int, int],
    *,
    image_size: int = 224,
    resize: ResizeRule = "squash",
) -> FeatureSpec:
    """Describe features of which only the shape is known for certain.

    Encoder, image size and resize rule are what the caller says, and what `features verify` goes
    by. The hashes are of the encoder's name, so that stores imported under one name can be used
    together, but never with extracted ones; other fields hold what extraction would take.

    Args:
        encoder: Name of the tower.
        shape: Tokens and channels. One token is a pooled vector, a square number a square grid.
        image_size: Side of the square the tower saw, in pixels.
        resize: How photographs became that square.
    """
    tokens, channels = shape
    side = math.isqrt(tokens)
    name_sha256 = hashlib.sha256(f"{IMPORTED}: {encoder}".encode()).hexdigest()
    return FeatureSpec(
        encoder=encoder,
        weights=IMPORTED,
        architecture_sha256=name_sha256,
        weights_sha256=name_sha256,
        quick_gelu=False,
        image_size=image_size,
        resize=resize,
        background=BACKGROUND,
        exact_pixels=EXACT_PIXELS,
        layer="pooled" if tokens == 1 else "grid",
        grid=(side, side) if side * side == tokens else (1, tokens),
        channels=channels,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        precision="fp32",
        packages={"h5py": h5py.__version__},
    )


def import_features(
    source: str | Path,
    out: str | Path,
    *,
    encoder: str = IMPORTED,
    image_size: int = 224,
    resize: ResizeRule = "squash",
    on_progress: "OnProgress | None" = None,
) -> ImportResult:
    """Make a store of the features in a folder, or in one HDF5 file of groups.

    An interrupted import goes on where it was, and the file comes out the same. A finished one is
    left as it is, except that files that were damaged are tried again.

    Args:
        source: As `feature_extraction.exchange.sources` describes.
        out: The store to make.
        encoder: Name of the tower that made the features.
        image_size: Side of the square the tower saw, in pixels.
        resize: How photographs became that square.
        on_progress: Called after each batch.

    Raises:
        StoreError: There are no features, they differ in shape, one must not be read, or `out`
            cannot be written or holds something else.
    """
    started = time.monotonic()
    source, out = Path(source), Path(out)
    found = find(source, besides=out)
    files = found.files
    check_target(out)
    shape = _usual_shape(files)
    _refuse_rows_as_tokens(files[0], shape)
    spec = imported_spec(encoder, shape, image_size=image_size, resize=resize)
    previous = _previous_store(out, spec, files)
    redone = set() if previous is None else _readable_now(previous, files, shape)
    imported = 0
    if previous is None or redone:
        with PartialStore(out, spec, [file.image_id for file in files]) as partial:
            if previous is not None:
                partial.adopt(previous, redone=redone)
            imported = _fill(partial, files, shape, on_progress)
            partial.finish()
    else:
        # Left behind by a run that was killed between its last two steps.
        shutil.rmtree(partial_folder(out), ignore_errors=True)
    store = FeatureStore(out)
    return ImportResult(
        images=len(files),
        imported=imported,
        failures=store.failures,
        spec=store.spec,
        file_bytes=out.stat().st_size,
        seconds=time.monotonic() - started,
        left_out=found.left_out,
    )


def _usual_shape(files: Sequence[FeatureFile]) -> tuple[int, int]:
    """Take the shape most have of a few images spread over all: the first may be the odd one."""
    step = max(1, len(files) // IMAGES_ASKED_FOR_THE_SHAPE)
    shapes: Counter[tuple[int, int]] = Counter()
    reason = ""
    for file in files[::step]:
        try:
            shapes[feature_shape(file)] += 1
        except FeatureFileError as error:
            reason = str(error)
    if not shapes:
        raise StoreError(f"none of the files looked at can be read, such as: {reason}")
    return shapes.most_common(1)[0][0]


def _refuse_rows_as_tokens(file: FeatureFile, shape: tuple[int, int]) -> None:
    """Refuse what is most likely the features of many images, not of one with many tokens."""
    if shape[0] > MAX_TOKENS:
        raise StoreError(
            f"the features of {file.image_id!r} ({file.place}) have the shape {list(shape)}: are "
            f"these {shape[0]:,} images? {HOW_TO_NAME_ROWS}."
        )


def _fill(
    partial: PartialStore,
    files: Sequence[FeatureFile],
    shape: tuple[int, int],
    on_progress: "OnProgress | None",
) -> int:
    """Read every pending image; return how many that were."""
    pending = np.flatnonzero(partial.status == Status.PENDING)
    done = len(files) - len(pending)
    for start, end in _batches(pending, max(1, BATCH_BYTES // (2 * math.prod(shape)))):
        partial.write(_read_batch(files[start:end], start, shape))
        done += end - start
        if on_progress is not None:
            failed = int((partial.status == Status.FAILED).sum())
            on_progress(done, len(files), f"{failed:,} failed" if failed else "")
    return len(pending)


def _batches(rows: NDArray[np.intp], most: int) -> Iterator[tuple[int, int]]:
    """Cut ascending rows into stretches of at most `most` neighbours: first, and one past last."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if rows.size else []
    for run in runs:
        first, end = int(run[0]), int(run[-1]) + 1
        for start in range(first, end, most):
            yield start, min(start + most, end)


def _read_batch(files: Sequence[FeatureFile], start: int, shape: tuple[int, int]) -> Batch:
    features_NVC = np.zeros((len(files), *shape), np.float16)
    image_size_N2 = np.zeros((len(files), 2), np.int32)
    reasons = [""] * len(files)
    for position, file in enumerate(files):
        try:
            features_NVC[position], image_size_N2[position] = read_features(file, shape)
        except FeatureFileError as error:
            reasons[position] = stored_reason(error)
    return Batch(
        start=start,
        features=features_NVC,
        image_size=image_size_N2,
        reasons=reasons,
    )


def _previous_store(
    out: Path, spec: FeatureSpec, files: Sequence[FeatureFile]
) -> FeatureStore | None:
    """Open the store an earlier import finished, and make sure it is the one asked for now."""
    if not out.exists():
        return None
    store = FeatureStore(out)
    differences = store.spec.differences(spec)
    image_ids = [file.image_id for file in files]
    hint = ""
    if store.listed_ids != tuple(image_ids):
        differences.append(f"{len(store.listed_ids):,} images here, {len(files):,} others there")
        here = set(store.listed_ids)
        hint = near_names_hint(
            here.difference(image_ids), set(image_ids) - here, place="the source"
        )
    if differences:
        raise StoreError(
            f"{out} was made of something else ({'; '.join(differences)}; here is the file, there "
            f"this command). Choose another --out, or remove the file.{hint}"
        )
    return store


def _readable_now(
    store: FeatureStore, files: Sequence[FeatureFile], shape: tuple[int, int]
) -> set[int]:
    rows = set()
    for row, file in enumerate(files):
        if file.image_id in store:
            continue
        try:
            read_features(file, shape)
        except FeatureFileError:
            continue
        rows.add(row)
    return rows
