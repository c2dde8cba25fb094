"""Incremental reading of JSON objects, and errors that name the position."""

import json
from pathlib import Path

import pytest

from eval.errors import FileFormatError, InputError
from tasks import _entries
from tasks._entries import read_entries


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "questions.json"


def entries(file: Path) -> list[tuple[str, object]]:
    return list(read_entries(file, expected="questions"))


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("indent", [None, 2])
def test_entries_equal_the_parsed_document_for_all_block_sizes(
    file: Path, monkeypatch: pytest.MonkeyPatch, block: int, indent: int | None
) -> None:
    monkeypatch.setattr(_entries, "BLOCK_CHARACTERS", block)
    document = {
        "01": {"text": 'braces } and "quotes" \\ é \u2028', "list": [1, [2.5e3, None]]},
        "": 123456789,
        "2": True,
        "3": {},
        "end": "}",
    }
    file.write_text(json.dumps(document, indent=indent, ensure_ascii=block % 2 == 0) + "\n")
    assert entries(file) == list(document.items())


@pytest.mark.parametrize("text", ["{}", " \n{ \n} \n"])
def test_an_object_may_be_empty(file: Path, text: str) -> None:
    file.write_text(text)
    assert entries(file) == []


def test_repeated_keys_are_yielded(file: Path) -> None:
    file.write_text('{"a": 1, "a": 2}')
    assert entries(file) == [("a", 1), ("a", 2)]


@pytest.mark.parametrize("block", [2, 1000])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at line 1 .*no JSON object found"),
        ("[1]", "at line 1 .*no JSON object found"),
        ('{"a": 1} {', "unexpected text after"),
        ('{"a": {"b": 1}', "truncated"),
        ('{"a": 1, ', "truncated"),
        ('{"a": "tex', "truncated"),
        ('{\n"a": 1,\n"b": nope}', r"at line 3 \(character 1. of the file\)"),
        ('{"a" 1}', "expected one of ':'"),
        ('{"a": 1 "b": 2}', "expected one of ',}'"),
        ("{1: 2}", "a key must be a string"),
        ('{"a": 1,}', "at line 1"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
    ],
)
def test_malformed_texts_are_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, block: int, text: str, message: str
) -> None:
    monkeypatch.setattr(_entries, "BLOCK_CHARACTERS", max(block, len(text) // 100))
    file.write_text(text)
    with pytest.raises(FileFormatError, match=f"not valid JSON.*{message}"):
        entries(file)


def test_an_unterminated_entry_does_not_read_the_whole_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_entries, "BLOCK_CHARACTERS", 10)
    monkeypatch.setattr(_entries, "MAX_ENTRY_CHARACTERS", 50)
    file.write_text('{"a": "' + "x" * 100_000 + '"}')
    entries_read = read_entries(file, expected="questions")
    with pytest.raises(FileFormatError, match="not valid JSON"):
        next(entries_read)


def test_missing_files_folders_and_binary_files_are_explained(file: Path) -> None:
    with pytest.raises(InputError, match="no file .*expected questions"):
        entries(file)
    with pytest.raises(InputError, match="is a folder"):
        entries(file.parent)
    file.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(FileFormatError, match="not UTF-8"):
        entries(file)


@pytest.mark.parametrize(
    "entry", [r'"a": {"question": "\ud800"}', r'"\udfff": 1', r'"a": ["\ud83d"]']
)
def test_lone_surrogates_are_refused_with_their_entry(file: Path, entry: str) -> None:
    file.write_text(f'{{"first": 1, {entry}}}')
    with pytest.raises(FileFormatError, match=r"questions.json: the entry '.*': the text .* not"):
        entries(file)


def test_surrogate_pairs_are_read(file: Path) -> None:
    file.write_text(r'{"a": "\ud83d\ude00"}')
    assert entries(file) == [("a", "\U0001f600")]
