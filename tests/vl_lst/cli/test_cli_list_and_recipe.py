"""`vl-lst list`, `vl-lst recipe`, and what shells complete."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from feature_extraction.encoders.table import ENCODERS
from tasks import SUITES, task_names
from vl_lst.backbones.families import known_model_types
from vl_lst.bundled import BACKBONE_FOLDERS, bundled_recipes
from vl_lst.choices import describe_modules
from vl_lst.cli import COMMANDS, main
from vl_lst.methods import method_names
from vl_lst.recipes import read_recipe_file

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("kind", "key", "names"),
    [
        ("methods", "method", method_names()),
        ("tasks", "task", task_names()),
        ("recipes", "recipe", bundled_recipes()),
        ("encoders", "encoder", [*ENCODERS]),
    ],
)
def test_everything_is_listed_with_a_description(
    kind: str,
    key: str,
    names: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["list", kind, "--json", str(tmp_path / "list.json")]) == 0
    rows = json.loads((tmp_path / "list.json").read_text())[kind]
    assert [row[key] for row in rows] == names
    assert all(row.get("description", "none needed") for row in rows)
    assert "…" not in capsys.readouterr().out, "a cell is cut"


def test_backbones_are_listed_by_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "backbones", "--json", str(tmp_path / "list.json")]) == 0
    rows = json.loads((tmp_path / "list.json").read_text())["backbones"]
    assert all(row["description"] for row in rows)
    assert sorted(kind for row in rows for kind in row["model_types"]) == known_model_types()
    models = [name for row in rows for name in row["models"]]
    assert {*BACKBONE_FOLDERS, "t5-base"} <= {*models}
    assert len(models) == len({*models})


def test_a_module_without_a_docstring_has_an_empty_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "described_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "two_words.py").write_text('"""First line.\n\nMore."""\nraise SystemExit\n')
    (folder / "plain.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert describe_modules("described_package") == {"plain": "", "two-words": "First line"}


def test_a_shown_recipe_is_a_recipe_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipe", "show", "lora", "--set", "optimizer.lr=2e-4", "--quiet"]) == 0
    path = tmp_path / "mine.yaml"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    fields = read_recipe_file(path)
    assert (fields["method"]["name"], fields["optimizer"]["lr"]) == ("lora", 2e-4)
    assert main(["recipe", "check", str(path)]) == 0
    printed = capsys.readouterr().out
    assert f"{path}: valid" in printed
    assert "backbone.name is not set; a run also needs --backbone NAME" in printed
    path.write_text(path.read_text(encoding="utf-8").replace("weight_decay", "weight_decy"))
    assert main(["recipe", "check", str(path)]) == 1
    assert "did you mean optimizer.weight_decay?" in capsys.readouterr().err


def test_the_schema_is_printed_or_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipe", "schema", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert main(["recipe", "schema", "--quiet", "--json", str(tmp_path / "s.json")]) == 0
    assert json.loads(printed.out) == json.loads((tmp_path / "s.json").read_text())


def completions(line: str) -> list[str]:
    """What Bash would offer for the last word of a command line."""
    words = line.split(" ")
    environment = {
        "_VL_LST_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    code = f"""
import os, sys
os.environ.update({environment!r})
from vl_lst.cli import main
code = main([])
loaded = {{"torch", "numpy", "transformers"}} & set(sys.modules)
sys.exit(f"loaded {{loaded}}" if loaded else code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vl-lst ", [*COMMANDS]),
        ("vl-lst train --method l", ["lora", "lst"]),
        ("vl-lst train --task gl", [*SUITES]),
        ("vl-lst train --task vqa,g", ["vqa,gqa"]),
        ("vl-lst train --recipe glue-lst", [n for n in bundled_recipes() if "glue-lst" in n]),
        ("vl-lst train --device c", ["cpu", "cuda"]),
        ("vl-lst recipe show vl", ["vl-pet"]),
        ("vl-lst list r", ["recipes"]),
    ],
)
def test_names_are_completed_without_importing_torch(line: str, expected: list[str]) -> None:
    assert sorted(completions(line)) == sorted(expected)


def test_a_completion_script_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert main(["--show-completion", "bash"]) == 0
    assert "_VL_LST_COMPLETE=complete_bash" in capsys.readouterr().out
