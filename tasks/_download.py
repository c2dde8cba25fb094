"""Resumable downloads of official files over HTTP.

For each file `NAME` the download folder contains

    NAME.part        the bytes received so far
    NAME.part.json   the version of the file they belong to, so that versions are never mixed
    NAME.json        size and SHA-256 of the first download, to compare later downloads with
"""

import hashlib
import http
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from eval.archives import extract_members, file_names
from eval.errors import FileFormatError, InputError
from eval.files import MAX_RUN_FILE_BYTES, read_json
from eval.outputs import write_json
from eval.regular_files import open_regular, require_regular_if_any
from tasks._files import DataFile

__all__ = ["BytesReport", "download_file", "fetch"]

# Progress callback: (file name, bytes received, total bytes or `None` if unknown).
BytesReport = Callable[[str, int, int | None], None]

FOLDER = ".downloads"
BLOCK_BYTES = 1 << 18
# The largest official file has about 1.5 GB.
MAX_BYTES = 1 << 35
TIMEOUT_SECONDS = 60.0
MAX_ATTEMPTS = 4
RETRY_SECONDS = 2.0
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class _Version:
    """The version of a file on a server.

    Args:
        url: Address of the file.
        validator: Strong ETag or modification time; `None` if the server sends neither.
        total: Size in bytes; `None` if the server does not send it.
    """

    url: str
    validator: str | None
    total: int | None


class _TransferError(Exception):
    """A transfer failed, and another attempt may succeed."""


def download_file(
    file: DataFile,
    data_root: Path,
    *,
    mirror: str | None = None,
    keep_archive: bool = False,
    report: BytesReport = lambda name, done, total: None,
    others: Sequence[DataFile] = (),
) -> list[Path]:
    """Download a file, and all other files in the same archive.

    Args:
        file: The file, which must have a source.
        data_root: Folder that its path is relative to.
        mirror: Address of a folder to download from instead of the official host.
        keep_archive: Whether to keep the archive after unpacking it.
        report: Progress callback.
        others: Other files, which are written too if they have the same source.

    Returns:
        The written files.

    Raises:
        ValueError: The file has no source.
        InputError: The transfer failed, or the disk is full.
        FileFormatError: The download has another checksum or format.
    """
    source = file.source
    if source is None:
        raise ValueError(f"{file.path} has no public address")
    url = f"{mirror.rstrip('/')}/{source.name}" if mirror else source.url
    fetched = fetch(url, data_root / FOLDER, sha256=source.sha256, report=report)
    if fetched.suffix != ".zip":
        target = data_root / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        fetched.replace(target)
        return [target]
    same_source = [other for other in others if other.source == source and other != file]
    targets = _targets(fetched, [file, *same_source], data_root)
    extract_members(fetched, targets)
    if not keep_archive:
        fetched.unlink()
    return list(targets.values())


def _targets(archive: Path, files: Sequence[DataFile], data_root: Path) -> dict[str, Path]:
    """Return {name in the archive: path} for the files."""
    names = file_names(archive)
    targets: dict[str, Path] = {}
    for file in files:
        last = file.path.rstrip("/").rpartition("/")[2]
        target = data_root / file.path
        if file.path.endswith("/"):
            # Some systems add hidden files, whose names begin with a dot.
            pattern = re.compile(rf"(.*/)?{re.escape(last)}/([^./][^/]*\.json)")
            found = {
                name: target / match[2] for name in names if (match := pattern.fullmatch(name))
            }
        else:
            same_name = [name for name in names if name.rpartition("/")[2] == last]
            # Archives may hold raw versions of the files in folders of their own.
            same_name.sort(key=lambda name: name.count("/"))
            found = dict.fromkeys(same_name[:1], target)
        if not found:
            raise FileFormatError(
                f"{archive} contains no {last}, but {', '.join(names[:10]) or 'nothing'}; the "
                f"publisher may have changed it. Put {file.path} below the data root by hand."
            )
        targets |= found
    return targets


def fetch(
    url: str,
    folder: Path,
    *,
    sha256: str | None = None,
    max_attempts: int = MAX_ATTEMPTS,
    retry_seconds: float = RETRY_SECONDS,
    report: BytesReport = lambda name, done, total: None,
) -> Path:
    """Download one file, resuming an earlier call that was interrupted.

    Args:
        url: Address of the file, http or https.
        folder: Output folder. The file is named after the last part of its address.
        sha256: Expected SHA-256. Default: that of the first download.
        max_attempts: Number of attempts in a row that may fail without receiving a byte.
        retry_seconds: Seconds between attempts.
        report: Progress callback.

    Raises:
        InputError: The server cannot be reached or does not have the file.
        FileFormatError: The file has another checksum.
    """
    name = url.rpartition("/")[2]
    if not _is_valid_address(url) or not re.fullmatch(r"[\w.-]+", name):
        raise InputError(
            f"{url!r:.300} is not the address of a file to download; expected http or https"
        )
    target, part = folder / name, folder / f"{name}.part"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (target, part):
        require_regular_if_any(path)
    record = folder / f"{name}.json"
    if target.exists():
        _verify(target, record, url, sha256)
        return target
    _transfer(url, part, max_attempts, retry_seconds, report)
    _verify(part, record, url, sha256)
    part.replace(target)
    _version_file(part).unlink(missing_ok=True)
    return target


