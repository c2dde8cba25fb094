"""Extract the features of a folder of photographs into one HDF5 file.

    find images -> skip finished ones -> pipeline -> unfinished store -> finished file

Extraction can be interrupted at any point. The finished file is byte-identical to that of an
uninterrupted run with the same batch size.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from feature_extraction.encoders.encoder import Encoder
from feature_extraction.errors import ImageError, StoreError
from feature_extraction.images.decode import decode_image
from feature_extraction.images.finding import ImageFile, find_images
from feature_extraction.names import near_names_hint
from feature_extraction.pipeline import fill_store
from feature_extraction.progress import OnProgress
from feature_extraction.spec import FeatureSpec
from feature_extraction.store.outputs import check_output_file, remove_leftovers
from feature_extraction.store.shards import Shard, ShardRecord, image_list_sha256
from feature_extraction.store.store import FeatureStore
from feature_extraction.store.writer import StoreWriter

__all__ = ["ExtractionResult", "extract"]

MAX_SHOWN_IDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionResult:
    """The result of an extraction.

    Args:
        path: The finished store.
        images: Number of images in the store.
        extracted: Number of images encoded by this run; the others were finished before.
        failures: Reason by id for each image that cannot be decoded.
        file_bytes: Size of the store in bytes.
        seconds: Wall time of this run.
    """

    path: Path
    images: int
    extracted: int
    failures: Mapping[str, str]
    file_bytes: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Encoded images per second of this run; 0 if there were none."""
        return self.extracted / self.seconds if self.extracted else 0.0


def extract(
    images: str | Path | Sequence[ImageFile],
    out: str | Path,
    encoder: Encoder,
    *,
    batch_size: int = 32,
    workers: int = 0,
    shard: Shard | None = None,
    on_progress: OnProgress | None = None,
) -> ExtractionResult:
    """Extract the features of a folder of photographs into one HDF5 file.

    An interrupted extraction is resumed. A finished file is not changed, unless images that could
    not be decoded before can be decoded now: then they are added.

    Args:
        images: The folder, or the result of `find_images` for it.
        out: File to write. For a shard, the name of the joined file: the shard is written to
            `shard.path(out)` in the same folder.
        encoder: The encoder; its spec describes the preprocessing.
        batch_size: Images per batch. The last bits of features can depend on it.
        workers: Number of decoding processes; 0 decodes in this process.
        shard: Part of the images to extract. Default: all.
        on_progress: Called after each batch.

    Raises:
        ImageError: There are no images, or two share an id.
        StoreError: `out` cannot be written, or has other settings or other images.
        EncoderError: Features are not finite.
        FeatureError: A decoding process exited unexpectedly, or there are more shards than images.
    """
    started = time.monotonic()
    out = Path(out)
    check_output_file(out)
    files = list(find_images(Path(images)) if isinstance(images, str | Path) else images)
    record = None
    if shard is not None:
        out = shard.path(out)
        check_output_file(out)
        record, files = _select_shard(files, shard, batch_size)
    previous = _previous_store(out, encoder.spec, files, record)
    retried = set() if previous is None else _rows_to_retry(previous, files, encoder.spec)
    extracted = 0
    if previous is not None and not retried:
        # A run that was killed between its last two steps has left its folder behind.
        remove_leftovers(out)
        failures = previous.failures
    else:
        image_ids = [file.image_id for file in files]
        with StoreWriter(out, encoder.spec, image_ids, record) as writer:
            if previous is not None:
                writer.copy_from(previous, skip=retried)
            extracted = fill_store(
                writer,
                files,
                encoder,
                batch_size=batch_size,
                workers=workers,
                on_progress=on_progress,
            )
            writer.finish()
        failures = {image_ids[row]: reason for row, reason in enumerate(writer.reasons) if reason}
    return ExtractionResult(
        path=out,
        images=len(files),
        extracted=extracted,
        failures=failures,
        file_bytes=out.stat().st_size,
        seconds=time.monotonic() - started,
    )


def _select_shard(
    files: Sequence[ImageFile], shard: Shard, batch_size: int
) -> tuple[ShardRecord, list[ImageFile]]:
    rows = shard.rows(len(files), batch_size)
    record = ShardRecord(
        number=shard.number,
        count=shard.count,
        start=rows.start,
        images=len(files),
        image_ids_sha256=image_list_sha256([file.image_id for file in files]),
    )
    return record, list(files[rows.start : rows.stop])


def _previous_store(
    out: Path, spec: FeatureSpec, files: Sequence[ImageFile], record: ShardRecord | None
) -> FeatureStore | None:
    """Open the finished file, if any, and check that it has the same settings and images."""
    if not out.exists():
        return None
    store = FeatureStore(out)
    differences = store.spec.differences(spec)
    if differences:
        raise StoreError(
            f"{out} was extracted with other settings ({'; '.join(differences)}). "
            "Choose another --out, or remove the file."
        )
    expected = [file.image_id for file in files]
    if store.shard != record or (record is not None and list(store.listed_ids) != expected):
        raise StoreError(
            f"{out} holds another part of the images: found "
            f"{_describe_part(store.shard, len(store.listed_ids))}, expected "
            f"{_describe_part(record, len(expected))}. Extract all shards of the same images with "
            "the same --batch-size, or remove the file to extract it again."
        )
    if list(store.listed_ids) != expected:
        listed = set(store.listed_ids)
        new = [image_id for image_id in expected if image_id not in listed]
        missing = sorted(listed.difference(expected))
        raise StoreError(
            f"{out} lists {len(listed):,} images, but the folder has {len(expected):,}: "
            f"{_first_ids(new)} are new, {_first_ids(missing)} are missing. Choose another --out, "
            f"or remove the file.{near_names_hint(new, missing, place='the file')}"
        )
    return store


def _describe_part(record: ShardRecord | None, images: int) -> str:
    if record is None:
        return f"all {images:,} images"
    return (
        f"{images:,} of {record.images:,} images from row {record.start:,} (hash of all names: "
        f"{record.image_ids_sha256[:12]})"
    )


def _rows_to_retry(store: FeatureStore, files: Sequence[ImageFile], spec: FeatureSpec) -> set[int]:
    """Return the rows of failed images that can be decoded now."""
    rows = set()
    for row, file in enumerate(files):
        if file.image_id in store:
            continue
        try:
            decode_image(file.path, spec.decoded_side)
        except ImageError:
            if file.image_id in store.failures:
                continue
        rows.add(row)
    return rows


def _first_ids(image_ids: Sequence[str]) -> str:
    more = ", ..." if len(image_ids) > MAX_SHOWN_IDS else ""
    shown = f" ({', '.join(image_ids[:MAX_SHOWN_IDS])}{more})" if image_ids else ""
    return f"{len(image_ids):,}{shown}"
