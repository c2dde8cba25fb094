"""Archives: what is harmful is refused as a whole, what is damaged leaves nothing behind."""

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
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("harmless.json", b"[]")
        made.writestr(info, content, zipfile.ZIP_DEFLATED)


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


def test_bombs_are_refused_before_they_unpack(archive: Path) -> None:
    zipped(archive, "bomb.json", bytes(80 << 20))
    with pytest.raises(FileFormatError, match="claim to expand to 83,886,082"):
        extract_members(archive, {"bomb.json": archive.parent / "out.json"})
    assert list(archive.parent.iterdir()) == [archive]


def test_two_members_of_one_name_are_refused(archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("a.json", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            made.writestr("a.json", b"2")
    with pytest.raises(FileFormatError, match="two files of the same name"):
        file_names(archive)


def test_damage_is_found_and_nothing_is_left(archive: Path) -> None:
    zipped(archive, "a.json", bytes(range(256)) * 40)
    content = bytearray(archive.read_bytes())
    start = content.index(b"a.json", 60) + len(b"a.json")
    content[start + 20] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(FileFormatError, match="damaged"):
        extract_members(archive, {"a.json": archive.parent / "out.json"})
    assert list(archive.parent.iterdir()) == [archive]


def test_what_is_no_archive_is_said(archive: Path) -> None:
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


def test_a_pipe_does_not_go_into_an_archive(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "part.json")
    with pytest.raises(InputError, match="is a named pipe"):
        write_zip(tmp_path / "all.zip", {"part.json": tmp_path / "part.json"})
    with pytest.raises(InputError, match="is a named pipe"):
        file_names(tmp_path / "part.json")
