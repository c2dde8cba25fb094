"""Fixtures shared by the whole suite."""

import os
from pathlib import Path

import pytest

# Read when torch is loaded, so it stands before that, here and in processes that tests start.
# Threads that spin while they wait for each other make a suite on busy cores many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with reference data that may not live in the repository; skips where absent."""
    folder = Path(os.environ.get("VL_LST_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip(f"no reference data in {folder} (set VL_LST_SHARED)")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of small fixtures produced by the official code."""
    return REPOSITORY / "tests" / "golden"
