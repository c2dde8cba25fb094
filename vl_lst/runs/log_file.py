"""`log.txt`: what happened in a run, with times."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["log_to_file"]

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append messages of the package's logger to a file during the block."""
    handler = _LogFile(path)
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logger = logging.getLogger("vl_lst")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


class _LogFile(logging.Handler):
    """Handler that appends to a file and drops lines that cannot be written, as on a full disk.

    Training reports a full disk itself when it writes a checkpoint. The handlers of `logging` would
    print one traceback per line.

    Args:
        path: File to append to.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        # Unbuffered: a buffer that could not be written would be written again by `close`.
        self._file = path.open("ab", buffering=0)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line."""
        line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        with suppress(OSError):
            self._file.write(line)

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._file.close()
        super().close()
