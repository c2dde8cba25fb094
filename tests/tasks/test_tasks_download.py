"""Downloads from a server on this machine: resumed, checked, and unpacked without trust."""

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
from tasks._download import download_file, fetch
from tasks._files import DataFile, Source

CONTENT = bytes(range(256)) * 4000


class Server:
    """Serves `files` by name, as badly as it is told to."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.knows_ranges = True
        self.knows_length = True
        self.tag: str | None = '"1"'
        self.statuses: list[int] = []
        # How many bytes of each response are sent before the line is cut.
        self.cuts: list[int] = []
        self.ranges: list[str | None] = []
        self.url = ""

    def respond(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        content = self.files.get(request.path.rpartition("/")[2])
        if self.statuses or content is None:
            request.send_error(self.statuses.pop(0) if self.statuses else 404)
            return
        unchanged = request.headers.get("If-Range") in (None, self.tag)
        start = int(wanted[len("bytes=") : -1]) if wanted and unchanged else 0
        if start and not self.knows_ranges:
            start = 0
        if start >= len(content):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if start:
            place = f"bytes {start}-{len(content) - 1}/{len(content)}"
            request.send_header("Content-Range", place)
        if self.knows_length:
            request.send_header("Content-Length", str(len(content) - start))
        if self.tag:
            request.send_header("ETag", self.tag)
        request.end_headers()
        most = self.cuts.pop(0) if self.cuts else len(content)
        request.wfile.write(content[start : start + most])


@pytest.fixture
def server() -> Iterator[Server]:
    told = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            told.respond(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        told.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield told
        listening.shutdown()
        thread.join()


def zip_of(**members: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return made.getvalue()


def test_a_file_arrives_with_its_checksum_recorded(server: Server, tmp_path: Path) -> None:
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


def test_a_transfer_cut_short_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    server.cuts = [300_000, 400_000]
    path = fetch(f"{server.url}/a.bin", tmp_path, retry_seconds=0)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=700000-"]


def test_another_call_goes_on_too(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    server.cuts = [300_000, 0]
    with pytest.raises(InputError, match=r"ended at 300,000 of 1,024,000.*Run the command"):
        fetch(f"{server.url}/a.bin", tmp_path, retry_seconds=0, max_attempts=1)
    assert fetch(f"{server.url}/a.bin", tmp_path, retry_seconds=0).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=300000-"


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    server.knows_ranges = False
    server.cuts = [300_000]
    assert fetch(f"{server.url}/a.bin", tmp_path, retry_seconds=0).read_bytes() == CONTENT


def test_a_server_that_never_finishes_is_given_up(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    server.knows_ranges = False
    server.cuts = [300_000] * 9
    with pytest.raises(InputError, match="after 3 attempts"):
        fetch(f"{server.url}/a.bin", tmp_path, retry_seconds=0, max_attempts=3)


@pytest.mark.parametrize("tag", ['"2"', None])
def test_two_versions_of_a_file_are_never_mixed(
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


def test_a_part_that_was_whole_is_taken(server: Server, tmp_path: Path) -> None:
    """Killed between the last byte and the renaming."""
    server.files["a.bin"] = CONTENT
    url = f"{server.url}/a.bin"
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    version = {"url": url, "validator": '"1"', "total": len(CONTENT)}
    (tmp_path / "a.bin.part.json").write_text(json.dumps(version))
    assert fetch(url, tmp_path, retry_seconds=0).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


def test_a_part_that_is_longer_than_the_file_is_dropped(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    url = f"{server.url}/a.bin"
    (tmp_path / "a.bin.part").write_bytes(CONTENT * 2)
    version = {"url": url, "validator": '"1"', "total": len(CONTENT)}
    (tmp_path / "a.bin.part.json").write_text(json.dumps(version))
    assert fetch(url, tmp_path, retry_seconds=0).read_bytes() == CONTENT


def test_without_a_length_the_end_is_the_end(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    server.knows_length = False
    assert fetch(f"{server.url}/a.bin", tmp_path).read_bytes() == CONTENT


def test_a_server_that_is_busy_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    server.statuses = [503, 500]
    assert fetch(f"{server.url}/a.bin", tmp_path, retry_seconds=0).read_bytes() == CONTENT


def test_a_file_that_is_not_there_is_said_at_once(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"responds 404.*--mirror"):
        fetch(f"{server.url}/a.bin", tmp_path)
    assert len(server.ranges) == 1


def test_a_server_that_is_not_there_is_said(tmp_path: Path) -> None:
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
def test_an_address_without_a_sound_host_is_refused_at_once(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the address of a file"):
        fetch(url, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "http://host/", "x"])
def test_other_addresses_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the address of a file"):
        fetch(url, tmp_path)


def test_another_checksum_than_published_is_an_error(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    with pytest.raises(FileFormatError, match="checksum does not match.*from the publisher"):
        fetch(f"{server.url}/a.bin", tmp_path, sha256="0" * 64)
    assert not list(tmp_path.iterdir()) or not (tmp_path / "a.bin").exists()
    assert not (tmp_path / "a.bin.part").exists()


def test_another_checksum_than_the_first_time_is_an_error(server: Server, tmp_path: Path) -> None:
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


def test_an_archive_gives_all_files_wanted_of_it(
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


def test_an_evil_archive_writes_nothing(server: Server, questions: Source, tmp_path: Path) -> None:
    server.files["questions.zip"] = zip_of(**{"val.json": "[1]", "../../evil.json": "[2]"})
    root = tmp_path / "deep" / "root"
    file = DataFile(path="val.json", splits=("val",), source=questions)
    with pytest.raises(FileFormatError, match="leads outside"):
        download_file(file, root)
    assert [path.name for path in root.iterdir()] == [".downloads"]
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_an_archive_without_the_file_is_said(
    server: Server, questions: Source, tmp_path: Path
) -> None:
    server.files["questions.zip"] = zip_of(**{"readme.txt": "moved"})
    file = DataFile(path="gqa/val.json", splits=("val",), source=questions)
    with pytest.raises(FileFormatError, match=r"contains no val\.json, but readme\.txt"):
        download_file(file, tmp_path)


@pytest.mark.parametrize("address", [str, lambda url: url + "/"])
def test_a_mirror_is_asked_by_file_name(
    server: Server, tmp_path: Path, address: Callable[[str], str]
) -> None:
    server.files["dev.json"] = b"{}\n"
    file = DataFile(
        path="x/dev.json", splits=("dev",), source=Source("https://h.invalid/d/dev.json")
    )
    download_file(file, tmp_path, mirror=address(server.url))
    assert (tmp_path / "x" / "dev.json").read_bytes() == b"{}\n"


@pytest.mark.parametrize("name", ["a.bin", "a.bin.part"])
def test_what_is_no_file_is_neither_read_nor_appended_to(
    server: Server, tmp_path: Path, name: str
) -> None:
    server.files["a.bin"] = CONTENT
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="is a named pipe: expected a regular file or none"):
        fetch(f"{server.url}/a.bin", tmp_path)
