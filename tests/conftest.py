"""Fixtures shared by the whole suite."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from loopback_hub import LoopbackHub
    from tiny_run import TinyWorld
    from tiny_texts import TextWorld

# Read when torch is loaded, so it stands before that, here and in processes that tests start.
# Threads that spin while they wait for each other make a suite on busy cores many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if "PYTEST_XDIST_WORKER" in os.environ:  # several workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

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


@pytest.fixture(scope="session")
def world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="session")
def shared_world(world_folder: Path) -> "TinyWorld":
    # Not at the top: tests without a world load no torch.
    from tiny_run import make_world, tiny_settings

    with tiny_settings(world_folder):
        return make_world(world_folder)


@pytest.fixture(scope="module")
def world(shared_world: "TinyWorld", world_folder: Path) -> "Iterator[TinyWorld]":
    """A tiny world; tests copy what they change, because all modules share it."""
    from tiny_run import tiny_settings

    with tiny_settings(world_folder):
        yield shared_world


@pytest.fixture(scope="session")
def shared_reader_world(
    shared_world: "TinyWorld", world_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> "TinyWorld":
    from tiny_image_reader import with_image_reader
    from tiny_run import tiny_settings

    with tiny_settings(world_folder):
        return with_image_reader(shared_world, tmp_path_factory.mktemp("reader"))


@pytest.fixture(scope="module")
def reader_world(world: "TinyWorld", shared_reader_world: "TinyWorld") -> "TinyWorld":
    """The tiny world with a backbone that reads images, and features of its image encoder."""
    return shared_reader_world


@pytest.fixture(scope="session")
def shared_text_world(tmp_path_factory: pytest.TempPathFactory) -> "TextWorld":
    from tiny_texts import write_text_world

    return write_text_world(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def text_world(shared_text_world: "TextWorld", world_folder: Path) -> "Iterator[TextWorld]":
    """A tiny world of text alone; tests copy what they change."""
    from tiny_run import tiny_settings

    with tiny_settings(world_folder):
        yield shared_text_world


@pytest.fixture(scope="session")
def trained(
    shared_world: "TinyWorld", world_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a finished run in the world; tests copy it before they change it."""
    from tiny_run import tiny_settings

    from vl_lst.training.session import train

    out = tmp_path_factory.mktemp("trained") / "run"
    with tiny_settings(world_folder):
        train(shared_world.recipe(), out)
    return out


@pytest.fixture
def hub(tmp_path: Path) -> "Iterator[LoopbackHub]":
    """An empty Hub on the loopback address, to which the test is signed in as `someone`."""
    from loopback_hub import running_hub

    with running_hub(tmp_path) as running:
        yield running


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, which a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cache that only this test uses."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("VL_LST_CACHE", str(folder))
    return folder
