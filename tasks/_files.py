"""Descriptions of the data files of a task and the sizes of its splits.

Files are fetched only by `vl-lst data download`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["LXMERT_LISTS", "DataFile", "Source", "SplitSize"]

# Host of LXMERT's answer lists, which most programs use.
LXMERT_LISTS = "https://raw.githubusercontent.com/airsplay/lxmert/master/data/"


@dataclass(frozen=True, slots=True)
class Source:
    """A file to download.

    Args:
        url: Official address.
        sha256: SHA-256 of the file in hexadecimal digits, if the publisher states it.
    """

    url: str
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A file below the data root.

    Args:
        path: Path relative to the data root. A path that ends with "/" is a folder of JSON files
            that together replace one file.
        splits: Splits that read the file.
        source: The file itself, or a zip archive with a file or folder of the same name; `None`
            if it has no public address.
        alternatives: Paths of files that can be read instead.
        optional: What the file is used for, if the splits can be loaded without it.
        derived_from: Paths of the files that `vl-lst data prepare` makes it from; empty if it does
            not.
    """

    path: str
    splits: tuple[str, ...]
    source: Source | None = None
    alternatives: tuple[str, ...] = ()
    optional: str | None = None
    derived_from: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """A description of where to get the file."""
        if self.source is not None:
            return self.source.url
        return "made by `vl-lst data prepare`" if self.derived_from else "no public address"

    def find(self, data_root: Path) -> Path | None:
        """Return the path of the file or of an alternative; `None` if there is none."""
        for name in (self.path, *self.alternatives):
            path = data_root / name
            if any(path.glob("*.json")) if name.endswith("/") else path.exists():
                return path
        return None


class SplitSize(NamedTuple):
    """The published size of a split.

    Args:
        examples: Number of examples.
        images: Number of images; `None` if it is not published.
    """

    examples: int
    images: int | None = None
