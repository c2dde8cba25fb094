"""Import features made by other programs into a store.

An image whose file is damaged is listed as failed, with the reason. Anything else that is wrong (a
different shape or type, a link to another file) ends the import with an error.
"""

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import FeatureFileError, StoreError, stored_reason
from feature_extraction.exchange.foreign.feature_file import (
    HOW_TO_NAME_ROWS,
    FeatureFile,
    parse_token_shape,
)
from feature_extraction.exchange.foreign.find import check_ids, find_features
from feature_extraction.exchange.foreign.found import FoundFeatures
from feature_extraction.exchange.foreign.read import read_features, read_shape
from feature_extraction.exchange.hub_files import is_hub_address
from feature_extraction.images.colours import BACKGROUND
from feature_extraction.images.decode import EXACT_PIXELS
from feature_extraction.names import near_names_hint
from feature_extraction.progress import OnProgress
from feature_extraction.spec import IMPORTED, FeatureSpec, ResizeRule, grid_side
from feature_extraction.store.layout import Status
from feature_extraction.store.outputs import check_output_file, remove_leftovers
from feature_extraction.store.source import describe_source
from feature_extraction.store.store import FeatureStore
from feature_extraction.store.writer import Batch, StoreWriter

# N images of a batch, V tokens, C channels

__all__ = ["ImportResult", "import_features", "imported_spec"]

BATCH_BYTES = 2**23
NUM_SHAPE_SAMPLES = 9
DEFAULT_IMAGE_SIZE = 224
DEFAULT_RESIZE: ResizeRule = "squash"
# Far more than any encoder produces for one image.
MAX_TOKENS = 2**14


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """Result of an import.

    Args:
        images: Number of images the store lists.
        imported: Number of images this run read; the others were already done.
        failures: Reason by id for each image whose file is damaged.
        spec: Settings of the features, as far as they are known.
        file_bytes: Size of the store.
        seconds: Wall time of this run.
        left_out: Number by suffix of files that may hold features but were not imported.
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
    image_size: int = DEFAULT_IMAGE_SIZE,
    resize: ResizeRule = DEFAULT_RESIZE,
) -> FeatureSpec:
    """Return the spec of features for which only the shape is certain.

    Encoder, image size and resize rule are claims of the caller; `vl-lst features verify` checks
    them. The hashes are derived from the encoder's name, so that stores imported under the same
    name can be used together, but never with extracted ones. The other fields have the values that
    extraction would use.

    Args:
        encoder: Name of the image encoder.
        shape: Tokens and channels. One token is a pooled vector; a square number of tokens is a
            square grid.
        image_size: Side of the square input of the encoder, in pixels.
        resize: How photographs were resized to that square.
    """
    tokens, channels = shape
    side = grid_side(tokens)
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
        grid=(1, tokens) if side is None else (side, side),
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
    image_size: int = DEFAULT_IMAGE_SIZE,
    resize: ResizeRule = DEFAULT_RESIZE,
    on_progress: OnProgress | None = None,
) -> ImportResult:
    """Import the features in a folder or file into a store.

    After an interruption, the same call resumes the import; the resulting file is byte-identical. A
    finished store is left unchanged, except that damaged files are tried again.

    Args:
        source: Folder or file; `feature_extraction.exchange.foreign.read` lists the layouts. Or
            `hf://datasets/OWNER/NAME[/PATH][@REVISION]`: Parquet files on the Hub.
        out: Store to create.
        encoder: Name of the image encoder that made the features. Files that this package exported
            state it, the image size and the resize rule themselves.
        image_size: Side of the square input of the encoder, in pixels.
        resize: How photographs were resized to that square.
        on_progress: Called after each batch.

    Raises:
        InputError: The Hub or the repository there cannot be read.
        StoreError: There are no features, their shapes differ, a file is not safe to read, or
            `out` cannot be written or holds something else.
    """
    started = time.monotonic()
    out = Path(out)
    found = _find(source, out)
    files = found.files
    check_output_file(out)
    if found.row_shape is None:
        shape = _usual_shape(files)
    else:
        shape = parse_token_shape(files[0], found.row_shape)
    _refuse_rows_as_tokens(files[0], shape)
    spec = found.spec
    if spec is None:
        spec = imported_spec(encoder, shape, image_size=image_size, resize=resize)
    else:
        _check_claims(spec, encoder=encoder, image_size=image_size, resize=resize)
    previous = _previous_store(out, spec, found)
    retried: set[int] = set()
    # Files on the Hub do not change, so that their failures are final.
    if previous is not None and found.source is None:
        retried = _rows_to_retry(previous, files, shape)
    imported = 0
    if previous is None or retried:
        image_ids = [file.image_id for file in files]
        with StoreWriter(out, spec, image_ids, source=found.source) as writer:
            if previous is not None:
                writer.copy_from(previous, skip=retried)
            imported = _fill(writer, found, shape, on_progress)
            writer.finish()
    else:
        # A run that was killed between its last two steps has left its folder behind.
        remove_leftovers(out)
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


def _find(source: str | Path, out: Path) -> FoundFeatures:
    if is_hub_address(source):
        # Imported here because most users import local files.
        from feature_extraction.exchange.hub_shards import find_hub_features

        if out.exists():
            check_output_file(out)
        found = find_hub_features(str(source), out)
        check_ids(source, found.files)
        return found
    return find_features(Path(source), exclude=out)


def _check_claims(spec: FeatureSpec, *, encoder: str, image_size: int, resize: ResizeRule) -> None:
    """Refuse settings other than those that the files state, unless they are the defaults."""
    claims = (
        ("encoder", encoder, IMPORTED, spec.encoder),
        ("image size", image_size, DEFAULT_IMAGE_SIZE, spec.image_size),
        ("resize rule", resize, DEFAULT_RESIZE, spec.resize),
    )
    for name, claimed, default, stated in claims:
        if claimed not in (default, stated):
            raise StoreError(
                f"the files state the {name} {stated}, but {claimed} was given. Leave the option "
                "out: the files state all settings of their features."
            )


def _usual_shape(files: Sequence[FeatureFile]) -> tuple[int, int]:
    """Return the most frequent shape in a sample of images; any one image may be an exception."""
    step = max(1, len(files) // NUM_SHAPE_SAMPLES)
    shapes: Counter[tuple[int, int]] = Counter()
    reason = ""
    for file in files[::step]:
        try:
            shapes[read_shape(file)] += 1
        except FeatureFileError as error:
            reason = str(error)
    if not shapes:
        raise StoreError(f"none of the sampled files can be read, for example: {reason}")
    return shapes.most_common(1)[0][0]


def _refuse_rows_as_tokens(file: FeatureFile, shape: tuple[int, int]) -> None:
    """Refuse more tokens than an image can have: they are probably rows, one per image."""
    if shape[0] > MAX_TOKENS:
        raise StoreError(
            f"the features of {file.image_id!r} ({file.place}) have the shape {list(shape)}: are "
            f"these {shape[0]:,} images? {HOW_TO_NAME_ROWS}."
        )


def _fill(
    writer: StoreWriter,
    found: FoundFeatures,
    shape: tuple[int, int],
    on_progress: OnProgress | None,
) -> int:
    """Read every pending image, and return their number."""
    files = found.files
    pending = np.flatnonzero(writer.status == Status.PENDING)
    done = len(files) - len(pending)
    for start, end in _batches(pending, max(1, BATCH_BYTES // (2 * math.prod(shape)))):
        writer.write(_read_batch(files[start:end], start, shape, found.prepare))
        done += end - start
        if on_progress is not None:
            failed = int((writer.status == Status.FAILED).sum())
            on_progress(done, len(files), f"{failed:,} failed" if failed else "")
    return len(pending)


def _batches(rows: NDArray[np.intp], size: int) -> Iterator[tuple[int, int]]:
    """Split ascending rows into runs of at most `size` consecutive rows: (start, end)."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if rows.size else []
    for run in runs:
        first, end = int(run[0]), int(run[-1]) + 1
        for start in range(first, end, size):
            yield start, min(start + size, end)


