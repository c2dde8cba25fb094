"""`metrics.jsonl`: one line per log step and per evaluation, without times.

The file of a resumed run is byte-identical to that of an uninterrupted one. Times, speed and memory
therefore go to the progress bar, `log.txt`, TensorBoard and `record.json`, but not to this file.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from vl_lst.errors import CheckpointError, TrainingError

__all__ = ["MetricsLog"]


class MetricsLog:
    """Writer of `metrics.jsonl` and, optionally, TensorBoard event files.

    Args:
        path: File to append to; `None`, in all processes but the first, writes nothing.
        keep_bytes: Number of bytes that a resumed run keeps. Later lines were written after the
            last checkpoint and will be written again.
        tensorboard: Folder for event files; `None` writes none.

    Raises:
        CheckpointError: The file is shorter than `keep_bytes`.
        TrainingError: TensorBoard is not installed.
    """

    def __init__(
        self, path: Path | None, *, keep_bytes: int = 0, tensorboard: Path | None = None
    ) -> None:
        self._file: BinaryIO | None = None
        self._events: Any = None
        if path is None:
            return
        size = path.stat().st_size if path.exists() else 0
        if size < keep_bytes:
            raise CheckpointError(
                f"{path} has {size:,} bytes; expected the {keep_bytes:,} that it had when the "
                "checkpoint was saved. Restore it, or start again in another folder."
            )
        if tensorboard is not None:
            self._events = _event_writer(tensorboard)
        self._file = path.open("ab")
        self._file.truncate(keep_bytes)

    def write(
        self, step: int, values: Mapping[str, object], speed: Mapping[str, float] | None = None
    ) -> None:
        """Append a line.

        Args:
            step: Number of steps done.
            values: Names and values of the line; TensorBoard prefixes the names with the `task`.
            speed: Names and values for TensorBoard only.
        """
        if self._file is None:
            return
        line = json.dumps({"step": step, **values}, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        if self._events is not None:
            task = f"{values['task']}/" if "task" in values else ""
            for name, value in {**values, **(speed or {})}.items():
                if isinstance(value, int | float):
                    self._events.add_scalar(task + name, value, step)

    def sync(self) -> int:
        """Flush the file to disk and return its size in bytes, which a checkpoint stores."""
        if self._file is None:
            return 0
        os.fsync(self._file.fileno())
        if self._events is not None:
            self._events.flush()
        return self._file.tell()

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()


def _event_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise TrainingError(
            "training.tensorboard is set, but TensorBoard is not installed: "
            "pip install 'vl-lst[tensorboard]', or unset it; metrics.jsonl has the same values"
        ) from None
    writer: Any = SummaryWriter  # untyped
    return writer(str(folder))
