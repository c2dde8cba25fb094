"""Write batches to disk in a thread while the encoder computes the next ones."""

import queue
import threading
from types import TracebackType
from typing import Self

from feature_extraction.store.writer import Batch, StoreWriter

__all__ = ["BackgroundWriter"]

MAX_QUEUED_BATCHES = 2


class BackgroundWriter:
    """Writes batches to a `StoreWriter` in a thread, in the order they are submitted.

    A context manager: when the block ends, even with an error, all submitted batches have been
    written. Until then nothing else may write to the store.

    Args:
        writer: The store to write to.

    Raises:
        StoreError: When the block ends, if a batch could not be written.
    """

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        self._queue: queue.Queue[Batch | None] = queue.Queue(MAX_QUEUED_BATCHES)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="writing", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        # Replaces any other error, such as an interrupt: after a failed write the store must not
        # commit anything.
        if self._error is not None:
            raise self._error

    def write(self, batch: Batch) -> None:
        """Submit one batch, waiting while the queue is full.

        Args:
            batch: The batch; its arrays must not be changed afterwards.

        Raises:
            StoreError: An earlier batch could not be written; no later one was.
        """
        if self._error is not None:
            raise self._error
        self._queue.put(batch)

    def _work(self) -> None:
        while (batch := self._queue.get()) is not None:
            # After an error, batches are dropped, so that `write` never waits forever.
            if self._error is not None:
                continue
            try:
                self._writer.write(batch)
            except BaseException as error:  # noqa: BLE001 - re-raised in the caller's thread
                self._error = error
