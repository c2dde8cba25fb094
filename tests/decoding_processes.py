"""Find, change and wait for the decoding processes of an extraction."""

import textwrap
import time
from pathlib import Path

import pytest

MAX_SECONDS_TO_EXIT = 20.0


def decoding_processes(parent: int) -> list[int]:
    """Return the ids of running decoding processes of a parent process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name of the program is in brackets and may have any characters.
            state, parent_id, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if (
            int(parent_id) == parent
            and state != "Z"
            and b"feature_extraction.images.decoding" in command
        ):
            found.append(int(folder.name))
    return sorted(found)


def wait_until_gone(processes: list[int]) -> None:
    """Wait until processes have exited; fail after a time limit."""
    deadline = time.monotonic() + MAX_SECONDS_TO_EXIT
    running = list(processes)
    while running:
        assert time.monotonic() < deadline, f"still alive: {running}"
        time.sleep(0.05)
        running = [number for number in running if _is_alive(number)]


def _is_alive(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def change_decoding(code: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Replace `decode_image` in decoding processes that are started from now on.

    Args:
        code: Defines the new `decode_image`; `original` is the replaced function.
        folder: Folder for a file that Python runs when it starts.
        patch: Restores decoding when it is undone.
    """
    head = """\
        import os, signal, time
        import feature_extraction.images.decode as images
        original = images.decode_image
        """
    lines = [textwrap.dedent(head), textwrap.dedent(code), "images.decode_image = decode_image\n"]
    (folder / "sitecustomize.py").write_text("\n".join(lines))
    patch.syspath_prepend(folder)
