"""Every command behaves alike on unusual terminals and when interrupted."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vl_lst
from vl_lst.cli import main
from vl_lst.cli._console import progress

REPOSITORY = Path(__file__).resolve().parents[3]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vl_lst", *arguments],
        capture_output=True,
        text=True,
        encoding=environment.get("PYTHONIOENCODING", "utf-8"),
        env=os.environ | environment,
        cwd=REPOSITORY,
        check=False,
    )


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vl-lst {vl_lst.__version__}\n"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_characters_a_stream_cannot_encode_are_escaped(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["features", "info", "猫.h5"]) == 1
    stream.flush()
    assert b"\\u732b.h5" in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_names_that_are_not_utf8_are_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "info", os.fsdecode(b"\xff.h5")]) == 1
    assert "\\udcff.h5" in capfd.readouterr().err


@pytest.mark.parametrize("columns", ["0", "1"])
def test_a_terminal_without_columns_still_shows_results(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["--help"]) == 0
    assert "extract-features" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["0", "5", "\N{SUPERSCRIPT TWO}", "\N{FULLWIDTH DIGIT ONE}"])
def test_tables_show_their_cells_with_an_unusable_terminal_size(size: str) -> None:
    code = "from rich.table import Table; from vl_lst.cli._console import results; "
    code += "table = Table('metric', 'value'); table.add_row('accuracy', '50.00'); "
    code += "results.print(table)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=os.environ | {"COLUMNS": size, "LINES": size, "PYTHONIOENCODING": "utf-8"},
        cwd=REPOSITORY,
        check=False,
    )
    assert "accuracy" in done.stdout
    assert "50.00" in done.stdout


@pytest.mark.parametrize("name", ["[/]", "[bold]x[/bold]", ":cat:", "[red"])
def test_names_that_look_like_markup_are_printed_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", "--task", "vqa", "--data-root", name]) == 1
    assert f"files of vqa below {name}" in capsys.readouterr().out
    with progress(f"evaluating {name}", quiet=False) as report:
        report(1, 1)
    assert f"evaluating {name}" in capsys.readouterr().err


def test_an_interrupted_command_prints_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.get_task", interrupt)
    arguments = ["score", "--task", "vqa", "--data-root", "x", "--split", "y", "--predictions", "z"]
    assert main(arguments) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("module", ["typer", "rich.console", "vl_lst.cli.train"])
def test_an_interruption_during_import_prints_no_traceback(module: str) -> None:
    code = f"""
import sys
class Interrupt:
    def find_spec(self, name, *others):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
sys.argv[1:] = ["train", "--help"]
from vl_lst.__main__ import main
sys.exit(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_the_installed_program_is_the_one_that_is_tested() -> None:
    scripts = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert 'vl-lst = "vl_lst.__main__:main"' in scripts


def test_a_reader_that_closes_the_pipe_ends_the_program_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "vl_lst", "--help"],
            stdout=closed,
            stderr=subprocess.PIPE,
            cwd=REPOSITORY,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b""


def test_a_closed_standard_output_prints_no_traceback() -> None:
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m vl_lst --version >&-"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert "Traceback" not in done.stderr


def test_control_characters_in_names_are_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["features", "info", str(tmp_path / "a\x1b[2J.h5")]) == 1
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert r"a\x1b[2J.h5" in shown


def test_very_long_names_are_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "info", "a" * 5000]) == 1
    assert len(capsys.readouterr().err) < 1000


def test_no_file_gets_the_descriptor_of_a_closed_standard_stream() -> None:
    code = "import os, sys; from vl_lst.__main__ import main; sys.argv[1:] = ['--version']; "
    code += "main(); sys.exit(os.open(os.devnull, os.O_RDONLY) <= 2)"
    shell = f'exec {sys.executable} -c "{code}" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", shell], cwd=REPOSITORY, check=False).returncode == 0


def test_a_report_is_refused_on_a_closed_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["features", "info", "x.h5", "--json", "-"]) == 1
    assert "standard output is closed" in capsys.readouterr().err