def _read_batch(
    files: Sequence[FeatureFile],
    start: int,
    shape: tuple[int, int],
    prepare: Callable[[FeatureFile], None] | None,
) -> Batch:
    features_NVC = np.zeros((len(files), *shape), np.float16)
    image_size_N2 = np.zeros((len(files), 2), np.int32)
    reasons = [""] * len(files)
    for position, file in enumerate(files):
        if prepare is not None:
            prepare(file)
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


def _previous_store(out: Path, spec: FeatureSpec, found: FoundFeatures) -> FeatureStore | None:
    """Open the finished store, if any, and check that it has the same settings and images."""
    if not out.exists():
        return None
    store = FeatureStore(out)
    differences = store.spec.differences(spec)
    if store.source != found.source:
        differences.append(
            f"source: found {describe_source(store.source)}, expected "
            f"{describe_source(found.source)}"
        )
    image_ids = [file.image_id for file in found.files]
    hint = ""
    if store.listed_ids != tuple(image_ids):
        differences.append(
            f"images: found {len(store.listed_ids):,}, expected {len(image_ids):,} (the lists "
            "of names differ)"
        )
        listed = set(store.listed_ids)
        hint = near_names_hint(
            listed.difference(image_ids), set(image_ids) - listed, place="the source"
        )
    if differences:
        raise StoreError(
            f"{out} was imported from another source or with other settings "
            f"({'; '.join(differences)}). Choose another --out, or remove the file.{hint}"
        )
    return store


def _rows_to_retry(
    store: FeatureStore, files: Sequence[FeatureFile], shape: tuple[int, int]
) -> set[int]:
    """Return the rows of failed images whose files can be read now."""
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
