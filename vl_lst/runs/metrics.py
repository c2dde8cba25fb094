"""`metrics.jsonl`: one line per log step and per evaluation, without times.

The file of a resumed run is byte-identical to that of an uninterrupted one. Times, speed and memory
therefore go to the progress bar, `log.txt`, trackers and `record.json`, but not to this file.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from vl_lst.errors import CheckpointError
from vl_lst.runs.trackers import Trackers

__all__ = ["MetricsLog"]


class MetricsLog:
    """Writer of `metrics.jsonl`, whose lines also go to experiment trackers.

    Args:
        path: File to append to; `None`, in all processes but the first, writes nothing.
        keep_bytes: Number of bytes that a resumed run keeps. Later lines were written after the
            last checkpoint and will be written again.
        trackers: Experiment trackers, which this object starts and closes.

    Raises:
        CheckpointError: The file is shorter than `keep_bytes`.
        TrainingError: A tracker cannot start.
    """

    def __init__(
        self, path: Path | None, *, keep_bytes: int = 0, trackers: Trackers | None = None
    ) -> None:
        self._file: BinaryIO | None = None
        self._trackers: Trackers | None = None
        if path is None:
            return
        size = path.stat().st_size if path.exists() else 0
        if size < keep_bytes:
            raise CheckpointError(
                f"{path} has {size:,} bytes; expected the {keep_bytes:,} that it had when the "
                "checkpoint was saved. Restore it, or start again in another folder."
            )
        if trackers is not None:
            trackers.start()
            self._trackers = trackers
        self._file = path.open("ab")
        self._file.truncate(keep_bytes)
        # Truncating leaves the position behind the end, where `sync` would report it.
        self._file.seek(keep_bytes)

    def write(
        self, step: int, values: Mapping[str, object], costs: Mapping[str, float] | None = None
    ) -> None:
        """Append a line.

        Args:
            step: Number of steps done.
            values: Names and values of the line; trackers prefix the names with the `task`.
            costs: Names and values for trackers only, such as speed and memory.
        """
        if self._file is None:
            return
        line = json.dumps({"step": step, **values}, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        if self._trackers is not None:
            task = f"{values['task']}/" if "task" in values else ""
            numbers = {
                task + name: value
                for name, value in {**values, **(costs or {})}.items()
                if isinstance(value, int | float)
            }
            self._trackers.log(numbers, step=step, position=self._file.tell())

    def sync(self) -> int:
        """Flush the file to disk and return its size in bytes, which a checkpoint stores."""
        if self._file is None:
            return 0
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file and the trackers."""
        if self._file is not None:
            self._file.close()
        if self._trackers is not None:
            self._trackers.close()
