"""Help texts have an example each and list what there is; documented commands exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from command_tree import COMMANDS, PROGRAM_OPTIONS, option_names
from rich.text import Text

from feature_extraction.choices import Compression, ExportFormat, Layer, Precision, ResizeRule
from feature_extraction.encoders.table import ENCODERS
from tasks import Head, task_names
from vl_lst.bundled import BACKBONE_FOLDERS
from vl_lst.choices import (
    ChosenArithmeticPrecision,
    ChosenBackbonePrecision,
    DeviceName,
    module_names,
)
from vl_lst.cli import main
from vl_lst.methods import method_names

REPOSITORY = Path(__file__).resolve().parents[3]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_bracket_of_a_help_text_is_taken_for_markup(name: str) -> None:
    """Text in brackets, such as `[@REVISION]`, would be a tag of rich, and not be shown."""
    command = COMMANDS[name]
    texts = [command.help or "", *(getattr(each, "help", None) or "" for each in command.params)]
    for text in texts:
        assert Text.from_markup(text).plain == text


@pytest.mark.parametrize(
    ("name", "flag", "listed"),
    [
        ("train", "--method", method_names()),
        ("profile", "--methods", method_names()),
        ("demo", "--methods", method_names()),
        ("train", "--task", task_names()),
        ("score", "--task", task_names()),
        ("data check", "--task", task_names()),
        ("extract-features", "--encoder", [*ENCODERS, "demo"]),
        ("extract-features", "--layer", get_args(Layer)),
        ("extract-features", "--resize", get_args(ResizeRule)),
        ("extract-features", "--precision", get_args(Precision)),
        ("extract-features", "--compression", get_args(Compression)),
        ("features import", "--resize", get_args(ResizeRule)),
        ("features export", "--format", get_args(ExportFormat)),
        ("profile", "--backbone", BACKBONE_FOLDERS),
        ("train", "--head", get_args(Head)),
        ("train", "--backbone-precision", get_args(ChosenBackbonePrecision)),
        ("profile", "--backbone-precision", get_args(ChosenBackbonePrecision)),
        ("profile", "--precision", get_args(ChosenArithmeticPrecision)),
        ("profile", "--device", get_args(DeviceName)),
    ],
)
def test_an_option_lists_its_values(
    name: str,
    flag: str,
    listed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "4000")
    assert main([*name.split(), "--help"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    (row,) = (each for each in rows if each.lstrip("│* ").startswith(f"{flag} "))
    assert [value for value in listed if value not in row] == []


def test_a_file_is_enough_to_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "package_of_methods"
    folder.mkdir()
    for name in ("__init__", "two_words", "_shared"):
        text = "raise SystemExit('imported')" if name == "two_words" else ""
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert module_names("package_of_methods") == ["two-words"]
    assert module_names("vl_lst.methods") == method_names()


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example_and_all_options(
    name: str, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Example: vl-lst {name} " in " ".join(shown.split())
    assert [flag for flag in option_names(name) if flag not in shown] == []
    assert "…" not in shown, "a name is cut"


def shown_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each `vl-lst` command in a Markdown text: in blocks and in the prose."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for line in lines + re.findall(r"`(vl-lst [^`]+)`", prose):
        found = re.search(r"(?:^|-m |')(?:vl-lst|vl_lst) ([^']*)", line)
        if found:
            yield shlex.split(found[1], comments=True)


def unknown_words(words: list[str]) -> list[str]:
    """The command or the options of a command line that do not exist."""
    (first, *_) = words
    if first.startswith("-"):
        return [] if first in PROGRAM_OPTIONS else [first]
    pairs = {" ".join(words[:length]) for length in (1, 2)}
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    if not (names := pairs & COMMANDS.keys()):
        return [] if words in [[group] for group in groups] else words[:2]
    flags = {word.partition("=")[0] for word in words if word.startswith("--") and word != "--"}
    return sorted(flags - option_names(names.pop()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_documented_commands_and_their_options_exist(document: Path) -> None:
    for words in shown_commands(document.read_text(encoding="utf-8")):
        assert unknown_words(words) == [], " ".join(words)


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_in_help_texts_exist(name: str) -> None:
    paragraphs = re.split(r"\n\s*\n", COMMANDS[name].help)
    shown = [re.search(r": vl-lst (.*)", " ".join(each.split())) for each in paragraphs]
    assert [unknown_words(shlex.split(each[1])) for each in shown if each] == [
        [] for each in shown if each
    ]


def test_the_check_of_documented_commands_can_fail() -> None:
    text = "Run `vl-lst fly` or\n\n```\ntorchrun -m vl_lst train \\\n    --wings 2  # high\n```\n"
    assert [unknown_words(words) for words in shown_commands(text)] == [["--wings"], ["fly"]]
