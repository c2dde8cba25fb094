"""`vl-lst`, and `python -m vl_lst`, which is the same."""

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line and return its exit code, also when interrupted while it loads."""
    try:
        from vl_lst.cli import main as run
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
