"""Unreadable files are explained."""

from pathlib import Path

import pytest

from eval.errors import FileFormatError, InputError
from eval.files import read_json


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n "b" 2}', "line 2, column 6"),
        (b'[{"a": 1}, {"a"', "cut short"),
        (b'[{"a": 1}, {"answer": "on the ta', "cut short"),
        (b'{\n"\xff"', r"line 2 \(byte 3 of the file\) is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "a number too long"),
    ],
)
def test_what_is_not_json_is_explained(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "questions.json"
    file.write_bytes(content)
    with pytest.raises(FileFormatError, match=message) as raised:
        read_json(file, expected="questions")
    assert "expected questions" in str(raised.value)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file .*: expected questions"):
        read_json(tmp_path / "none.json", expected="questions")
    with pytest.raises(InputError, match="is a folder"):
        read_json(tmp_path, expected="questions")
