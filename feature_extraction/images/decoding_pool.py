"""Photographs decoded into the squares a tower sees: here, or in processes of their own.

Decoding processes (`feature_extraction.images.decoding_process`) write squares into memory they
share with this one: a ring of slots, each large enough for a batch. That many batches are decoded
ahead of the tower and no more, however many images there are.

A batch goes to whichever process is free; what comes out is in order all the same.
"""

import mmap
import os
import queue
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_extraction.images.decode import ImageFile
from feature_extraction.images.decoding_process import DecodingProcess, Geometry, decode_into
from feature_extraction.spec import FeatureSpec

# N images of a batch, K squares of one image, S side of a square

__all__ = ["SquareBatch", "decoded_batches"]


class SquareBatch(NamedTuple):
    """A batch ready for the tower; valid until the next one is asked for.

    Args:
        start: Row of its first image in the image list.
        pixels: uint8 `[N, K, 3, S, S]`; zeros where an image cannot be decoded.
        image_size: int32 `[N, 2]`, height and width; zeros where it cannot.
        reasons: Why it cannot; empty for those that can.
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
) -> Iterator[Iterator[SquareBatch]]:
    """Decode batches of an image list, in order; processes end with the block.

    Args:
        files: The image list.
        starts: Rows of the first image of each batch that is wanted.
        spec: How photographs become squares.
        batch_size: Images of a batch; the last of the list may be smaller.
        workers: Processes that decode; 0 decodes in this one, when a batch is asked for.

    Raises:
        FeatureError: A decoding process died.
    """
    geometry = Geometry(batch_size=min(batch_size, len(files)), spec=spec)
    wanted = _Wanted(files, starts, batch_size)
    processes = min(workers, len(starts))
    if processes == 0:
        yield _decode_here(wanted, geometry)
        return
    with ExitStack() as stack:
        yield _decode_ahead(wanted, _Pool(geometry, processes, stack))


@dataclass(frozen=True, slots=True)
class _Wanted:
    files: Sequence[ImageFile]
    starts: Sequence[int]
    batch_size: int

    def __iter__(self) -> Iterator[tuple[int, Sequence[ImageFile]]]:
        for start in self.starts:
            yield start, self.files[start : start + self.batch_size]


def _decode_here(wanted: _Wanted, geometry: Geometry) -> Iterator[SquareBatch]:
    slot = geometry.slots(bytearray(geometry.slot_bytes))[0]
    for start, files in wanted:
        reasons = [
            decode_into(slot, position, str(file.path), geometry.spec)
            for position, file in enumerate(files)
        ]
        yield SquareBatch(start, slot.pixels[: len(files)], slot.image_size[: len(files)], reasons)


class _Pool:
    """Decoding processes, a thread that waits for each, and the memory they share.

    Args:
        geometry: Of a slot.
        processes: How many.
        stack: What it takes to end them is left here.
    """

    def __init__(self, geometry: Geometry, processes: int, stack: ExitStack) -> None:
        # One slot is with the tower; each process has one it fills, and one that is ready.
        count = 2 * processes + 1
        handle = _anonymous_memory(count * geometry.slot_bytes)
        try:
            self.slots = geometry.slots(mmap.mmap(handle, count * geometry.slot_bytes))
            self._threads = ThreadPoolExecutor(processes, "decoding")
            # Entered first, left last: the threads end because the processes have.
            stack.callback(self._threads.shutdown, cancel_futures=True)
            self._idle: queue.SimpleQueue[DecodingProcess] = queue.SimpleQueue()
            for _ in range(processes):
                process = DecodingProcess(geometry, handle)
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
            # A dead one as well: whoever takes it next is told so, and does not wait for ever.
            self._idle.put(process)


def _decode_ahead(wanted: _Wanted, pool: _Pool) -> Iterator[SquareBatch]:
    free = deque(range(len(pool.slots)))
    under_way: deque[tuple[int, int, int, Future[list[str]]]] = deque()
    batches = iter(wanted)
    while True:
        while free and (batch := next(batches, None)) is not None:
            start, files = batch
            number = free.popleft()
            under_way.append((start, number, len(files), pool.submit(number, files)))
        if not under_way:
            return
        start, number, count, reasons = under_way.popleft()
        slot = pool.slots[number]
        yield SquareBatch(start, slot.pixels[:count], slot.image_size[:count], reasons.result())
        free.append(number)


def _anonymous_memory(size: int) -> int:
    """Memory that other processes can be handed, and that is gone when the last of them is."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("squares")
    else:
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    os.ftruncate(handle, size)
    return handle
