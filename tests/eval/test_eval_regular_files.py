"""Special and huge files can neither block a reader nor fill its memory."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.errors import FileFormatError, InputError
from eval.files import open_text, read_json
from eval.regular_files import open_regular, require_regular_if_any

LIMIT = 1_000


def character_device(path: Path) -> None:
    """Create a node like /dev/zero, or a link to it if creating nodes is not permitted."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        path.symlink_to("/dev/zero")


def bound_socket(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Socket paths have a low length limit.
    monkeypatch.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path.name)


SPECIAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "is a named pipe: expected a regular file with the record"),
    "link to a pipe": (
        lambda path: (os.mkfifo(path.with_name("p")), path.symlink_to("p")),
        "is a named pipe",
    ),
    "device": (character_device, "is a device: expected a regular file with the record"),
    "link to a device": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "folder": (Path.mkdir, "is a folder: expected a file with the record"),
    "cyclic link": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "broken link": (lambda path: path.symlink_to("nothing"), "no file .*expected the record"),
    "huge": (lambda path: sparse(path, 1 << 40), "is too large: found 1,099,511,627,776 bytes"),
}


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def read(path: Path) -> bytes:
    with open_regular(path, expected="the record", max_bytes=LIMIT) as file:
        return file.read()


@pytest.mark.parametrize("kind", SPECIAL)
def test_special_and_huge_files_are_refused(kind: str, tmp_path: Path) -> None:
    make, message = SPECIAL[kind]
    path = tmp_path / "record.json"
    make(path)
    with pytest.raises(InputError, match=message):
        read(path)
    with pytest.raises(InputError, match=message):
        read_json(path, expected="the record", max_bytes=LIMIT)


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound_socket(tmp_path / "record.json", monkeypatch)
    with pytest.raises(InputError, match="is a socket"):
        read(tmp_path / "record.json")


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_invalid_file_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="is not a valid file name"):
        read(Path(name))


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / ("a" * 300))


def test_a_file_with_more_content_than_its_size_is_refused(tmp_path: Path) -> None:
    """A file may grow after its size is checked; some kernel files have no size at all."""
    path = tmp_path / "record.json"
    path.write_bytes(b"x" * LIMIT)
    assert len(read(path)) == LIMIT
    with open_regular(path, expected="the record", max_bytes=LIMIT) as file:
        path.write_bytes(b"x" * 2 * LIMIT)
        with pytest.raises(FileFormatError, match="more than 1,000 bytes"):
            file.read()
    path.write_text("x\n" * LIMIT)
    with open_text(path, expected="the record", max_bytes=LIMIT * 1_000) as lines:
        path.write_text("x\n" * LIMIT * 1_000)
        with pytest.raises(FileFormatError, match="too large"):
            list(lines)


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"content")
    (tmp_path / "link").symlink_to("target")
    assert read(tmp_path / "link") == b"content"


def test_a_shell_pipe_is_read_once_and_up_to_the_limit() -> None:
    """As in `--predictions <(zcat results.json.gz)`."""
    for size, message in ((LIMIT, None), (LIMIT + 1, "more than 1,000 bytes")):
        reader, writer = os.pipe()
        try:
            os.write(writer, b"x" * size)
            os.close(writer)
            path = Path(f"/dev/fd/{reader}")
            if message is None:
                with (
                    pytest.raises(InputError, match="read more than once: write it to a file"),
                    open_regular(path, expected="x", max_bytes=LIMIT, read_again=True),
                ):
                    pass
                assert len(read(path)) == size
            else:
                with pytest.raises(FileFormatError, match=message):
                    read(path)
        finally:
            os.close(reader)


def test_a_link_to_a_shell_pipe_is_refused(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    try:
        (tmp_path / "record.json").symlink_to(f"/proc/self/fd/{reader}")
        with pytest.raises(InputError, match="is a named pipe"):
            read(tmp_path / "record.json")
    finally:
        os.close(reader)
        os.close(writer)


def test_an_output_path_must_be_regular_or_absent(tmp_path: Path) -> None:
    require_regular_if_any(tmp_path / "log.txt")
    os.mkfifo(tmp_path / "log.txt")
    with pytest.raises(InputError, match="is a named pipe: expected a regular file or none"):
        require_regular_if_any(tmp_path / "log.txt")
