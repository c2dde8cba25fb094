"""From pending images to a filled store, with the tower never waiting where that can be helped.

    decode, fit to the square (processes) -> tower (here) -> write, make safe (a thread)

While the tower is at a batch the next ones are decoded and the previous one is written. On CUDA a
batch is given to the tower before the features of the one before it are fetched, and both copies,
of squares to the device and of features from it, run beside the arithmetic.

Batches are cut at fixed rows of the sorted image list, failed images in their place as black
squares, so a batch is the same whenever and however often the extraction is interrupted.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_extraction.encoders.encoder import Encoder
from feature_extraction.images.decode import ImageFile
from feature_extraction.images.decoding_pool import SquareBatch, decoded_batches
from feature_extraction.store.background_writer import BackgroundWriter
from feature_extraction.store.layout import Status
from feature_extraction.store.writer import Batch, StoreWriter

# N images of a batch, K squares of one image, S side of a square, V tokens, C channels

__all__ = ["OnProgress", "default_workers", "fill_store"]

MOST_WORKERS_BESIDE_CPU_TOWER = 4
MOST_WORKERS = 16


class OnProgress(Protocol):
    """What is called as images are done."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def default_workers(cores: int, device: torch.device) -> int:
    """Say how many processes should decode for a tower on `device`.

    A tower on the processor takes far longer for an image than decoding, and wants the cores; a
    tower elsewhere leaves them to decoding.
    """
    return min(cores, MOST_WORKERS_BESIDE_CPU_TOWER if device.type == "cpu" else MOST_WORKERS)


def fill_store(
    partial: StoreWriter,
    files: Sequence[ImageFile],
    encoder: Encoder,
    *,
    batch_size: int,
    workers: int,
    on_progress: OnProgress | None,
) -> int:
    """Put every pending image through the tower; return how many that were.

    Whatever ends it, all batches the tower has finished are written first.

    Args:
        partial: The store under way, of these images.
        files: All images, done or not.
        encoder: The tower.
        batch_size: Images the tower sees at once.
        workers: Processes that decode; 0 decodes in this one.
        on_progress: Called after each batch.

    Raises:
        StoreError: There is no space left, or the store cannot be written.
        EncoderError: The tower gives numbers that are not finite.
        FeatureError: A decoding process died.
    """
    status = partial.status.copy()
    starts = [
        start
        for start in range(0, len(files), batch_size)
        if (status[start : start + batch_size] == Status.PENDING).any()
    ]
    started, extracted = time.monotonic(), 0
    done = int((status != Status.PENDING).sum())
    failed = int((status == Status.FAILED).sum())
    with (
        BackgroundWriter(partial) as writer,
        decoded_batches(
            files, starts, encoder.spec, batch_size=batch_size, workers=workers
        ) as squares,
    ):
        for batch in _encoded(squares, files, encoder):
            batch.features[[bool(reason) for reason in batch.reasons]] = 0
            rows = slice(batch.start, batch.start + len(batch.reasons))
            # Of a batch that is done again for some images, the others stay as they were.
            for run in _runs(status[rows] == Status.PENDING):
                reasons = batch.reasons[run]
                writer.write(
                    Batch(
                        start=batch.start + run.start,
                        features=batch.features[run],
                        image_size=batch.image_size[run],
                        reasons=reasons,
                    )
                )
                done += len(reasons)
                failed += sum(map(bool, reasons))
            extracted += len(batch.reasons)
            if on_progress is not None:
                rate = extracted / (time.monotonic() - started)
                note = f"{rate:.1f} images/s" + (f", {failed} failed" if failed else "")
                on_progress(done, len(files), note)
    return extracted


def _runs(wanted_N: NDArray[np.bool_]) -> list[slice]:
    """Cut the places that are wanted into runs of neighbours."""
    edges = np.flatnonzero(np.diff(wanted_N.astype(np.int8), prepend=0, append=0))
    return [slice(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


@dataclass(frozen=True, slots=True)
class _Encoded:
    start: int
    features: NDArray[np.float16]  # [N, V, C]
    image_size: NDArray[np.int32]  # [N, 2]
    reasons: list[str]


def _encoded(
    batches: Iterator[SquareBatch], files: Sequence[ImageFile], encoder: Encoder
) -> Iterator[_Encoded]:
    """Put batches through the tower; those that come out share no memory with those going in."""
    if encoder.device.type == "cuda":
        yield from _encoded_ahead(batches, files, encoder)
        return
    for batch in batches:
        features_NVC = encoder.encode(torch.from_numpy(batch.pixels), _image_ids(batch, files))
        yield _Encoded(batch.start, features_NVC, batch.image_size.copy(), batch.reasons)


def _encoded_ahead(
    batches: Iterator[SquareBatch], files: Sequence[ImageFile], encoder: Encoder
) -> Iterator[_Encoded]:
    lane, under_way = _CudaLane(encoder), None
    for batch in batches:
        following = lane.depart(batch, _image_ids(batch, files))
        if under_way is not None:
            yield under_way.arrive()
        under_way = following
    if under_way is not None:
        yield under_way.arrive()


def _image_ids(batch: SquareBatch, files: Sequence[ImageFile]) -> list[str]:
    return [file.image_id for file in files[batch.start : batch.start + len(batch.reasons)]]


class _CudaLane:
    """The way through a tower on CUDA: a stream for each direction beside the tower's own."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._inward = torch.cuda.Stream(encoder.device)
        self._outward = torch.cuda.Stream(encoder.device)

    def depart(self, batch: SquareBatch, image_ids: Sequence[str]) -> "_Passage":
        """Queue a batch's copy to the device, its arithmetic and its copy back."""
        device = self._encoder.device
        tower = torch.cuda.current_stream(device)
        # The copy into pinned memory is made at once: the batch may be overwritten after it.
        pinned_NK3SS = torch.from_numpy(batch.pixels).pin_memory()
        with torch.cuda.stream(self._inward):
            pixels_NK3SS = pinned_NK3SS.to(device, non_blocking=True)
        tower.wait_stream(self._inward)
        features_NVC, finite_N = self._encoder.encode_on_device(pixels_NK3SS)
        self._outward.wait_stream(tower)
        with torch.cuda.stream(self._outward):
            fetched_NVC, fetched_N = _fetch(features_NVC), _fetch(finite_N)
            is_fetched = torch.cuda.Event()
            is_fetched.record()
        # Their memory must not be given away while another stream than their own uses it.
        pixels_NK3SS.record_stream(tower)
        features_NVC.record_stream(self._outward)
        finite_N.record_stream(self._outward)
        return _Passage(
            self._encoder, batch.start, batch.image_size.copy(), batch.reasons,
            list(image_ids), fetched_NVC, fetched_N, is_fetched,
        )  # fmt: skip


def _fetch(on_device: Tensor) -> Tensor:
    host = torch.empty(on_device.shape, dtype=on_device.dtype, pin_memory=True)
    return host.copy_(on_device, non_blocking=True)


@dataclass(frozen=True, slots=True)
class _Passage:
    """A batch under way on the device."""

    encoder: Encoder
    start: int
    image_size: NDArray[np.int32]
    reasons: list[str]
    image_ids: list[str]
    features: Tensor
    finite: Tensor
    is_fetched: torch.cuda.Event

    def arrive(self) -> _Encoded:
        """Wait for the batch."""
        self.is_fetched.synchronize()
        self.encoder.check_finite(self.finite, self.image_ids)
        return _Encoded(self.start, self.features.numpy(), self.image_size, self.reasons)
