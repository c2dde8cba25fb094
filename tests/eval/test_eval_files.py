"""Error messages for unreadable files."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.errors import FileFormatError, InputError
from eval.files import has_byte_order_mark, read_json


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n "b" 2}', "line 2, column 6"),
        (b'[{"a": 1}, {"a"', "truncated"),
        (b'[{"a": 1}, {"answer": "on the ta', "truncated"),
        (b'{\n"\xff"', r"line 2 \(byte 3 of the file\) is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "a number too long"),
    ],
)
def test_malformed_json_is_explained(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "questions.json"
    file.write_bytes(content)
    with pytest.raises(FileFormatError, match=message) as raised:
        read_json(file, expected="questions")
    assert "expected questions" in str(raised.value)


def test_a_missing_file_and_a_folder_are_distinguished(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file .*: expected questions"):
        read_json(tmp_path / "none.json", expected="questions")
    with pytest.raises(InputError, match="is a folder"):
        read_json(tmp_path, expected="questions")


@pytest.mark.parametrize("content", [b'\xef\xbb\xbf{"a": 1}', b'\xef\xbb\xbf\r\n {"a": 1}\r\n'])
def test_a_byte_order_mark_is_skipped(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scores.json").write_bytes(content)
    assert read_json(tmp_path / "scores.json", expected="scores") == {"a": 1}
    assert has_byte_order_mark(tmp_path / "scores.json", expected="scores")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_unicode_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "scores.json").write_bytes('{"a": 1}'.encode(encoding))
    with pytest.raises(FileFormatError, match=f"is {encoding[:6].upper()} text; expected scores"):
        read_json(tmp_path / "scores.json", expected="scores")


@pytest.mark.parametrize(
    ("text", "key"),
    [('{"a": 1, "a": 1}', "a"), ('[{"id": 7, "answer": 1, "answer": 2}]', "answer")],
)
def test_repeated_keys_are_refused(tmp_path: Path, text: str, key: str) -> None:
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(FileFormatError, match=f"the key '{key}' occurs more than once"):
        read_json(tmp_path / "scores.json", expected="scores")


def test_lone_surrogates_are_refused_but_pairs_are_read(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    file.write_text(r'{"a": "\ud83d\ude00"}')
    assert read_json(file, expected="scores") == {"a": "\U0001f600"}
    file.write_text(r'{"a": "dog \ud83d"}')
    with pytest.raises(FileFormatError, match="is not valid Unicode; expected scores"):
        read_json(file, expected="scores")


@pytest.mark.parametrize(
    ("pack", "name"),
    [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")],
)
def test_a_packed_file_is_reported(
    tmp_path: Path, pack: Callable[[bytes], bytes], name: str
) -> None:
    (tmp_path / "scores.json").write_bytes(pack(b'{"a": 1}'))
    with pytest.raises(FileFormatError, match=rf"packed \({name}\); expected scores. Unpack it"):
        read_json(tmp_path / "scores.json", expected="scores")


def test_a_long_number_is_reported_without_python_terms(tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text("9" * 5000)
    with pytest.raises(FileFormatError, match="of more than 4,300 digits; expected") as raised:
        read_json(tmp_path / "scores.json", expected="scores")
    assert "set_int_max_str_digits" not in str(raised.value)
