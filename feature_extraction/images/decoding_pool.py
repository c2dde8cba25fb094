"""Decode photographs into batches of squares, in this process or in worker processes.

Worker processes (`feature_extraction.images.decoding_process`) write squares into shared memory: a
ring of slots, each large enough for one batch. The number of slots limits how many batches are
decoded ahead of the encoder, regardless of the number of images.

Each batch goes to the next idle process; batches are returned in order.
"""

import mmap
import os
import queue
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_extraction.images.decoding_process import DecodingProcess, SlotLayout, decode_into
from feature_extraction.images.finding import ImageFile
from feature_extraction.spec import FeatureSpec
from feature_extraction.store.disk import create_memory_file

# N images per batch, K squares per image, S square size

__all__ = ["DecodedBatch", "decoded_batches"]

# Row of the first image, and the images of the batch.
FileBatch = tuple[int, Sequence[ImageFile]]


class DecodedBatch(NamedTuple):
    """A batch of decoded images; its arrays are valid until the next batch is requested.

    Args:
        start: Row of the first image in the image list.
        pixels: uint8 `[N, K, 3, S, S]`; zeros for images that cannot be decoded.
        image_size: int32 `[N, 2]`, height and width; zeros for images that cannot be decoded.
        reasons: Reason for each image that cannot be decoded; empty for decoded images.
    """

    start: int
    pixels: NDArray[np.uint8]
    image_size: NDArray[np.int32]
    reasons: list[str]


@contextmanager
def decoded_batches(
    files: Sequence[ImageFile],
    starts: Sequence[int],
    spec: FeatureSpec,
    *,
    batch_size: int,
    workers: int,
) -> Iterator[Iterator[DecodedBatch]]:
    """Decode batches of an image list; worker processes end with the block.

    Args:
        files: The image list.
        starts: Row of the first image of each batch to decode.
        spec: Spec with the preprocessing.
        batch_size: Images per batch; the last batch of the list may be smaller.
        workers: Number of decoding processes; 0 decodes in this process on request.

    Yields:
        The batches in the order of `starts`.

    Raises:
        FeatureError: A decoding process exited unexpectedly.
    """
    layout = SlotLayout(batch_size=min(batch_size, len(files)), spec=spec)
    batches = ((start, files[start : start + batch_size]) for start in starts)
    processes = min(workers, len(starts))
    if processes == 0:
        yield _decode_in_this_process(batches, layout)
        return
    with ExitStack() as stack:
        yield _decode_ahead(batches, _Pool(layout, processes, stack))


def _decode_in_this_process(
    batches: Iterator[FileBatch], layout: SlotLayout
) -> Iterator[DecodedBatch]:
    slot = layout.slots(bytearray(layout.slot_bytes))[0]
    for start, files in batches:
        reasons = [
            decode_into(slot, position, str(file.path), layout.spec)
            for position, file in enumerate(files)
        ]
        yield DecodedBatch(start, slot.pixels[: len(files)], slot.image_size[: len(files)], reasons)


class _Pool:
    """Decoding processes, one waiting thread per process, and their shared memory.

    Args:
        layout: Layout of the slots.
        processes: Number of processes.
        stack: Ends the processes and threads when it is closed.
    """

    def __init__(self, layout: SlotLayout, processes: int, stack: ExitStack) -> None:
        # The encoder uses one slot; each process fills one and has another one ready.
        count = 2 * processes + 1
        handle = create_memory_file("squares")
        try:
            os.ftruncate(handle, count * layout.slot_bytes)
            self.slots = layout.slots(mmap.mmap(handle, count * layout.slot_bytes))
            self._threads = ThreadPoolExecutor(processes, "decoding")
            # Closed last: the threads end after the processes have ended.
            stack.callback(self._threads.shutdown, cancel_futures=True)
            self._idle: queue.SimpleQueue[DecodingProcess] = queue.SimpleQueue()
            for _ in range(processes):
                process = DecodingProcess(layout, handle)
                stack.callback(process.end)
                self._idle.put(process)
        finally:
            os.close(handle)

    def submit(self, number: int, files: Sequence[ImageFile]) -> Future[list[str]]:
        return self._threads.submit(self._decode, number, files)

    def _decode(self, number: int, files: Sequence[ImageFile]) -> list[str]:
        process = self._idle.get()
        try:
            return process.decode(number, self.slots[number], files)
        finally:
            # Even if it has exited: the next request then fails instead of waiting forever.
            self._idle.put(process)


def _decode_ahead(batches: Iterator[FileBatch], pool: _Pool) -> Iterator[DecodedBatch]:
    free = deque(range(len(pool.slots)))
    pending: deque[tuple[int, int, int, Future[list[str]]]] = deque()
    while True:
        while free and (batch := next(batches, None)) is not None:
            start, files = batch
            number = free.popleft()
            pending.append((start, number, len(files), pool.submit(number, files)))
        if not pending:
            return
        start, number, count, reasons = pending.popleft()
        slot = pool.slots[number]
        yield DecodedBatch(start, slot.pixels[:count], slot.image_size[:count], reasons.result())
        free.append(number)
