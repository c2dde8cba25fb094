"""The extraction pipeline: decode, encode and write batches concurrently.

    decode, resize (worker processes) -> encode (this process) -> write, sync (a thread)

While one batch is encoded, the next batches are decoded and the previous one is written. On CUDA a
batch is submitted before the features of the previous batch are copied back, so that the copies to
and from the device overlap with the computation.

Batches start at fixed rows of the sorted image list, and images that cannot be decoded are black
squares in them. So a batch is the same however often the extraction is interrupted.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_extraction.encoders.encoder import Encoder
from feature_extraction.images.decoding_pool import DecodedBatch, decoded_batches
from feature_extraction.images.finding import ImageFile
from feature_extraction.progress import OnProgress
from feature_extraction.store.background_writer import BackgroundWriter
from feature_extraction.store.layout import Status
from feature_extraction.store.writer import Batch, StoreWriter

# N images per batch, K squares per image, S square size, V tokens, C channels

__all__ = ["default_workers", "fill_store"]

MAX_WORKERS_CPU_ENCODER = 4
MAX_WORKERS = 16


def default_workers(cores: int, device: torch.device) -> int:
    """Return the default number of decoding processes.

    An encoder on the CPU is much slower than decoding and needs most of the cores; an encoder on
    another device leaves them for decoding.

    Args:
        cores: Number of usable CPU cores.
        device: Device of the encoder.
    """
    return min(cores, MAX_WORKERS_CPU_ENCODER if device.type == "cpu" else MAX_WORKERS)


def fill_store(
    store: StoreWriter,
    files: Sequence[ImageFile],
    encoder: Encoder,
    *,
    batch_size: int,
    workers: int,
    on_progress: OnProgress | None,
) -> int:
    """Encode every pending image and write its features.

    After an exception or an interrupt, batches that are already encoded are still written.

    Args:
        store: Writer of the unfinished store of these images.
        files: All images of the store.
        encoder: The encoder.
        batch_size: Images per batch.
        workers: Number of decoding processes; 0 decodes in this process.
        on_progress: Called after each batch.

    Returns:
        Number of encoded images.

    Raises:
        StoreError: No space is left, or the store cannot be written.
        EncoderError: Features are not finite.
        FeatureError: A decoding process exited unexpectedly.
    """
    status = store.status.copy()
    starts = [
        start
        for start in range(0, len(files), batch_size)
        if (status[start : start + batch_size] == Status.PENDING).any()
    ]
    started, extracted = time.monotonic(), 0
    done = int((status != Status.PENDING).sum())
    failed = int((status == Status.FAILED).sum())
    with (
        BackgroundWriter(store) as writer,
        decoded_batches(
            files, starts, encoder.spec, batch_size=batch_size, workers=workers
        ) as batches,
    ):
        for batch in _encode_batches(batches, files, encoder):
            batch.features[[bool(reason) for reason in batch.reasons]] = 0
            rows = slice(batch.start, batch.start + len(batch.reasons))
            # A batch may be encoded again for some of its images; do not overwrite the others.
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


def _runs(mask_N: NDArray[np.bool_]) -> list[slice]:
    """Return the runs of consecutive true values."""
    edges = np.flatnonzero(np.diff(mask_N.astype(np.int8), prepend=0, append=0))
    return [slice(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


@dataclass(frozen=True, slots=True)
class _EncodedBatch:
    start: int
    features: NDArray[np.float16]  # [N, V, C]
    image_size: NDArray[np.int32]  # [N, 2]
    reasons: list[str]


def _encode_batches(
    batches: Iterator[DecodedBatch], files: Sequence[ImageFile], encoder: Encoder
) -> Iterator[_EncodedBatch]:
    """Encode batches; the results share no memory with the decoded batches."""
    if encoder.device.type == "cuda":
        yield from _encode_ahead(batches, files, encoder)
        return
    for batch in batches:
        features_NVC = encoder.encode(torch.from_numpy(batch.pixels), _image_ids(batch, files))
        yield _EncodedBatch(batch.start, features_NVC, batch.image_size.copy(), batch.reasons)


def _encode_ahead(
    batches: Iterator[DecodedBatch], files: Sequence[ImageFile], encoder: Encoder
) -> Iterator[_EncodedBatch]:
    """Encode batches on CUDA; submit each batch before the previous one is returned."""
    pipeline, pending = _CudaPipeline(encoder), None
    for batch in batches:
        submitted = pipeline.submit(batch, _image_ids(batch, files))
        if pending is not None:
            yield pending.result()
        pending = submitted
    if pending is not None:
        yield pending.result()


def _image_ids(batch: DecodedBatch, files: Sequence[ImageFile]) -> list[str]:
    return [file.image_id for file in files[batch.start : batch.start + len(batch.reasons)]]


class _CudaPipeline:
    """An encoder on CUDA, with a separate stream for each copy direction."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._to_device = torch.cuda.Stream(encoder.device)
        self._from_device = torch.cuda.Stream(encoder.device)

    def submit(self, batch: DecodedBatch, image_ids: Sequence[str]) -> "_PendingBatch":
        """Queue the copy of a batch to the device, its encoding, and the copy of its features."""
        device = self._encoder.device
        compute = torch.cuda.current_stream(device)
        # The copy to pinned memory is synchronous: afterwards the batch may be overwritten.
        pinned_NK3SS = torch.from_numpy(batch.pixels).pin_memory()
        with torch.cuda.stream(self._to_device):
            pixels_NK3SS = pinned_NK3SS.to(device, non_blocking=True)
        compute.wait_stream(self._to_device)
        features_NVC, finite_N = self._encoder.encode_on_device(pixels_NK3SS)
        self._from_device.wait_stream(compute)
        with torch.cuda.stream(self._from_device):
            host_NVC, host_finite_N = _copy_to_host(features_NVC), _copy_to_host(finite_N)
            copied = torch.cuda.Event()
            copied.record()
        # The allocator must not reuse this memory while another stream uses it.
        pixels_NK3SS.record_stream(compute)
        features_NVC.record_stream(self._from_device)
        finite_N.record_stream(self._from_device)
        return _PendingBatch(
            self._encoder, batch.start, batch.image_size.copy(), batch.reasons,
            list(image_ids), host_NVC, host_finite_N, copied,
        )  # fmt: skip


def _copy_to_host(on_device: Tensor) -> Tensor:
    host = torch.empty(on_device.shape, dtype=on_device.dtype, pin_memory=True)
    return host.copy_(on_device, non_blocking=True)


@dataclass(frozen=True, slots=True)
class _PendingBatch:
    """A batch that CUDA has not finished yet."""

    encoder: Encoder
    start: int
    image_size: NDArray[np.int32]
    reasons: list[str]
    image_ids: list[str]
    features: Tensor
    finite: Tensor
    copied: torch.cuda.Event

    def result(self) -> _EncodedBatch:
        """Wait for the batch and return it."""
        self.copied.synchronize()
        self.encoder.check_finite(self.finite, self.image_ids)
        return _EncodedBatch(self.start, self.features.numpy(), self.image_size, self.reasons)
