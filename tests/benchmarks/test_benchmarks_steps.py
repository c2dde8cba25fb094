"""The programs that measure training steps run every way to train, and all that a GPU would run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_programs import BENCHMARKS, import_benchmark


@pytest.fixture(scope="module")
def step() -> Any:
    return import_benchmark("step")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft
def test_every_row_of_the_table_is_measured(step: Any) -> None:
    workload = step.tiny_workload()
    bench = step.StepBench(*step.tiny_config(), workload, torch.device("cpu"))
    results = step.measure(bench, step.ROWS, rounds=2, steps=1)
    assert list(results) == [row.name for row in step.ROWS]
    for name, result in results.items():
        parts = result.median()
        assert len(result.seconds) == 2
        assert all(each > 0 for part, each in parts.items() if part != "backbone")
        assert (parts["backbone"] == 0) == ("states" in name)
    kept, recomputed, states = (results[name] for name in ("lst", "lst, recomputed", "lst, states"))
    assert recomputed.saved_bytes < kept.saved_bytes == states.saved_bytes
    assert states.model_bytes < kept.model_bytes
    assert results["lst, bf16"].model_bytes < kept.model_bytes
    table = step.markdown(results).splitlines()
    assert len(table) == 2 + len(step.ROWS)
    assert "| 100.0% |" in table[2]


def test_all_that_needs_no_gpu_runs_on_the_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = subprocess.run(
        [
            *(sys.executable, BENCHMARKS / "gpu.py"),
            *("--device", "cpu", "--tiny", "--json", out),
            *("--parts", "parity,steps,large,generation,extraction,compile"),
        ],
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    entries = json.loads(out.read_text())["entries"]
    assert {entry["status"] for entry in entries} == {"done"}
    assert {entry["part"] for entry in entries} == {
        *("parity", "steps", "large", "generation", "extraction", "compile")
    }
    assert sum(line.startswith("| ") for line in done.stdout.splitlines()) == len(entries) + 1


def test_one_failure_does_not_end_the_program() -> None:
    entries = import_benchmark("_entries").Entries(torch.device("cpu"))

    def out_of_memory() -> dict[str, float]:
        raise torch.OutOfMemoryError("tried to allocate 3 GiB")

    def fail() -> dict[str, float]:
        raise ValueError("first | line\nsecond line")

    def part() -> None:
        entries.attempt("small", lambda: {"ms": 1.25})
        entries.attempt("large", out_of_memory)
        assert not entries.failed
        entries.attempt("wrong", fail)
        raise OSError("no such folder")

    entries.run("part", part, seconds=60)
    assert entries.failed
    entries.run("late", lambda: entries.attempt("never run", fail), seconds=0)
    assert [(entry.status, entry.values) for entry in entries.all] == [
        ("done", {"ms": 1.25}),
        ("out of memory", {"reason": "OutOfMemoryError: tried to allocate 3 GiB"}),
        ("failed", {"reason": "ValueError: first / line"}),
        ("failed", {"reason": "OSError: no such folder"}),
        ("no time left", {}),
    ]
