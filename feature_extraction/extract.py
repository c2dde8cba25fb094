"""Extraction as a whole: from a folder of photographs to one finished HDF5 file.

    find -> what is pending -> pipeline -> partial store -> finished file

Interrupted however often, the finished file equals that of an undisturbed run with the same batch
size byte for byte (`feature_extraction.pipeline`, `feature_extraction.store.writer`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from feature_extraction.encoders.encoder import Encoder
from feature_extraction.errors import ImageError, StoreError
from feature_extraction.images.decode import ImageFile, decode_image, find_images
from feature_extraction.names import near_names_hint
from feature_extraction.pipeline import OnProgress, fill_store
from feature_extraction.spec import FeatureSpec
from feature_extraction.store.outputs import check_output_file, remove_leftovers
from feature_extraction.store.shards import Shard, ShardRecord, image_list_sha256
from feature_extraction.store.store import FeatureStore
from feature_extraction.store.writer import StoreWriter

__all__ = ["ExtractionResult", "OnProgress", "extract"]

SHOWN_IDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionResult:
    """What an extraction did.

    Args:
        path: The finished store.
        images: Images it lists.
        extracted: Images this run put through the tower; the others were done before.
        failures: Reason by id of each image that could not be read.
        file_bytes: Size of the store.
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
        """Rate of this run; 0 when there was nothing to do."""
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
    """Extract the features of a folder of photographs, or of a shard of it, into one HDF5 file.

    An interrupted extraction goes on where it was. A finished one is left as it is, except that
    images that could not be read are tried again: if any can be read now, it is completed.

    Args:
        images: The folder, or what `find_images` found in it.
        out: The file to make; of a shard, what the joined file is to be called: the shard itself
            goes beside it, to `shard.path(out)`.
        encoder: The tower; its spec says how photographs are prepared.
        batch_size: Images the tower sees at once; numbers can differ in their last bits with it.
        workers: Processes that decode; 0 decodes in this one.
        shard: Which part of the images to do; `None` does all.
        on_progress: Called after each batch.

    Raises:
        ImageError: There are no images, or two share an id.
        StoreError: `out` cannot be written, was made with other settings or of other images.
        EncoderError: The tower gives numbers that are not finite.
        FeatureError: A decoding process died, or there are fewer images than shards.
    """
    started = time.monotonic()
    out = Path(out)
    check_output_file(out)
    files = list(find_images(Path(images)) if isinstance(images, str | Path) else images)
    record = None
    if shard is not None:
        out = shard.path(out)
        check_output_file(out)
        record, files = _part_of(files, shard, batch_size)
    previous = _previous_store(out, encoder.spec, files, record)
    redone = set() if previous is None else _rows_to_redo(previous, files, encoder.spec)
    extracted = 0
    if previous is not None and not redone:
        # Left behind by a run that was killed between its last two steps.
        remove_leftovers(out)
        failures = previous.failures
    else:
        image_ids = [file.image_id for file in files]
        with StoreWriter(out, encoder.spec, image_ids, record) as partial:
            if previous is not None:
                partial.copy_from(previous, skip=redone)
            extracted = fill_store(
                partial,
                files,
                encoder,
                batch_size=batch_size,
                workers=workers,
                on_progress=on_progress,
            )
            partial.finish()
        failures = {image_ids[row]: reason for row, reason in enumerate(partial.reasons) if reason}
    return ExtractionResult(
        path=out,
        images=len(files),
        extracted=extracted,
        failures=failures,
        file_bytes=out.stat().st_size,
        seconds=time.monotonic() - started,
    )


def _part_of(
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
    """Open the store an earlier run finished, and make sure it is the one asked for now."""
    if not out.exists():
        return None
    store = FeatureStore(out)
    differences = store.spec.differences(spec)
    if differences:
        raise StoreError(
            f"{out} was made with other settings ({'; '.join(differences)}; here is the file, "
            "there is this command). Choose another --out, or remove the file."
        )
    wanted = [file.image_id for file in files]
    if store.shard != record or (record is not None and list(store.listed_ids) != wanted):
        raise StoreError(
            f"{out} was cut from the images in another way "
            f"({_cut(store.shard, len(store.listed_ids))} there, {_cut(record, len(wanted))} now). "
            "Extract all shards of the same images with the same --batch-size; remove the file to "
            "make it anew."
        )
    if list(store.listed_ids) != wanted:
        listed = set(store.listed_ids)
        new = [image_id for image_id in wanted if image_id not in listed]
        gone = sorted(listed.difference(wanted))
        raise StoreError(
            f"{out} lists {len(listed):,} images, the folder has {len(wanted):,}: "
            f"{_some(new)} are new, {_some(gone)} are gone. Choose another --out, or remove "
            f"the file.{near_names_hint(new, gone, place='the file')}"
        )
    return store


def _cut(record: ShardRecord | None, images: int) -> str:
    if record is None:
        return f"all {images:,}"
    return (
        f"{images:,} from number {record.start:,} on, of {record.images:,} whose names have the "
        f"hash {record.image_ids_sha256[:12]}"
    )


def _rows_to_redo(store: FeatureStore, files: Sequence[ImageFile], spec: FeatureSpec) -> set[int]:
    """Find the images without features that can be decoded by now."""
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


def _some(image_ids: Sequence[str]) -> str:
    more = ", ..." if len(image_ids) > SHOWN_IDS else ""
    shown = f" ({', '.join(image_ids[:SHOWN_IDS])}{more})" if image_ids else ""
    return f"{len(image_ids):,}{shown}"
