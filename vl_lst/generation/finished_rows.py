"""Which rows of a search are finished, without waiting for the device.

N rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["FinishedRows"]


class FinishedRows:
    """Flags of finished rows, so that a search can drop these.

    On CUDA, the flags of a step are copied to the host while the device computes the next step,
    which the host has already started when it reads them. So the device never waits for the host,
    and a row is dropped one step after it has finished. On other devices, it is dropped at once.

    Args:
        device: Device of the search.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.delay = 1 if device.type == "cuda" else 0
        """Number of steps after which a row is known to be finished."""
        self._pending: _Flags | None = None

    def unfinished(self, finished_N: Tensor) -> Tensor | None:
        """Return the unfinished rows if others are known to be finished, otherwise `None`.

        The search drops the others before the next call.

        Args:
            finished_N: True for finished rows; a finished row stays finished.
        """
        if not self.delay:
            kept = _unfinished(finished_N.tolist())
        else:
            before, self._pending = self._pending, _Flags(finished_N)
            kept = None if before is None else _unfinished(before.read())
            if kept is not None:
                self._pending.rows = kept
        return None if kept is None else self._upload(kept)

    def _upload(self, rows: list[int]) -> Tensor:
        """Return rows on the device; from page-locked memory, without waiting for it."""
        rows_N = torch.tensor(rows, dtype=torch.long)
        if self._device.type == "cuda":
            rows_N = rows_N.pin_memory()
        return rows_N.to(self._device, non_blocking=True)


class _Flags:
    """Flags on their way from a CUDA device to the host.

    Args:
        flags_N: Flags on the device.
    """

    def __init__(self, flags_N: Tensor) -> None:
        self.rows: Sequence[int] = range(len(flags_N))
        """Rows that the search has kept since."""
        self._host_N = torch.empty(flags_N.shape, dtype=torch.bool, pin_memory=True)
        self._host_N.copy_(flags_N, non_blocking=True)
        self._is_copied = torch.cuda.Event()
        self._is_copied.record()

    def read(self) -> list[bool]:
        """Return the flags of the kept rows."""
        self._is_copied.synchronize()
        flags = self._host_N.tolist()
        return [flags[row] for row in self.rows]


def _unfinished(flags: Sequence[bool]) -> list[int] | None:
    """Return the rows without a flag; `None` if no row has one."""
    return [row for row, flag in enumerate(flags) if not flag] if any(flags) else None
