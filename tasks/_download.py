"""Official files fetched over HTTP: whole or not at all, and from where the last attempt stopped.

In the folder of downloads lie, for a file `NAME`,

    NAME.part        what has arrived so far
    NAME.part.json   of which version of the file, so that two are never mixed
    NAME.json        size and SHA-256 of what arrived first, kept to compare with later on
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
from dataclasses import dataclass
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

# Told the source's name, how many bytes have arrived and of how many, `None` if nobody says.
BytesReport = Callable[[str, int, int | None], None]

FOLDER = ".downloads"
BLOCK_BYTES = 1 << 18
# The largest official file has about 1.5 GB.
MOST_BYTES = 1 << 35
SECONDS_OF_SILENCE = 60.0
ATTEMPTS = 4
SECONDS_BETWEEN_ATTEMPTS = 2.0
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class _Version:
    """Which version of a file the server has.

    Args:
        url: Its address.
        validator: The server's strong ETag, or the time of its last change; `None` without both.
        total: Bytes of the file, `None` where the server does not say.
    """

    url: str
    validator: str | None
    total: int | None


class _TransferError(Exception):
    """A transfer broke off, and another attempt may go on."""


def download_file(
    file: DataFile,
    data_root: Path,
    *,
    mirror: str | None = None,
    keep_archive: bool = False,
    report: BytesReport = lambda name, done, total: None,
    others: Sequence[DataFile] = (),
) -> list[Path]:
    """Fetch a file, and all others that are in the same archive.

    Args:
        file: What to fetch; it must have a source.
        data_root: Folder it goes below.
        mirror: Address of a folder to fetch from instead of the official host.
        keep_archive: Keep the archive after unpacking.
        report: Told how far the transfer is.
        others: Further files that are wanted; those with the same source are written as well.

    Returns:
        The files that were written.

    Raises:
        InputError: The transfer failed, or there is no space.
        FileFormatError: What arrived has another checksum or is not what it should be.
    """
    source = file.source
    if source is None:
        raise ValueError(f"{file.path} is not published anywhere")
    url = f"{mirror.rstrip('/')}/{source.name}" if mirror else source.url
    fetched = fetch(url, data_root / FOLDER, sha256=source.sha256, report=report)
    wanted = [file, *(other for other in others if other.source == source and other != file)]
    if fetched.suffix != ".zip":
        target = data_root / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        fetched.replace(target)
        return [target]
    targets = _targets(fetched, wanted, data_root)
    extract_members(fetched, targets)
    if not keep_archive:
        fetched.unlink()
    return list(targets.values())


def _targets(archive: Path, files: Sequence[DataFile], data_root: Path) -> dict[str, Path]:
    names = file_names(archive)
    targets: dict[str, Path] = {}
    for file in files:
        last = file.path.rstrip("/").rpartition("/")[2]
        target = data_root / file.path
        if file.path.endswith("/"):
            found = [name for name in names if name.split("/")[-2:-1] == [last]]
            # What tools of some systems leave in archives begins with a dot.
            found = [name for name in found if re.search(r"/[^./][^/]*\.json$", name)]
            targets |= {name: target / name.rpartition("/")[2] for name in found}
        else:
            found = [name for name in names if name.rpartition("/")[2] == last]
            targets |= dict.fromkeys(found[:1], target)
        if not found:
            raise FileFormatError(
                f"{archive} has no {last} in it, but {', '.join(names[:10]) or 'nothing'}; the "
                f"publisher may have changed it. Put {file.path} below the data root by hand."
            )
    return targets


def fetch(
    url: str,
    folder: Path,
    *,
    sha256: str | None = None,
    attempts: int = ATTEMPTS,
    pause: float = SECONDS_BETWEEN_ATTEMPTS,
    report: BytesReport = lambda name, done, total: None,
) -> Path:
    """Fetch one file, going on from what an earlier call left.

    Args:
        url: Its address, http or https.
        folder: Where it goes, under the last part of its address.
        sha256: Of its content; without it, what arrived the first time is taken as right.
        attempts: How often in a row a transfer may break off without a byte having arrived.
        pause: Seconds between attempts.
        report: Told how far the transfer is.

    Raises:
        InputError: The server does not have it, or it cannot be reached.
        FileFormatError: It has another checksum.
    """
    name = url.rpartition("/")[2]
    if not _is_address(url) or not re.fullmatch(r"[\w.-]+", name):
        raise InputError(
            f"{url!r:.300} is no address of a file to download; expected http or https"
        )
    target, part = folder / name, folder / f"{name}.part"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (target, part):
        require_regular_if_any(path)
    if not target.exists():
        _fetch_all(url, part, attempts, pause, report)
        _verify(part, folder / f"{name}.json", url, sha256)
        part.replace(target)
        _version_file(part).unlink(missing_ok=True)
        return target
    _verify(target, folder / f"{name}.json", url, sha256)
    return target


def _is_address(url: str) -> bool:
    """Whether a text has a scheme that can be fetched, a host, and a port that there can be."""
    if any(character <= " " for character in url):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without their other half, a port that is no number
        return False


def _fetch_all(url: str, part: Path, attempts: int, pause: float, report: BytesReport) -> None:
    broken = 0
    while True:
        before = _size(part)
        try:
            _fetch_on(url, part, report)
            return
        except _TransferError as error:
            broken = 1 if _size(part) > before else broken + 1
            if broken >= attempts:
                raise InputError(
                    f"{url}: {error}, after {attempts} attempts; {_size(part):,} bytes have "
                    "arrived. Run the command again to go on from there, or fetch the file by hand."
                ) from None
        time.sleep(pause)


def _fetch_on(url: str, part: Path, report: BytesReport) -> None:
    """Append to `part` what the server has beyond it, or start over where it must."""
    known = _known_version(part, url)
    start = _size(part) if known else 0
    headers = {"User-Agent": "vl-lst", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if known and known.validator:
            headers["If-Range"] = known.validator
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=SECONDS_OF_SILENCE) as response:
            begins, total = _place(response)
            if begins and (known is None or (begins, total) != (start, known.total)):
                part.unlink()
                raise _TransferError("the server sent another part or version of the file")
            version = _Version(url, _validator(response), total)
            if not begins:
                _write_version(part, version)
            with part.open("ab" if begins else "wb") as file:
                _copy(response, file, begins, version, report)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if known and start == known.total:
                return
            part.unlink(missing_ok=True)
            raise _TransferError("the server has a shorter file than before") from None
        if error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _TransferError(f"the server answers {error.code} ({error.reason})") from None
        raise InputError(
            f"{url}: the server answers {error.code} ({error.reason}). The file may have moved: "
            "fetch it by hand, or name a server that has it with --mirror."
        ) from None
    except urllib.error.URLError as error:
        raise _TransferError(f"the server cannot be reached ({error.reason})") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _TransferError(f"the transfer broke off ({error or type(error).__name__})") from None


def _place(response: Any) -> tuple[int, int | None]:
    """Where what the server sends begins, and how long the whole file is."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        match = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None:
            raise _TransferError("the server sent a part without saying which")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    # A server that knows no ranges sends the whole file again.
    return 0, int(length) if length.isdecimal() else None


