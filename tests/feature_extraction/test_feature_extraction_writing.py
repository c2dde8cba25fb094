"""The thread that writes: order, bounds, and errors that reach who brings the batches."""

import threading
from collections.abc import Iterable

import numpy as np
import pytest

from feature_extraction.errors import StoreError
from feature_extraction.store.background_writer import MAX_QUEUED_BATCHES, BackgroundWriter
from feature_extraction.store.writer import Batch


class Store:
    """In place of a store under way: remembers what is written, perhaps slow, perhaps full."""

    def __init__(self, *, full_at: int | None = None) -> None:
        self.written: list[int] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self._full_at = full_at

    def write(self, batch: Batch) -> None:
        assert self.may_go_on.wait(20)
        if batch.start == self._full_at:
            raise StoreError("no space left")
        self.written.append(batch.start)


def batch(start: int) -> Batch:
    features_NVC = np.zeros((1, 1, 1), np.float16)
    image_size_N2 = np.ones((1, 2), np.int32)
    return Batch(start=start, features=features_NVC, image_size=image_size_N2, reasons=[""])


def write(store: Store, starts: Iterable[int], *, then: type[BaseException] | None = None) -> None:
    """Write batches, perhaps with another error at the end."""
    with BackgroundWriter(store) as writer:  # type: ignore[arg-type]
        for start in starts:
            writer.write(batch(start))
        store.may_go_on.set()
        if then is not None:
            raise then


def test_all_is_written_in_order_when_the_block_ends() -> None:
    store = Store()
    write(store, range(50))
    assert store.written == list(range(50))


def test_all_is_written_also_when_an_error_ends_the_block() -> None:
    store = Store()
    store.may_go_on.clear()
    with pytest.raises(KeyboardInterrupt):
        write(store, range(MAX_QUEUED_BATCHES), then=KeyboardInterrupt)
    assert store.written == list(range(MAX_QUEUED_BATCHES))


def test_whoever_is_faster_than_the_disk_waits() -> None:
    """One batch is being written, a few wait: memory does not grow with the number of images."""
    store = Store()
    store.may_go_on.clear()
    brought: list[int] = []

    def bring(writer: BackgroundWriter) -> None:
        for start in range(20):
            writer.write(batch(start))
            brought.append(start)

    with BackgroundWriter(store) as writer:  # type: ignore[arg-type]
        thread = threading.Thread(target=bring, args=(writer,))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert len(brought) <= MAX_QUEUED_BATCHES + 1
        store.may_go_on.set()
        thread.join()
    assert store.written == list(range(20))


def test_an_error_reaches_the_next_who_brings_a_batch_and_nothing_is_written_after_it() -> None:
    """Of a thousand batches all but a few would be lost otherwise."""
    store, brought = Store(full_at=3), iter(range(1000))
    with pytest.raises(StoreError, match="no space left"):
        write(store, brought)
    assert next(brought) <= 3 + MAX_QUEUED_BATCHES + 3
    assert store.written == [0, 1, 2]


def test_an_error_in_the_last_batch_is_not_lost() -> None:
    store = Store(full_at=1)
    with pytest.raises(StoreError, match="no space left"):
        write(store, range(2))
    assert store.written == [0]


def test_an_error_takes_the_place_of_an_interruption() -> None:
    """The store must learn that a write failed, or it would call safe what is not."""
    with pytest.raises(StoreError, match="no space left"):
        write(Store(full_at=0), range(1), then=KeyboardInterrupt)
