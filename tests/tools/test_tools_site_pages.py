"""Generated pages of the docs site hold what the code has."""

import json
from pathlib import Path

import pytest
import typer

from tools.site_command_line import command_line_page
from tools.site_notebook import notebook_page
from tools.site_python import API_PAGES, python_page
from vl_lst.cli import COMMANDS, build_app


def test_every_command_and_option_is_on_the_page() -> None:
    page = command_line_page()
    application = typer.main.get_command(build_app(COMMANDS))
    assert [name for name in COMMANDS if f"## `vl-lst {name}`\n" not in page] == []
    train = application.commands["train"]  # type: ignore[attr-defined]
    section = page.partition("## `vl-lst train`\n")[2].partition("\n## ")[0]
    options = [option for parameter in train.params for option in getattr(parameter, "opts", ())]
    assert "--features" in options
    assert [option for option in options if option[:2] == "--" and option not in section] == []
    assert "### `vl-lst features import`\n" in page


def test_no_cell_of_a_table_breaks_it() -> None:
    rows = [line for line in command_line_page().splitlines() if line.startswith("| `")]
    assert rows
    assert [row for row in rows if row.replace("\\|", "").count("|") != 3] == []


def test_public_names_have_a_directive() -> None:
    page = python_page(*API_PAGES["reference/python_vl_lst.md"])
    assert "::: vl_lst.run.trained.load_run\n" in page
    assert page.index("vl_lst.load_run") < page.index("vl_lst.Batch")
    assert page.count("::: vl_lst.run.trained.load_run\n") == 1
    scorers = python_page(*API_PAGES["reference/python_eval.md"])
    assert "::: eval.vqa.vqa_accuracy\n" in scorers


def test_a_notebook_becomes_markdown(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {"cell_type": "code", "source": "%%bash\nset -e\nvl-lst demo\n", "outputs": []},
        {"cell_type": "code", "source": "1 + 1", "outputs": []},
    ]
    notebook = tmp_path / "a.ipynb"
    notebook.write_text(json.dumps({"cells": cells}))
    expected = "# Title\ntext\n\n```bash\nset -e\nvl-lst demo\n```\n\n```python\n1 + 1\n```\n"
    assert notebook_page(notebook) == expected


def test_formulas_become_mathml() -> None:
    pytest.importorskip("latex2mathml")
    from tools.site_formulas import formulas_to_mathml

    page = r'<p>a <span class="arithmatex">\(a &lt; \frac{1}{b}\)</span> b</p>'
    converted = formulas_to_mathml(page)
    assert "<mfrac>" in converted
    assert 'display="inline"' in converted
    assert "arithmatex" not in converted
    assert 'display="block"' in formulas_to_mathml(r'<div class="arithmatex">\[x\]</div>')
    assert formulas_to_mathml("<p>$5</p>") == "<p>$5</p>"
