"""The program that measures stored states reads what it extracts, and counts bytes exactly."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmark_programs import import_benchmark


@pytest.fixture(scope="module")
def program() -> Any:
    return import_benchmark("states")


def test_every_choice_of_layers_is_measured(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "states.json"
    command = ["states.py", "--tiny", "--device", "cpu", "--batch-size", "2", "--texts", "4"]
    monkeypatch.setattr(sys, "argv", [*command, "--rounds", "1", "--json", str(out)])
    program.main()
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["all layers", "one layer"]
    for row in rows.values():
        assert min(row[part] for part in ("backbone", "states", "reading", "extraction")) > 0


def test_bytes_are_those_of_the_published_sizes(program: Any) -> None:
    rows = program.size_rows(program.Workload())
    found = {(row["backbone"], row["layers"]): row["token_bytes"] for row in rows}
    # Embedding and blocks, of 768 or 1024 values of 2 bytes.
    assert found["t5-base", "all layers"] == 13 * 768 * 2
    assert found["t5-base", "one layer"] == 2 * 768 * 2
    assert found["t5-3b", "all layers"] == 25 * 1024 * 2
