"""Entry point of `vl-lst` and of `python -m vl_lst`."""

import os
import sys
from contextlib import suppress

__all__ = ["main"]

STANDARD_ERROR = 2


def main() -> int:
    """Run the command line and return its exit code, also if interrupted during import."""
    _open_standard_streams()
    try:
        from vl_lst.cli import main as run
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return run()


def _open_standard_streams() -> None:
    """Open closed standard streams, so that no other file gets their descriptors and output."""
    with suppress(OSError):
        while (handle := os.open(os.devnull, os.O_RDWR)) <= STANDARD_ERROR:
            os.set_inheritable(handle, True)
        os.close(handle)


if __name__ == "__main__":
    sys.exit(main())
