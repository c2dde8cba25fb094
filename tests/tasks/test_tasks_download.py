"""Downloads from a local server: resuming, checksums, and safe unpacking."""

import hashlib
import io
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eval.errors import FileFormatError, InputError
from tasks import get_task
from tasks._download import download_file, fetch
from tasks._files import DataFile, Source

CONTENT = bytes(range(256)) * 4000


class Server:
    """A server of `files` with configurable faults."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.supports_ranges = True
        self.sends_length = True
        self.tag: str | None = '"1"'
        self.statuses: list[int] = []
        # Number of bytes of each response before the connection is closed.
        self.cuts: list[int] = []
        self.ranges: list[str | None] = []
        self.url = ""

    def respond(self, request: BaseHTTPRequestHandler) -> None:
        range_header = request.headers.get("Range")
        self.ranges.append(range_header)
        content = self.files.get(request.path.rpartition("/")[2])
        if self.statuses or content is None:
            request.send_error(self.statuses.pop(0) if self.statuses else 404)
            return
        unchanged = request.headers.get("If-Range") in (None, self.tag)
        start = int(range_header[len("bytes=") : -1]) if range_header and unchanged else 0
        if start and not self.supports_ranges:
            start = 0
        if start >= len(content):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if start:
            place = f"bytes {start}-{len(content) - 1}/{len(content)}"
            request.send_header("Content-Range", place)
        if self.sends_length:
            request.send_header("Content-Length", str(len(content) - start))
        if self.tag:
            request.send_header("ETag", self.tag)
        request.end_headers()
        max_bytes = self.cuts.pop(0) if self.cuts else len(content)
        request.wfile.write(content[start : start + max_bytes])


@pytest.fixture
def server() -> Iterator[Server]:
    configured = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            configured.respond(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        configured.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield configured
        listening.shutdown()
        thread.join()


def zip_of(**members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def test_a_download_records_its_checksum(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    seen: list[tuple[int, int | None]] = []
    path = fetch(
        f"{server.url}/a.bin", tmp_path, report=lambda _, done, total: seen.append((done, total))
    )
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    record = json.loads((tmp_path / "a.bin.json").read_text())
    assert record["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert record["bytes"] == len(CONTENT)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.bin", "a.bin.json"]


def test_an_interrupted_transfer_resumes(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    server.cuts = [300_000, 400_000]
    path = fetch(f"{server.url}/a.bin", tmp_path, retry_seconds=0)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=700000-"]


def test_another_call_resumes(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    server.cuts = [300_000, 0]
    with pytest.raises(InputError, match=r"ended at 300,000 of 1,024,000.*Run the command"):
        fetch(f"{server.url}/a.bin", tmp_path, retry_seconds=0, max_attempts=1)
    assert fetch(f"{server.url}/a.bin", tmp_path, retry_seconds=0).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=300000-"


def test_a_server_without_ranges_restarts_the_transfer(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    server.supports_ranges = False
    server.cuts = [300_000]
    assert fetch(f"{server.url}/a.bin", tmp_path, retry_seconds=0).read_bytes() == CONTENT


def test_attempts_are_limited(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    server.supports_ranges = False
    server.cuts = [300_000] * 9
    with pytest.raises(InputError, match="after 3 attempts"):
        fetch(f"{server.url}/a.bin", tmp_path, retry_seconds=0, max_attempts=3)


@pytest.mark.parametrize("tag", ['"2"', None])
def test_versions_of_a_file_are_never_mixed(
    tag: str | None, server: Server, tmp_path: Path
) -> None:
    server.files["a.bin"] = CONTENT
    server.tag = tag and '"1"'
    server.cuts = [300_000, 0]
    with pytest.raises(InputError, match="ended at 300,000 of"):
        fetch(f"{server.url}/a.bin", tmp_path, retry_seconds=0, max_attempts=1)
    other = b"other" + CONTENT[::-1]
    server.files["a.bin"], server.tag = other, tag
    assert fetch(f"{server.url}/a.bin", tmp_path, retry_seconds=0).read_bytes() == other


def test_a_complete_part_is_used(server: Server, tmp_path: Path) -> None:
    """The process was killed after the last byte and before renaming the file."""
    server.files["a.bin"] = CONTENT
    url = f"{server.url}/a.bin"
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    version = {"url": url, "validator": '"1"', "total": len(CONTENT)}
    (tmp_path / "a.bin.part.json").write_text(json.dumps(version))
    assert fetch(url, tmp_path, retry_seconds=0).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


def test_a_part_longer_than_the_file_is_discarded(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    url = f"{server.url}/a.bin"
    (tmp_path / "a.bin.part").write_bytes(CONTENT * 2)
    version = {"url": url, "validator": '"1"', "total": len(CONTENT)}
    (tmp_path / "a.bin.part.json").write_text(json.dumps(version))
    assert fetch(url, tmp_path, retry_seconds=0).read_bytes() == CONTENT


def test_a_response_without_length_ends_with_the_connection(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    server.sends_length = False
    assert fetch(f"{server.url}/a.bin", tmp_path).read_bytes() == CONTENT


def test_server_errors_are_retried(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    server.statuses = [503, 500]
    assert fetch(f"{server.url}/a.bin", tmp_path, retry_seconds=0).read_bytes() == CONTENT


def test_a_missing_file_is_not_retried(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"responds 404.*--mirror"):
        fetch(f"{server.url}/a.bin", tmp_path)
    assert len(server.ranges) == 1


def test_an_unreachable_server_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be reached"):
        fetch("http://127.0.0.1:1/a.bin", tmp_path, retry_seconds=0, max_attempts=2)


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1/a.bin",
        "http://host:port/a.bin",
        "https://host:99999/a.bin",
        "http:///a.bin",
        "http://host\n/a.bin",
    ],
)
def test_addresses_without_a_valid_host_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the address of a file"):
        fetch(url, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "http://host/", "x"])
def test_other_addresses_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the address of a file"):
        fetch(url, tmp_path)


def test_a_checksum_other_than_the_published_one_is_an_error(
    server: Server, tmp_path: Path
) -> None:
    server.files["a.bin"] = CONTENT
    with pytest.raises(FileFormatError, match="checksum does not match.*from the publisher"):
        fetch(f"{server.url}/a.bin", tmp_path, sha256="0" * 64)
    assert not list(tmp_path.iterdir()) or not (tmp_path / "a.bin").exists()
    assert not (tmp_path / "a.bin.part").exists()


def test_a_checksum_other_than_that_of_the_first_download_is_an_error(
    server: Server, tmp_path: Path
) -> None:
    server.files["a.bin"] = CONTENT
    url = f"{server.url}/a.bin"
    fetch(url, tmp_path).write_bytes(b"changed on disk")
    with pytest.raises(FileFormatError, match="from the first download"):
        fetch(url, tmp_path)
    (tmp_path / "a.bin").unlink()
    server.files["a.bin"] = b"changed on the server"
    with pytest.raises(FileFormatError, match="from the first download"):
        fetch(url, tmp_path)


@pytest.fixture
def questions(server: Server) -> Source:
    return Source(f"{server.url}/questions.zip")


def test_all_requested_files_of_an_archive_are_extracted(
    server: Server, questions: Source, tmp_path: Path
) -> None:
    server.files["questions.zip"] = zip_of(
        **{
            "data/val.json": "[1]",
            "data/chunks/chunks_0.json": "[2]",
            "data/chunks/chunks_1.json": "[3]",
            "__MACOSX/data/chunks/._chunks_0.json": "x",
            "data/other.json": "[4]",
        }
    )
    val = DataFile(path="gqa/val.json", splits=("val",), source=questions)
    chunks = DataFile(path="gqa/chunks/", splits=("all",), source=questions)
    written = download_file(val, tmp_path, others=[val, chunks])
    assert sorted(str(path.relative_to(tmp_path)) for path in written) == [
        "gqa/chunks/chunks_0.json",
        "gqa/chunks/chunks_1.json",
        "gqa/val.json",
    ]
    assert (tmp_path / "gqa/val.json").read_text() == "[1]"
    assert [p.name for p in (tmp_path / ".downloads").iterdir()] == ["questions.zip.json"]


def test_files_are_preferred_to_raw_versions_of_the_same_name(
    server: Server, tmp_path: Path
) -> None:
    """GLUE's archives hold the original data too, in deeper folders."""
    server.files["CoLA.zip"] = zip_of(
        **{
            "CoLA/original/raw/train.tsv": "raw",
            "CoLA/train.tsv": "train",
            "CoLA/dev.tsv": "dev",
            "CoLA/test.tsv": "test",
        }
    )
    files = get_task("cola").files
    written = download_file(files[0], tmp_path, mirror=server.url, others=files)
    assert {path.relative_to(tmp_path).as_posix(): path.read_text() for path in written} == {
        f"glue/CoLA/{split}.tsv": split for split in ("train", "dev", "test")
    }


