"""Empty arguments are refused, because an unset shell variable would choose a path."""

import pytest
from command_tree import COMMANDS, option_names

from vl_lst.cli import main


def test_all_commands_are_found() -> None:
    assert {"train", "features join"} < COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_refuses_an_empty_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = option_names(name)
    assert "--json" in flags
    for flag in flags:
        for value in ("", " ", "\t\n"):
            assert main([*name.split(), flag, value]) == 2
            assert main([*name.split(), f"{flag}={value}"]) == 2
            assert capsys.readouterr().err.count(f"error: {flag} is empty: found") == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_an_empty_argument(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = name.split()
    assert main([*words, ""]) == 2
    assert f"argument {len(words) + 1} is empty" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["a\0b", "\ud800"])
def test_texts_the_system_cannot_pass_are_refused(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--out", value]) == 2
    assert "--out is not valid text" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--out", "OUT", "--task", "vqa", "--set", "=x"],
        ["train", "--out", "OUT", "--task", ","],
        ["train", "--out", "OUT", "--set", "a"],
        ["demo", "--out", "OUT", "--seeds", "9" * 5000],
        ["demo", "--out", "OUT", "--seeds", ","],
        ["demo", "--out", "OUT", "--methods", ","],
        ["train", "--out", "OUT", "--recipe", "a" * 300],
        ["train", "--out", "a" * 300, "--task", "vqa"],
        ["train", "--out", "a" * 5000, "--task", "vqa"],
        ["leaderboard", "a" * 5000],
        ["features", "info", "a" * 300],
        ["profile", "--backbone", "demo", "--batch-size", str(10**20)],
        ["profile", "--backbone", "demo", "--steps", "9" * 5000],
        ["extract-features", "--images", "x", "--out", "y.h5", "--batch-size", str(10**20)],
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
def test_odd_values_end_in_one_message(
    arguments: list[str], tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path) + "/out"
    assert main([out if each == "OUT" else each for each in arguments]) in (1, 2)
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert len(printed) < 1500


def test_control_characters_never_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "info", "a\x1b[2J\x9b\rb.h5"]) == 1
    printed = capsys.readouterr().err
    assert "a\\x1b[2J\\x9b\\rb.h5" in printed
    assert printed.isprintable() or set(printed) - set(filter(str.isprintable, printed)) == {"\n"}
