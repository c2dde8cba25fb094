"""Writing beside the work: batches go to the disk in a thread while the tower does the next.

A few batches may wait for the disk; when they are too many, whoever brings the next waits as well.
"""

import queue
import threading
from types import TracebackType
from typing import Self

from feature_extraction.store.partial import Batch, PartialStore

__all__ = ["BatchWriter"]

MOST_WAITING = 2


class BatchWriter:
    """Writes batches into a store under way, in the order they come.

    A context manager: at its end all that came is written, also when it is left by an error, so
    that nothing done is lost. In between nobody else may write to the store.

    Args:
        partial: The store.

    Raises:
        StoreError: At its end: a batch could not be written.
    """

    def __init__(self, partial: PartialStore) -> None:
        self._partial = partial
        self._waiting: queue.Queue[Batch | None] = queue.Queue(MOST_WAITING)
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
        self._waiting.put(None)
        self._thread.join()
        # Also in place of another error, an interruption for one: after a write that failed the
        # store must not be told to make anything safe.
        if self._error is not None:
            raise self._error

    def write(self, batch: Batch) -> None:
        """Take over one batch; its arrays must not be changed afterwards.

        Raises:
            StoreError: An earlier batch could not be written; no later one was.
        """
        if self._error is not None:
            raise self._error
        self._waiting.put(batch)

    def _work(self) -> None:
        while (batch := self._waiting.get()) is not None:
            # After an error batches are still taken, so that nobody waits for room, and dropped.
            if self._error is not None:
                continue
            try:
                self._partial.write(batch)
            except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the caller
                self._error = error
