"""The decoding processes of an extraction: seen, changed and waited for from outside."""

import textwrap
import time
from pathlib import Path

import pytest

SECONDS_TO_END = 20.0


def decoding_processes(parent: int) -> list[int]:
    """Return the ids of those that a process has started and that are alive."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The program's name, which may hold anything, is in brackets.
            state, above, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if (
            int(above) == parent
            and state != "Z"
            and b"feature_extraction.images.decoding" in command
        ):
            found.append(int(folder.name))
    return sorted(found)


def wait_until_gone(processes: list[int]) -> None:
    """Return when they have ended; fail when that takes too long."""
    until = time.monotonic() + SECONDS_TO_END
    left = list(processes)
    while left:
        assert time.monotonic() < until, f"still alive: {left}"
        time.sleep(0.05)
        left = [number for number in left if _is_alive(number)]


def _is_alive(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def change_decoding(code: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let decoding processes started from now on decode in another way.

    Args:
        code: Defines `decode_image`; `original` is the one that it stands for.
        folder: Where to put a file they run when they start.
        patch: Undone, decoding is as it was.
    """
    head = """\
        import os, signal, time
        import feature_extraction.images.decode as images
        original = images.decode_image
        """
    lines = [textwrap.dedent(head), textwrap.dedent(code), "images.decode_image = decode_image\n"]
    (folder / "sitecustomize.py").write_text("\n".join(lines))
    patch.syspath_prepend(folder)
