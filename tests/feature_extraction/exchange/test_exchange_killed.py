"""After a kill at any step that changes files, the same call succeeds and leaves nothing behind."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from kill_at_call import kill_at_call
from plain_stores import features_of, write_store

from feature_extraction.exchange.compression import compress_store
from feature_extraction.exchange.exporting import export_features
from feature_extraction.exchange.importing import import_features
from feature_extraction.exchange.join import join_stores
from feature_extraction.store.store import FeatureStore

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)

CALLS = (
    "fsync", "mkdir", "open", "pwrite", "rename", "replace", "rmdir", "truncate", "unlink", "write",
)  # fmt: skip
WORKS: dict[str, Callable[[Path], object]] = {
    "compress": lambda work: compress_store(work / "one.h5", work / "out"),
    "compress in place": lambda work: compress_store(work / "same.h5", work / "same.h5"),
    "join": lambda work: join_stores([work / "one.h5", work / "two.h5"], work / "out"),
    "copy": lambda work: join_stores([work / "one.h5", work / "two.h5"], work / "out", copy=True),
    "import": lambda work: import_features(work / "source", work / "out"),
    "export": lambda work: export_features(FeatureStore(work / "two.h5"), work / "out", "h5"),
    "parquet": lambda work: export_features(FeatureStore(work / "one.h5"), work / "out", "parquet"),
}


@pytest.fixture(autouse=True)
def one_image_per_parquet_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feature_extraction.exchange.exporting.IMAGES_PER_FILE", 1)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    np.save(tmp_path / "source" / "a.npy", features_of(1)[0])
    write_store(tmp_path / "one.h5", ["a", "bad", "c"])
    write_store(tmp_path / "two.h5", ["x"], seed=1)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def kill_after_call(number: int) -> None:
    """Make this process kill itself after its n-th system call that changes files."""
    counted = kill_at_call(number, before=False)
    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


@pytest.mark.parametrize("name", WORKS)
def test_at_every_step(work: Path, name: str) -> None:
    plain = (work / "one.h5").read_bytes()
    before = contents(work)

    def reset() -> None:
        for path in sorted(work.rglob("*"), reverse=True):
            if str(path.relative_to(work)) not in before:
                path.rmdir() if path.is_dir() else path.unlink()
        (work / "same.h5").write_bytes(plain)

    reset()
    WORKS[name](work)
    expected = contents(work)
    for number in range(1, 200, 2):
        reset()

        def killed(number: int = number) -> None:
            kill_after_call(number)
            WORKS[name](work)

        process = multiprocessing.get_context("fork").Process(target=killed)
        process.start()
        process.join()
        WORKS[name](work)
        assert contents(work) == expected
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert number > 5
