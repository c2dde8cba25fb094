"""A small feature file."""

from pathlib import Path

import pytest
from plain_stores import write_store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of three images and a failure, which a test may damage."""
    return write_store(tmp_path / "store.h5", ["a", "bad", "c", "dé"])
