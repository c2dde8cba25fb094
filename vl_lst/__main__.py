"""`vl-lst`, and `python -m vl_lst`, which is the same."""

import os
import sys
from contextlib import suppress

__all__ = ["main"]

STANDARD_ERROR = 2


def main() -> int:
    """Run the command line and return its exit code, also when interrupted while it loads."""
    _open_standard_streams()
    try:
        from vl_lst.cli import main as run
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return run()


def _open_standard_streams() -> None:
    """Open closed standard streams, so that no other file receives what is printed."""
    with suppress(OSError):
        while (handle := os.open(os.devnull, os.O_RDWR)) <= STANDARD_ERROR:
            os.set_inheritable(handle, True)
        os.close(handle)


if __name__ == "__main__":
    sys.exit(main())
