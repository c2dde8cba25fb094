"""Importing features of other programs into a store: resuming, damage, settings."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from feature_extraction.errors import StoreError
from feature_extraction.exchange import importing
from feature_extraction.exchange.importing import import_features, imported_spec
from feature_extraction.store import open_features
from feature_extraction.store.store import FeatureStore

TOKENS, CHANNELS, IMAGES = 4, 6, 23
BATCH = 5

# Runs an import that commits and reports each batch.
PROGRAM = """
import sys, time
from pathlib import Path
from feature_extraction.exchange import importing
from feature_extraction.store import resumable_writer
resumable_writer.SECONDS_BETWEEN_COMMITS = 0
importing.BATCH_BYTES = 240
def report(done, total, note=""):
    print(done, flush=True)
    time.sleep(0.02)
importing.import_features(Path(sys.argv[1]), Path(sys.argv[2]), on_progress=report)
"""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "BATCH_BYTES", BATCH * 2 * TOKENS * CHANNELS)


def values_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(TOKENS, CHANNELS)).astype(np.float32)


def image_id(number: int) -> str:
    return f"image{number:02}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The layout of VL-T5, half of it in a subfolder."""
    folder = tmp_path / "source"
    (folder / "more").mkdir(parents=True)
    for number in range(IMAGES):
        place = folder / "more" if number % 2 else folder
        with h5py.File(place / f"{image_id(number)}.h5", "w") as file:
            file[f"{image_id(number)}/features"] = values_of(number)
    return folder


def test_a_folder_becomes_a_store(source: Path, tmp_path: Path) -> None:
    seen = []
    result = import_features(
        source,
        tmp_path / "out.h5",
        encoder="RN101",
        on_progress=lambda done, total, note="": seen.append((done, total)),
    )
    assert (result.images, result.imported, result.failures) == (IMAGES, IMAGES, {})
    assert seen == [(5, 23), (10, 23), (15, 23), (20, 23), (23, 23)]
    store = FeatureStore(tmp_path / "out.h5")
    assert list(store) == [image_id(number) for number in range(IMAGES)]
    for number in range(IMAGES):
        assert np.array_equal(store[image_id(number)], values_of(number).astype(np.float16))
    assert (store.spec.encoder, store.spec.weights) == ("RN101", "imported")
    assert (store.spec.layer, store.spec.grid, store.spec.channels) == ("grid", (2, 2), CHANNELS)
    assert not (tmp_path / "out.h5.partial").exists()


def test_specs_match_only_for_the_same_name() -> None:
    one = imported_spec("RN101", (49, 2048))
    assert one.differences(imported_spec("RN101", (49, 2048))) == []
    assert one.differences(imported_spec("RN50", (49, 2048)))
    assert one.differences(imported_spec("RN101", (49, 2048), image_size=448))
    assert imported_spec("x", (1, 512)).layer == "pooled"
    assert imported_spec("x", (36, 8)).grid == (6, 6)
    assert imported_spec("x", (50, 8)).grid == (1, 50)


def test_train_and_validation_imports_are_read_as_one(source: Path, tmp_path: Path) -> None:
    import_features(source / "more", tmp_path / "a.h5", encoder="RN101")
    with h5py.File(tmp_path / "z.h5", "w") as file:
        file["z/features"] = values_of(99)
    import_features(tmp_path / "z.h5", tmp_path / "b.h5", encoder="RN101")
    store = open_features([tmp_path / "a.h5", tmp_path / "b.h5"])
    assert "z" in store
    assert len(store) == IMAGES // 2 + 1


@pytest.mark.parametrize("odd", [0, 11, IMAGES - 1])
def test_a_different_shape_is_named_in_any_position(source: Path, tmp_path: Path, odd: int) -> None:
    """Even in the first image: the most frequent shape is expected."""
    (path,) = source.rglob(f"{image_id(odd)}.h5")
    with h5py.File(path, "w") as file:
        file[f"{image_id(odd)}/features"] = np.zeros((TOKENS + 1, CHANNELS), np.float32)
    with pytest.raises(StoreError, match=rf"'{image_id(odd)}'.*\[5, 6\].*\[4, 6\]"):
        import_features(source, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()
    with h5py.File(path, "w") as file:
        file[f"{image_id(odd)}/features"] = values_of(odd)
    assert import_features(source, tmp_path / "out.h5").failures == {}


def test_damaged_files_are_listed_and_tried_again(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    import_features(source, tmp_path / "whole.h5")
    (path,) = source.rglob("image07.h5")
    original = path.read_bytes()
    path.write_bytes(original[:-10])
    result = import_features(source, out)
    assert list(result.failures) == ["image07"]
    assert "damaged or truncated" in result.failures["image07"]
    assert import_features(source, out).imported == 0
    path.write_bytes(original)
    assert import_features(source, out).imported == 1
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_a_finished_import_is_unchanged(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    import_features(source, out)
    (tmp_path / "out.h5.partial").mkdir()
    before = out.stat()
    assert import_features(source, out).imported == 0
    assert (out.stat().st_ino, out.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not (tmp_path / "out.h5.partial").exists()
    with pytest.raises(
        StoreError, match="imported from another source or with other settings.*architecture"
    ):
        import_features(source, out, encoder="RN50")
    (source / "image00.h5").unlink()
    with pytest.raises(StoreError, match="images: found 23, expected 22"):
        import_features(source, out)


def test_the_store_can_be_in_its_source_folder(source: Path) -> None:
    assert import_features(source, source / "out.h5").images == IMAGES
    assert import_features(source, source / "out.h5").imported == 0


def test_unreadable_files_are_reported_immediately(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(StoreError, match="none of the sampled files can be read.*a.npy"):
        import_features(tmp_path, tmp_path / "out.h5")


@pytest.mark.parametrize("batches", [1, 2, 4, 5])
def test_an_import_resumes_after_any_batch(
    source: Path, tmp_path: Path, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feature_extraction.store.resumable_writer.SECONDS_BETWEEN_COMMITS", 0)
    import_features(source, tmp_path / "whole.h5")

    def interrupt(done: int, total: int, note: str = "") -> None:
        if done >= min(batches * BATCH, total):
            raise KeyboardInterrupt

    out = tmp_path / "out.h5"
    with pytest.raises(KeyboardInterrupt):
        import_features(source, out, on_progress=interrupt)
    assert not out.exists()
    assert import_features(source, out).imported == max(0, IMAGES - batches * BATCH)
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_repeated_kills_do_not_change_the_result(source: Path, tmp_path: Path) -> None:
    """SIGKILL at different times in three runs, each of which resumes the previous one."""
    import_features(source, tmp_path / "whole.h5")
    out = tmp_path / "out.h5"
    for delay in (0.0, 0.013, 0.03):
        command = [sys.executable, "-c", PROGRAM, str(source), str(out)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not out.exists()
    assert import_features(source, out).imported < IMAGES
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()
