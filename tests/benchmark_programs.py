"""Import programs of the folder of benchmarks, which is not a package."""

import importlib
import sys
from pathlib import Path
from typing import Any

__all__ = ["BENCHMARKS", "import_benchmark"]

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def import_benchmark(name: str) -> Any:
    """Import a module of the folder."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))
