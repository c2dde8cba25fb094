"""Safe reading of untrusted zip archives, and reproducible writing of new ones.

An archive is refused if a name in it leads outside its folder (absolute path, "..", drive letter,
backslash), if it contains links or encrypted members, or if it expands far more than text does.
"""

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from eval.errors import FileFormatError, InputError
from eval.outputs import atomic_path
from eval.regular_files import open_regular

__all__ = ["extract_members", "file_names", "write_zip"]

# Annotations compress by a factor of ten to thirty, a zip bomb by a thousand.
MAX_EXPANSION = 200
ALWAYS_ALLOWED_BYTES = 1 << 26
MAX_ARCHIVE_BYTES = 1 << 36
BLOCK_BYTES = 1 << 20
DRIVE = re.compile(r"[A-Za-z]:")
# The earliest time that the format allows. A fixed time makes archives reproducible.
EPOCH = (1980, 1, 1, 0, 0, 0)


def file_names(archive: Path) -> list[str]:
    """Return the names of the files in a zip archive, in order.

    Raises:
        InputError: There is no such archive.
        FileFormatError: The file is not a zip archive, or not a safe one.
    """
    with _opened(archive) as opened:
        return [info.filename for info in opened.infolist() if not info.is_dir()]


def extract_members(archive: Path, targets: Mapping[str, Path]) -> None:
    """Extract members of a zip archive, each atomically.

    Args:
        archive: The archive.
        targets: {name in the archive: output path}.

    Raises:
        InputError: There is no such archive, or not enough disk space.
        FileFormatError: The file is not a zip archive, not a safe one, or damaged.
        KeyError: The archive has no such member.
    """
    with _opened(archive) as opened:
        for name, target in targets.items():
            info = opened.getinfo(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            _require_space(info.file_size, target.parent)
            try:
                with (
                    atomic_path(target) as temporary,
                    opened.open(info) as source,
                    temporary.open("wb") as file,
                ):
                    shutil.copyfileobj(source, file, BLOCK_BYTES)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
                raise FileFormatError(
                    f"{archive}: {name} in it cannot be unpacked ({error}): the archive is "
                    "damaged. Delete it, and download or write it again."
                ) from None


def write_zip(path: Path, files: Mapping[str, Path]) -> None:
    """Write a zip archive atomically. Equal contents give equal bytes.

    Args:
        path: The archive.
        files: {name in the archive: path of the file}.

    Raises:
        InputError: A file is missing or is not a regular file.
        OutputError: The archive cannot be written.
    """
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, file in files.items():
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.file_size = file.stat().st_size
            with (
                open_regular(
                    file, expected=name, max_bytes=MAX_ARCHIVE_BYTES, read_again=True
                ) as source,
                archive.open(info, "w") as member,
            ):
                shutil.copyfileobj(source, member, BLOCK_BYTES)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with open_regular(
        path, expected="a zip archive", max_bytes=MAX_ARCHIVE_BYTES, read_again=True
    ) as file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
            raise FileFormatError(
                f"{path} is not a complete zip archive ({error}). Delete it, and download or write "
                "it again."
            ) from None
        with archive:
            _require_safe(path, archive.infolist())
            yield archive


def _require_safe(path: Path, members: list[zipfile.ZipInfo]) -> None:
    for info in members:
        if fault := _fault(info):
            raise FileFormatError(
                f"{path} is refused: {info.orig_filename!a:.80} in it {fault}. Official archives "
                "contain nothing of the kind; download it from the official address."
            )
    names = [info.filename for info in members]
    if len(set(names)) < len(names):
        raise FileFormatError(f"{path} is refused: it contains two files of the same name")
    unpacked = sum(info.file_size for info in members)
    if unpacked > max(ALWAYS_ALLOWED_BYTES, MAX_EXPANSION * path.stat().st_size):
        raise FileFormatError(
            f"{path} is refused: its {path.stat().st_size:,} bytes claim to expand to "
            f"{unpacked:,}, far more than annotations do"
        )


def _fault(info: zipfile.ZipInfo) -> str | None:
    name = info.orig_filename
    if name.startswith("/") or DRIVE.match(name):
        return "is an absolute path"
    if "\\" in name or "\0" in name:
        return "has a backslash or a null character in its name"
    if ".." in PurePosixPath(name).parts:
        return "leads outside the archive's folder"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    return "is encrypted" if info.flag_bits & 1 else None


def _require_space(needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder} has {free:,} bytes of free space, {needed:,} are needed; free some space"
        )
