"""Find the photographs in a folder and its subfolders.

A file is a photograph if it has the suffix of an image, in any letter case. Other files are
skipped. Those that may be photographs are counted by suffix and reported; text files, tables and
similar files are not.
"""

import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

from eval.image_suffixes import COMMON_SUFFIXES, HEIF_SUFFIXES, IMAGE_SUFFIXES
from eval.text import is_utf8
from feature_extraction.errors import ImageError

__all__ = [
    "ARCHIVE_SUFFIXES",
    "HEIF_EXTRA",
    "FoundImages",
    "ImageFile",
    "find_images",
    "left_out_note",
    "walk_files",
]

HEIF_EXTRA = "pip install 'vl-lst[heif]'"

ARCHIVE_SUFFIXES = frozenset(
    ".7z .bz2 .gz .lz4 .rar .tar .tbz .tbz2 .tgz .txz .tzst .xz .zip .zst".split()
)
# Files often found next to photographs, which are skipped without a report.
SILENT_SUFFIXES = frozenset(
    ".arrow .cfg .csv .db .h5 .hdf5 .htm .html .ini .ipynb .json .jsonl .lock .log .md .md5 .npy"
    " .npz .parquet .pickle .pkl .pt .pth .py .rst .safetensors .sh .sha1 .sha256 .sqlite .toml"
    " .tsv .txt .xml .yaml .yml".split()
)
SILENT_NAMES = frozenset("copying license makefile md5sums notice readme sha256sums".split())

NO_SUFFIX = "(no suffix)"
OTHER_SUFFIXES = "(others)"
MAX_SUFFIX_LENGTH = 20
MAX_KINDS = 20
MAX_SHOWN_KINDS = 5


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A photograph on disk.

    There may be millions, so files of one folder share the objects `folder` and `suffix`.

    Args:
        image_id: File name without suffix, as in the official datasets.
        folder: Folder of the file.
        suffix: Suffix of the file name, with its dot.
    """

    image_id: str
    folder: Path
    suffix: str

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.folder / (self.image_id + self.suffix)


class FoundImages(list[ImageFile]):
    """The photographs of a folder, sorted by id.

    Args:
        files: The photographs.
        left_out: Number of skipped files that may be photographs, by suffix.
    """

    def __init__(self, files: Iterable[ImageFile], left_out: Mapping[str, int]) -> None:
        super().__init__(files)
        self.left_out = dict(left_out)

    @property
    def note(self) -> str:
        """Description of the skipped files in one line; empty if there are none."""
        return left_out_note(self.left_out)


def left_out_note(left_out: Mapping[str, int]) -> str:
    """Describe skipped files in one line; return an empty string if there are none.

    Args:
        left_out: Number of files by suffix.
    """
    if not left_out:
        return ""
    kinds = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count:,} {suffix}" for suffix, count in kinds[:MAX_SHOWN_KINDS]]
    if rest := sum(count for _, count in kinds[MAX_SHOWN_KINDS:]):
        shown.append(f"{rest:,} others")
    return f"left out: {', '.join(shown)}{_advice(left_out)}"


def find_images(folder: Path) -> FoundImages:
    """Find the photographs in a folder and its subfolders, sorted by id.

    HEIF files are included only if the package that reads them is installed. Names that start with
    a dot are skipped. Links to folders are followed; each folder is read once.

    Raises:
        ImageError: The folder does not exist, has no images, or has a subfolder that cannot be
            read; or two files share an id, or a name is not UTF-8.
    """
    _check_folder(folder)
    suffixes = IMAGE_SUFFIXES if _is_heif_readable() else COMMON_SUFFIXES
    files: list[ImageFile] = []
    left_out: Counter[str] = Counter()
    for parent, names in _walk(folder):
        for name in names:
            image_id, suffix = os.path.splitext(name)
            if suffix.lower() not in suffixes:
                _count_left_out(left_out, name, suffix)
                continue
            if not is_utf8(image_id):
                raise ImageError(
                    f"the file name {os.fsencode(parent / name)!r} is not UTF-8, so it cannot be "
                    "an image id: rename the file"
                )
            files.append(ImageFile(image_id, parent, sys.intern(suffix)))
    files.sort(key=attrgetter("image_id"))
    for one, other in pairwise(files):
        if one.image_id == other.image_id:
            raise ImageError(
                f"two files have the id {one.image_id!r}: {one.path} and {other.path}. Ids are "
                "file names without suffix and must differ: rename or remove one."
            )
    found = FoundImages(files, left_out)
    if not files:
        raise ImageError(
            f"no images in {folder} or its subfolders: expected files that end in "
            f"{', '.join(sorted(suffixes))}" + (f"; {found.note}" if left_out else "")
        )
    return found


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield all files in a folder and its subfolders, in the order of `find_images`.

    Raises:
        ImageError: A folder cannot be read.
    """
    for parent, names in _walk(folder):
        for name in names:
            yield parent / name


def _check_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    if not folder.exists():
        raise ImageError(f"{folder} does not exist: expected a folder of images")
    if folder.suffix.lower() in ARCHIVE_SUFFIXES:
        raise ImageError(
            f"{folder} is an archive: expected a folder of images. Unpack it, and give the folder."
        )
    raise ImageError(
        f"{folder} is not a folder: expected a folder of images. Give the folder that contains "
        "the images."
    )


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, onerror=_raise_unreadable, followlinks=True):
        identity = os.stat(parent)
        if (identity.st_dev, identity.st_ino) in seen:
            folders.clear()
            continue
        seen.add((identity.st_dev, identity.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files.sort()
        yield Path(parent), [name for name in files if not name.startswith(".")]


def _raise_unreadable(error: OSError) -> None:
    raise ImageError(
        f"the folder {error.filename} cannot be read ({error.strerror}), so its files would be "
        "missing. Make it readable, or move it elsewhere."
    )


def _is_heif_readable() -> bool:
    return importlib.util.find_spec("pillow_heif") is not None


def _count_left_out(left_out: Counter[str], name: str, suffix: str) -> None:
    if suffix.lower() in SILENT_SUFFIXES or name.lower() in SILENT_NAMES:
        return
    # Downloaded files may have names such as x.jpg?width=300, each with another number.
    base, mark, _ = suffix.partition("?")
    kind = f"{base}?..." if mark else suffix or NO_SUFFIX
    if len(kind) > MAX_SUFFIX_LENGTH or not is_utf8(kind) or not kind.isprintable():
        kind = OTHER_SUFFIXES
    if kind not in left_out and len(left_out) >= MAX_KINDS:
        kind = OTHER_SUFFIXES
    left_out[kind] += 1


def _advice(left_out: Mapping[str, int]) -> str:
    suffixes = {suffix.lower() for suffix in left_out}
    advice = []
    if suffixes & HEIF_SUFFIXES:
        advice.append(f"to read HEIC: {HEIF_EXTRA}")
    if suffixes & ARCHIVE_SUFFIXES:
        advice.append("unpack archives first")
    return f" ({'; '.join(advice)})" if advice else ""
