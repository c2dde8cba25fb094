"""A folder with the leaderboard as a static site: the page, its data and its pictures.

Names of data and pictures change with their content, and the page is replaced last. A reader sees
either the old site or the new one, and a run of the program that was interrupted is continued by
the next, which writes only what is missing.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from eval.errors import OutputError
from eval.outputs import TEMPORARY_SUFFIX, atomic_path, json_bytes

__all__ = ["Site", "check_site"]

MARKER = "vl-lst-site.json"
PAGE = "index.html"
DATA, PICTURES = "data", "pictures"
DATA_FILE = re.compile(r"[a-z]+-[0-9a-f]{24}\.js")
PICTURE_FOLDER = re.compile(r"[0-9a-f]{2}")
PICTURE_FILE = re.compile(r"[0-9a-f]{22}\.jpg")


def check_site(folder: Path) -> None:
    """Check that a site can be written into a folder; creates nothing.

    Raises:
        OutputError: The folder holds something other than a site, or is no folder.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise OutputError(
            f"{folder} is not a folder: expected a new or empty folder, or a site. Choose another "
            "one."
        )
    names = [each.name for each in folder.iterdir() if not each.name.endswith(TEMPORARY_SUFFIX)]
    if names and not _is_regular(folder / MARKER):
        raise OutputError(
            f"{folder} holds something else: found {min(names)!r:.60} and no {MARKER}; expected a "
            "new or empty folder, or one that --publish wrote. Choose another folder."
        )
    for inner in (folder / DATA, folder / PICTURES):
        if inner.is_symlink() or (inner.exists() and not inner.is_dir()):
            raise OutputError(
                f"{inner} is a link or a file: expected a folder that --publish wrote. Remove it."
            )


class Site:
    """A site that is being written.

    Args:
        folder: Its folder, which may hold an earlier version.

    Raises:
        OutputError: The folder holds something else, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        check_site(folder)
        self._folder = folder
        self._kept: set[Path] = set()
        self.written = 0
        self._replace(folder / MARKER, json_bytes({"schema_version": 1, "page": PAGE}))

    def add_picture(self, key: str, make: Callable[[], bytes]) -> str:
        """Add a picture, unless the folder has it.

        Args:
            key: 24 hexadecimal digits that identify its content.
            make: Returns the JPEG file.

        Returns:
            Its address relative to the page.

        Raises:
            OutputError: It cannot be written.
        """
        name = f"{key[2:]}.jpg"
        self._add(self._inner(PICTURES, key[:2]) / name, make)
        return f"{PICTURES}/{key[:2]}/{name}"

    def add_block(self, key: str, block: str) -> str:
        """Add a block of data as a script, unless the folder has it.

        Args:
            key: Key of the block.
            block: Its text, in base64.

        Returns:
            Its address relative to the page.

        Raises:
            OutputError: It cannot be written.
        """
        content = f'page.receive("{key}", "{block}");\n'.encode("ascii")
        kind, digest = key.partition("-")[0], hashlib.sha256(content).hexdigest()[:24]
        name = f"{kind}-{digest}.js"
        self._add(self._inner(DATA) / name, lambda: content)
        return f"{DATA}/{name}"

    def finish(self, page: bytes) -> None:
        """Write the page, then remove the data and pictures that it does not use.

        Args:
            page: Its HTML.

        Raises:
            OutputError: It cannot be written.
        """
        self._replace(self._folder / PAGE, page)
        for path in self._own_files():
            if path not in self._kept:
                path.unlink(missing_ok=True)

    def _inner(self, *names: str) -> Path:
        inner = self._folder.joinpath(*names)
        if inner.is_symlink():
            raise OutputError(f"{inner} is a link: expected a folder that --publish wrote")
        return inner

    def _add(self, path: Path, make: Callable[[], bytes]) -> None:
        self._kept.add(path)
        # Files are moved into place when they are complete.
        if not _is_regular(path):
            with atomic_path(path) as temporary:
                temporary.write_bytes(make())
            self.written += 1

    def _replace(self, path: Path, content: bytes) -> None:
        if _is_regular(path) and path.stat().st_size == len(content):
            if path.read_bytes() == content:
                return
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        self.written += 1

    def _own_files(self) -> list[Path]:
        """Return all files that have names of data and pictures."""
        found = _matching(self._folder / DATA, DATA_FILE)
        for inner in _matching(self._folder / PICTURES, PICTURE_FOLDER):
            if not inner.is_symlink():
                found += _matching(inner, PICTURE_FILE)
        return found


def _matching(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if pattern.fullmatch(path.name)]


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