def _copy(response: Any, file: BinaryIO, done: int, version: _Version, report: BytesReport) -> None:
    name = version.url.rpartition("/")[2]
    while block := response.read(BLOCK_BYTES):
        file.write(block)
        done += len(block)
        report(name, done, version.total)
        if done > (MOST_BYTES if version.total is None else version.total):
            raise InputError(f"{version.url}: the server sends more than it says; giving up")
    file.flush()
    os.fsync(file.fileno())
    if version.total is not None and done < version.total:
        raise _TransferError(f"the transfer was cut short at {done:,} of {version.total:,} bytes")


def _validator(response: Any) -> str | None:
    tag: str | None = response.headers.get("ETag")
    changed: str | None = response.headers.get("Last-Modified")
    # A weak tag may stand for files that differ.
    return tag if tag and not tag.startswith("W/") else changed


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _write_version(part: Path, version: _Version) -> None:
    document = {"url": version.url, "validator": version.validator, "total": version.total}
    write_json(_version_file(part), document)


def _known_version(part: Path, url: str) -> _Version | None:
    """The version a part is of, `None` if there is no part, or nobody knows of what."""
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
    with open_regular(path, expected="a download", max_bytes=MOST_BYTES, read_again=True) as file:
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
        by = "the publisher says" if sha256 else f"the first download had ({record})"
        raise FileFormatError(
            f"{url}: the checksum does not match: {size:,} bytes with SHA-256 {found}; {by} "
            f"{expected}. Delete {path if path.exists() else record} and download again, if you "
            "trust the server."
        )
    if recorded is None:
        write_json(record, {"url": url, "bytes": _size(path), "sha256": found})


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
