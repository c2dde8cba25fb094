"""Archives: unsafe ones are refused, and damaged ones leave no files."""

import os
import stat
import zipfile
from pathlib import Path

import pytest

from eval.archives import extract_members, file_names, write_zip
from eval.errors import FileFormatError, InputError


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "archive.zip"


def zipped(archive: Path, name: str, content: bytes = b"[]", mode: int = 0) -> None:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zip_file:
        zip_file.writestr("harmless.json", b"[]")
        zip_file.writestr(info, content, zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../evil.json", "leads outside"),
        ("a/../../evil.json", "leads outside"),
        ("/etc/evil.json", "absolute"),
        ("C:/evil.json", "absolute"),
        ("a\\..\\evil.json", "backslash"),
    ],
)
def test_names_that_lead_outside_are_refused(archive: Path, name: str, fault: str) -> None:
    zipped(archive, name)
    with pytest.raises(FileFormatError, match=fault):
        extract_members(archive, {"harmless.json": archive.parent / "out.json"})
    assert list(archive.parent.iterdir()) == [archive]


def test_links_are_refused(archive: Path) -> None:
    zipped(archive, "link.json", b"/etc/passwd", stat.S_IFLNK | 0o777)
    with pytest.raises(FileFormatError, match=r"link\.json.*link or a device"):
        file_names(archive)


def test_zip_bombs_are_refused_before_unpacking(archive: Path) -> None:
    zipped(archive, "bomb.json", bytes(80 << 20))
    with pytest.raises(FileFormatError, match="claim to expand to 83,886,082"):
        extract_members(archive, {"bomb.json": archive.parent / "out.json"})
    assert list(archive.parent.iterdir()) == [archive]


def test_repeated_member_names_are_refused(archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as zip_file:
        zip_file.writestr("a.json", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            zip_file.writestr("a.json", b"2")
    with pytest.raises(FileFormatError, match="two files of the same name"):
        file_names(archive)


def test_a_damaged_member_leaves_no_file(archive: Path) -> None:
    zipped(archive, "a.json", bytes(range(256)) * 40)
    content = bytearray(archive.read_bytes())
    start = content.index(b"a.json", 60) + len(b"a.json")
    content[start + 20] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(FileFormatError, match="damaged"):
        extract_members(archive, {"a.json": archive.parent / "out.json"})
    assert list(archive.parent.iterdir()) == [archive]


def test_files_other_than_archives_are_refused(archive: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        file_names(archive)
    archive.write_bytes(b"<html>not found</html>")
    with pytest.raises(FileFormatError, match="not a complete zip archive"):
        file_names(archive)


def test_equal_contents_give_equal_archives(archive: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.json"
    part.write_text("[1]")
    write_zip(archive, {"a.json": part})
    first = archive.read_bytes()
    part.touch()
    write_zip(archive, {"a.json": part})
    assert archive.read_bytes() == first
    extract_members(archive, {"a.json": tmp_path / "deep" / "out.json"})
    assert (tmp_path / "deep" / "out.json").read_text() == "[1]"


def test_a_pipe_cannot_be_archived(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "part.json")
    with pytest.raises(InputError, match="is a named pipe"):
        write_zip(tmp_path / "all.zip", {"part.json": tmp_path / "part.json"})
    with pytest.raises(InputError, match="is a named pipe"):
        file_names(tmp_path / "part.json")
