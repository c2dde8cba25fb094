"""The pipeline: photographs are decoded in worker processes, the tower turns them into features.

    find -> decode, fit to the square (workers) -> tower (here) -> partial store -> finished file

Batches are cut at fixed rows of the sorted image list, failed images in their place as black
squares, so a batch is the same whenever and however often the extraction is interrupted: the
finished file equals that of an undisturbed run with the same batch size byte for byte.
"""

import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from feature_extraction.encoders import Encoder
from feature_extraction.errors import FeatureError, ImageError, StoreError
from feature_extraction.images import ImageFile, decode_image, find_images
from feature_extraction.layout import Status
from feature_extraction.partial import Batch, PartialStore, check_target, partial_folder
from feature_extraction.preprocess import prepare
from feature_extraction.shards import Shard, ShardRecord, image_list_sha256
from feature_extraction.spec import FeatureSpec
from feature_extraction.store import FeatureStore

# N images of a batch, K squares of one image, S side of a square

__all__ = ["ExtractionResult", "OnProgress", "extract"]

SHOWN_IDS = 5
LONGEST_REASON = 500


class OnProgress(Protocol):
    """What is called as images are done."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


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
    images: Path | Sequence[ImageFile],
    out: Path,
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
    files = find_images(images) if isinstance(images, Path) else list(images)
    record = None
    if shard is not None:
        out = shard.path(out)
        record, files = _part_of(files, shard, batch_size)
    check_target(out)
    previous = _previous_store(out, encoder.spec, files, record)
    redone = set() if previous is None else _rows_to_redo(previous, files, encoder.spec)
    extracted = 0
    if previous is None or redone:
        image_ids = [file.image_id for file in files]
        with PartialStore(out, encoder.spec, image_ids, record) as partial:
            if previous is not None:
                partial.adopt(previous, redone=redone)
            with _dead_workers_explained():
                extracted = _fill(partial, files, encoder, batch_size, workers, on_progress)
            partial.finish()
    else:
        # Left behind by a run that was killed between its last two steps.
        shutil.rmtree(partial_folder(out), ignore_errors=True)
    store = FeatureStore(out)
    return ExtractionResult(
        path=out,
        images=len(files),
        extracted=extracted,
        failures=store.failures,
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


class _Prepared(NamedTuple):
    start: int
    pixels: Tensor  # [N, K, 3, S, S], uint8
    image_size: Tensor  # [N, 2]
    reasons: list[str]


class _Photographs(Dataset[_Prepared]):
    """Batches of photographs, each decoded and made square as a whole by one worker."""

    def __init__(
        self, files: Sequence[ImageFile], starts: Sequence[int], batch_size: int, spec: FeatureSpec
    ) -> None:
        self._files = files
        self._starts = starts
        self._batch_size = batch_size
        self._spec = spec

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> _Prepared:
        start = self._starts[index]
        files = self._files[start : start + self._batch_size]
        spec = self._spec
        shape = (len(files), spec.squares, 3, spec.image_size, spec.image_size)
        pixels_NK3SS = np.zeros(shape, np.uint8)
        image_size_N2 = np.zeros((len(files), 2), np.int32)
        reasons = [""] * len(files)
        for position, file in enumerate(files):
            try:
                decoded = decode_image(file.path, spec.decoded_side)
            except ImageError as error:
                reasons[position] = _storable(str(error))
                continue
            pixels_NK3SS[position] = prepare(decoded, spec.image_size, spec.resize, spec.crops)
            image_size_N2[position] = decoded.height, decoded.width
        return _Prepared(
            start, torch.from_numpy(pixels_NK3SS), torch.from_numpy(image_size_N2), reasons
        )


def _fill(
    partial: PartialStore,
    files: Sequence[ImageFile],
    encoder: Encoder,
    batch_size: int,
    workers: int,
    on_progress: OnProgress | None,
) -> int:
    """Put every pending image through the tower; return how many that were."""
    is_pending = partial.status == Status.PENDING
    starts = [
        start
        for start in range(0, len(files), batch_size)
        if is_pending[start : start + batch_size].any()
    ]
    photographs = _Photographs(files, starts, batch_size, encoder.spec)
    started, extracted = time.monotonic(), 0
    for prepared in _decoded(photographs, min(workers, len(starts)), encoder.device):
        rows = slice(prepared.start, prepared.start + len(prepared.reasons))
        features_NVC = encoder.encode(prepared.pixels, [file.image_id for file in files[rows]])
        features_NVC[[bool(reason) for reason in prepared.reasons]] = 0
        # Of a batch that is done again for some images, the others stay as they were.
        for run in _runs(partial.status[rows] == Status.PENDING):
            partial.write(
                Batch(
                    start=prepared.start + run.start,
                    features=features_NVC[run],
                    image_size=prepared.image_size.numpy()[run],
                    reasons=prepared.reasons[run],
                )
            )
        extracted += len(prepared.reasons)
        if on_progress is not None:
            done = int((partial.status != Status.PENDING).sum())
            failed = int((partial.status == Status.FAILED).sum())
            rate = extracted / (time.monotonic() - started)
            note = f"{rate:.1f} images/s" + (f", {failed} failed" if failed else "")
            on_progress(done, len(files), note)
    return extracted


def _runs(wanted_N: NDArray[np.bool_]) -> list[slice]:
    """Cut the places that are wanted into runs of neighbours."""
    edges = np.flatnonzero(np.diff(wanted_N.astype(np.int8), prepend=0, append=0))
    return [slice(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


def _decoded(photographs: _Photographs, workers: int, device: torch.device) -> Iterator[_Prepared]:
    loader: DataLoader[_Prepared] = DataLoader(
        photographs,
        batch_size=None,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_interrupts_to_parent,
        # Its own generator: the caller's random numbers are not touched.
        generator=torch.Generator(),
    )
    return iter(loader)


@contextmanager
def _dead_workers_explained() -> Iterator[None]:
    """Say what the death of a decoding process means; PyTorch may raise it anywhere in the loop."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise FeatureError(
            f"a decoding process died ({error}), perhaps for lack of memory. What is done is "
            "kept: run the same command again, with fewer --workers or a smaller --batch-size."
        ) from error


def _storable(reason: str) -> str:
    """What decoders say may quote the file: HDF5 text holds neither NUL nor lone surrogates."""
    return reason.encode(errors="backslashreplace").decode().replace("\0", "\\0")[:LONGEST_REASON]


def _leave_interrupts_to_parent(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
            "the file."
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
