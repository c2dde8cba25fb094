"""Every task, and copies of its files; the tests keep away from the user's cache."""

import shutil
from pathlib import Path

import pytest

from tasks import Task, get_task, task_names


@pytest.fixture(autouse=True)
def own_cache(cache: Path) -> None:
    """Let every test have its own cache."""


@pytest.fixture
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the `FIXTURE` of the test's module, which a test may change."""
    return Path(shutil.copytree(request.module.FIXTURE, tmp_path / "data"))


@pytest.fixture(params=task_names())
def task(request: pytest.FixtureRequest) -> Task:
    return get_task(request.param)
