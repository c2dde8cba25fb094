"""The notebook runs from start to end, and is stored without outputs."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOK = REPOSITORY / "notebooks" / "quickstart.ipynb"
SECONDS = 300


def cells(kind: str, notebook: Any = None) -> list[Any]:
    notebook = notebook or json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def printed(cell: Any) -> str:
    """Return what a cell wrote and what its last expression is."""
    parts = []
    for output in cell["outputs"]:
        parts += output.get("text", [])
        parts += output.get("data", {}).get("text/plain", [])
    return "".join(parts)


def test_the_notebook_is_stored_without_outputs() -> None:
    for cell in cells("code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands, public names and fields that the notebook uses must be those of the code."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    # The kernel and its commands must be those of this interpreter and of this checkout.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    shown = [printed(cell) for cell in cells("code", notebook)]
    assert "quickstart-data/vqa/v2_mscoco_val2014_annotations.json" in shown[0]
    accuracy = float(next(text for text in shown if text.startswith("accuracy")).split()[1])
    assert accuracy > 45  # questions alone give away about 40
    assert (tmp_path / "quickstart-run" / "record.json").is_file()
    *_, answered = shown
    assert answered.strip()