def _is_valid_address(url: str) -> bool:
    if any(character <= " " for character in url):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an unmatched bracket or an invalid port
        return False


def _transfer(
    url: str, part: Path, max_attempts: int, retry_seconds: float, report: BytesReport
) -> None:
    failures = 0
    while True:
        before = _size(part)
        try:
            _attempt(url, part, report)
            return
        except _TransferError as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= max_attempts:
                raise InputError(
                    f"{url}: {error}, after {max_attempts} attempts; {_size(part):,} bytes were "
                    "received. Run the command again to resume, or download the file by hand."
                ) from None
        time.sleep(retry_seconds)


def _attempt(url: str, part: Path, report: BytesReport) -> None:
    """Append the missing bytes to `part`, or start over if the server requires it."""
    known = _known_version(part, url)
    start = _size(part) if known else 0
    headers = {"User-Agent": "vl-lst", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if known and known.validator:
            headers["If-Range"] = known.validator
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            offset, total = _offset_and_total(response)
            if offset and (known is None or (offset, total) != (start, known.total)):
                part.unlink()
                raise _TransferError("the server sent another part or version of the file")
            version = _Version(url, _validator(response), total)
            if not offset:
                write_json(_version_file(part), asdict(version))
            with part.open("ab" if offset else "wb") as file:
                _copy(response, file, offset, version, report)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if known and start == known.total:
                return
            part.unlink(missing_ok=True)
            raise _TransferError("the server has a shorter file than before") from None
        if error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _TransferError(f"the server responds {error.code} ({error.reason})") from None
        raise InputError(
            f"{url}: the server responds {error.code} ({error.reason}). The file may have moved: "
            "download it by hand, or pass a server that has it with --mirror."
        ) from None
    except urllib.error.URLError as error:
        raise _TransferError(f"the server cannot be reached ({error.reason})") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise _TransferError(f"the transfer was interrupted ({reason})") from None


def _offset_and_total(response: Any) -> tuple[int, int | None]:
    """Return the offset of the response in the file, and the size of the file if known."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        match = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None:
            raise _TransferError("the server sent a part without a valid Content-Range")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    # A server that does not support ranges sends the whole file again.
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _copy(response: Any, file: BinaryIO, done: int, version: _Version, report: BytesReport) -> None:
    name = version.url.rpartition("/")[2]
    while block := response.read(BLOCK_BYTES):
        file.write(block)
        done += len(block)
        report(name, done, version.total)
        if done > (MAX_BYTES if version.total is None else version.total):
            raise InputError(f"{version.url}: the server sent more bytes than it announced")
    file.flush()
    os.fsync(file.fileno())
    if version.total is not None and done < version.total:
        raise _TransferError(f"the transfer ended at {done:,} of {version.total:,} bytes")


def _validator(response: Any) -> str | None:
    tag: str | None = response.headers.get("ETag")
    modified: str | None = response.headers.get("Last-Modified")
    # Different files may have the same weak tag.
    return tag if tag and not tag.startswith("W/") else modified


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _known_version(part: Path, url: str) -> _Version | None:
    """Return the version that a part belongs to; `None` if there is no part or it is unknown."""
    if not _size(part) or not _version_file(part).exists():
        return None
    try:
        known = read_json(
            _version_file(part), expected="the version of a download", max_bytes=MAX_RUN_FILE_BYTES
        )
    except FileFormatError:
        return None
    if not isinstance(known, dict) or known.get("url") != url:
        return None
    return _Version(url, known.get("validator"), known.get("total"))


def _verify(path: Path, record: Path, url: str, sha256: str | None) -> None:
    """Compare a download with the published checksum or the first download, which is recorded."""
    with open_regular(path, expected="a download", max_bytes=MAX_BYTES, read_again=True) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    recorded = None
    if record.exists():
        recorded = read_json(record, expected="a checksum", max_bytes=MAX_RUN_FILE_BYTES)
    expected = sha256
    if expected is None and isinstance(recorded, dict):
        expected = recorded.get("sha256")
    if expected is not None and found != expected:
        size = _size(path)
        if path.suffix == ".part":
            path.unlink()
        source = "the publisher" if sha256 else f"the first download ({record})"
        raise FileFormatError(
            f"{url}: the checksum does not match: found {size:,} bytes with SHA-256 {found}, "
            f"expected {expected} from {source}. If you trust the server, delete "
            f"{path if path.exists() else record} and download again."
        )
    if recorded is None:
        write_json(record, {"url": url, "bytes": _size(path), "sha256": found})


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
