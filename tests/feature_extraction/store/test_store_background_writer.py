"""The background writer: order, bounded memory, and errors that reach the caller."""

import threading
from collections.abc import Iterable

import numpy as np
import pytest

from feature_extraction.errors import StoreError
from feature_extraction.store.background_writer import MAX_QUEUED_BATCHES, BackgroundWriter
from feature_extraction.store.writer import Batch


class Store:
    """Fake `StoreWriter` that records batches, and can be slow or full."""

    def __init__(self, *, full_at: int | None = None) -> None:
        self.written: list[int] = []
        self.can_write = threading.Event()
        self.can_write.set()
        self._full_at = full_at

    def write(self, batch: Batch) -> None:
        assert self.can_write.wait(20)
        if batch.start == self._full_at:
            raise StoreError("no space left")
        self.written.append(batch.start)


def batch(start: int) -> Batch:
    features_NVC = np.zeros((1, 1, 1), np.float16)
    image_size_N2 = np.ones((1, 2), np.int32)
    return Batch(start=start, features=features_NVC, image_size=image_size_N2, reasons=[""])


def write(store: Store, starts: Iterable[int], *, then: type[BaseException] | None = None) -> None:
    """Write batches, and optionally raise another error at the end."""
    with BackgroundWriter(store) as writer:  # type: ignore[arg-type]
        for start in starts:
            writer.write(batch(start))
        store.can_write.set()
        if then is not None:
            raise then


def test_everything_is_written_in_order_when_the_block_ends() -> None:
    store = Store()
    write(store, range(50))
    assert store.written == list(range(50))


def test_everything_is_written_when_an_error_ends_the_block() -> None:
    store = Store()
    store.can_write.clear()
    with pytest.raises(KeyboardInterrupt):
        write(store, range(MAX_QUEUED_BATCHES), then=KeyboardInterrupt)
    assert store.written == list(range(MAX_QUEUED_BATCHES))


def test_a_caller_faster_than_the_disk_waits() -> None:
    """Memory does not grow with the number of images."""
    store = Store()
    store.can_write.clear()
    submitted: list[int] = []

    def submit(writer: BackgroundWriter) -> None:
        for start in range(20):
            writer.write(batch(start))
            submitted.append(start)

    with BackgroundWriter(store) as writer:  # type: ignore[arg-type]
        thread = threading.Thread(target=submit, args=(writer,))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert len(submitted) <= MAX_QUEUED_BATCHES + 1
        store.can_write.set()
        thread.join()
    assert store.written == list(range(20))


def test_an_error_is_raised_at_the_next_batch_and_nothing_is_written_after_it() -> None:
    """Otherwise almost all of a thousand batches would be lost."""
    store, submitted = Store(full_at=3), iter(range(1000))
    with pytest.raises(StoreError, match="no space left"):
        write(store, submitted)
    assert next(submitted) <= 3 + MAX_QUEUED_BATCHES + 3
    assert store.written == [0, 1, 2]


def test_an_error_in_the_last_batch_is_not_lost() -> None:
    store = Store(full_at=1)
    with pytest.raises(StoreError, match="no space left"):
        write(store, range(2))
    assert store.written == [0]


def test_an_error_replaces_an_interrupt() -> None:
    """The store must learn of a failed write, or it would commit what was not written."""
    with pytest.raises(StoreError, match="no space left"):
        write(Store(full_at=0), range(1), then=KeyboardInterrupt)