def test_a_malicious_archive_writes_nothing(
    server: Server, questions: Source, tmp_path: Path
) -> None:
    server.files["questions.zip"] = zip_of(**{"val.json": "[1]", "../../evil.json": "[2]"})
    root = tmp_path / "deep" / "root"
    file = DataFile(path="val.json", splits=("val",), source=questions)
    with pytest.raises(FileFormatError, match="leads outside"):
        download_file(file, root)
    assert [path.name for path in root.iterdir()] == [".downloads"]
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_an_archive_without_the_file_is_an_error(
    server: Server, questions: Source, tmp_path: Path
) -> None:
    server.files["questions.zip"] = zip_of(**{"readme.txt": "moved"})
    file = DataFile(path="gqa/val.json", splits=("val",), source=questions)
    with pytest.raises(FileFormatError, match=r"contains no val\.json, but readme\.txt"):
        download_file(file, tmp_path)


@pytest.mark.parametrize("address", [str, lambda url: url + "/"])
def test_mirrors_are_addressed_by_file_name(
    server: Server, tmp_path: Path, address: Callable[[str], str]
) -> None:
    server.files["dev.json"] = b"{}\n"
    file = DataFile(
        path="x/dev.json", splits=("dev",), source=Source("https://h.invalid/d/dev.json")
    )
    download_file(file, tmp_path, mirror=address(server.url))
    assert (tmp_path / "x" / "dev.json").read_bytes() == b"{}\n"


@pytest.mark.parametrize("name", ["a.bin", "a.bin.part"])
def test_special_files_are_neither_read_nor_written(
    server: Server, tmp_path: Path, name: str
) -> None:
    server.files["a.bin"] = CONTENT
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="is a named pipe: expected a regular file or none"):
        fetch(f"{server.url}/a.bin", tmp_path)
