"""Exporting features: formats, interruptions, existing folders, hostile ids."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from feature_extraction.choices import ExportFormat
from feature_extraction.errors import StoreError
from feature_extraction.exchange import exporting
from feature_extraction.exchange.exporting import export_features
from feature_extraction.exchange.importing import import_features, imported_spec
from feature_extraction.store import outputs
from feature_extraction.store.store import FeatureStore
from feature_extraction.store.writer import Batch, StoreWriter

SPEC = imported_spec("tiny", (6, 10))
FORMATS: tuple[ExportFormat, ...] = ("h5", "arrow")

PROGRAM = """
import sys, time
from pathlib import Path
from feature_extraction.exchange import exporting
from feature_extraction.store.store import FeatureStore
exporting.ARROW_FILE_BYTES = 360
exporting.ARROW_BATCH_BYTES = 240
def report(done, total, note=""):
    print(done, flush=True)
    time.sleep(0.05)
exporting.export_features(
    FeatureStore(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], on_progress=report
)
"""


def write_store(path: Path, image_ids: list[str]) -> FeatureStore:
    """Write a store. An image called `bad` has failed."""
    values = np.random.default_rng(0).normal(size=(len(image_ids), 6, 10)).astype(np.float16)
    with StoreWriter(path, SPEC, image_ids) as writer:
        writer.write(
            Batch(
                start=0,
                features=values,
                image_size=np.arange(1, 2 * len(image_ids) + 1).reshape(-1, 2).astype(np.int32),
                reasons=["broken" if image_id == "bad" else "" for image_id in image_ids],
            )
        )
        writer.finish()
    return FeatureStore(path)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return write_store(tmp_path / "store.h5", [*(f"image{n}" for n in range(8)), "bad", "é 1"])


@pytest.fixture(autouse=True)
def three_images_per_arrow_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "ARROW_FILE_BYTES", 3 * 2 * 60)
    monkeypatch.setattr(exporting, "ARROW_BATCH_BYTES", 2 * 2 * 60)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_h5_has_the_layout_of_vl_t5(store: FeatureStore, tmp_path: Path) -> None:
    result = export_features(store, tmp_path / "out", "h5")
    assert (result.images, result.written, result.files) == (9, 9, 9)
    for image_id in store:
        with h5py.File(tmp_path / "out" / f"{image_id}.h5") as file:
            assert np.array_equal(file[f"{image_id}/features"][...], store[image_id])
            size = tuple(file[f"{image_id}/img_{side}"][()] for side in "hw")
            assert size == store.image_size(image_id)
    assert len(contents(tmp_path / "out")) == 10
    made = json.loads((tmp_path / "out" / "export.json").read_text())
    assert made["spec"] == json.loads(store.spec.to_json())


def test_arrow_can_be_read_with_datasets(store: FeatureStore, tmp_path: Path) -> None:
    from datasets import load_from_disk

    result = export_features(store, tmp_path / "out", "arrow")
    assert (result.images, result.files) == (9, 3)
    rows = load_from_disk(str(tmp_path / "out")).with_format("numpy", dtype=np.float16)
    assert list(rows["image_id"]) == list(store)
    assert rows.features["features"].shape == (6, 10)
    for row in rows:
        assert row["features"].dtype == np.float16
        assert np.array_equal(row["features"], store[str(row["image_id"])])
        assert (row["height"], row["width"]) == store.image_size(str(row["image_id"]))


def test_importing_an_export_gives_the_same_store(store: FeatureStore, tmp_path: Path) -> None:
    export_features(store, tmp_path / "out", "h5")
    import_features(tmp_path / "out", tmp_path / "again.h5", encoder="tiny")
    again = FeatureStore(tmp_path / "again.h5")
    assert sorted(again) == sorted(store)
    assert again.spec == store.spec
    assert np.array_equal(again.read(list(store)), store.read(list(store)))
    assert all(again.image_size(image_id) == store.image_size(image_id) for image_id in store)


def test_unknown_sizes_stay_unknown(tmp_path: Path) -> None:
    from datasets import load_from_disk

    with StoreWriter(tmp_path / "store.h5", SPEC, ["a"]) as writer:
        nothing, size = np.zeros((1, 6, 10), np.float16), np.zeros((1, 2), np.int32)
        writer.write(Batch(start=0, features=nothing, image_size=size, reasons=[""]))
        writer.finish()
    store = FeatureStore(tmp_path / "store.h5")
    export_features(store, tmp_path / "h5", "h5")
    with h5py.File(tmp_path / "h5" / "a.h5") as file:
        assert list(file["a"]) == ["features"]
    export_features(store, tmp_path / "arrow", "arrow")
    assert load_from_disk(str(tmp_path / "arrow"))[0]["height"] is None


@pytest.mark.parametrize("export_format", FORMATS)
def test_an_interrupted_export_leaves_nothing(
    store: FeatureStore, tmp_path: Path, export_format: ExportFormat
) -> None:
    def interrupt(done: int, total: int, note: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_features(store, tmp_path / "out", export_format, on_progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["store.h5"]


@pytest.mark.parametrize("export_format", FORMATS)
def test_an_export_after_a_kill(
    store: FeatureStore, tmp_path: Path, export_format: ExportFormat
) -> None:
    export_features(store, tmp_path / "whole", export_format)
    out = tmp_path / "out"
    command = [sys.executable, "-c", PROGRAM, str(store.path), str(out), export_format]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    assert (tmp_path / "out.partial").exists()
    assert export_features(store, out, export_format).written == 9
    assert contents(out) == contents(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()
    assert export_features(store, out, export_format).written == 0


def test_every_file_is_synced_before_the_folder_gets_its_name(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    original = outputs.sync_path

    def sync(path: Path) -> None:
        synced.append(path.name)
        assert (tmp_path / "out").exists() == (path == tmp_path)
        original(path)

    monkeypatch.setattr(outputs, "sync_path", sync)
    export_features(store, tmp_path / "out", "h5")
    assert set(synced) == {*contents(tmp_path / "out"), "whole", tmp_path.name}


@pytest.mark.parametrize("export_format", FORMATS)
def test_existing_folders_are_never_overwritten(
    store: FeatureStore, tmp_path: Path, export_format: ExportFormat
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds something else"):
        export_features(store, out, export_format)
    other = tmp_path / "other"
    export_features(write_store(tmp_path / "two.h5", ["x"]), other, export_format)
    with pytest.raises(StoreError, match="an export of other features"):
        export_features(store, other, export_format)
    (tmp_path / "third.partial").mkdir()
    (tmp_path / "third.partial" / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="third.partial holds other unfinished work .thesis.txt"):
        export_features(store, tmp_path / "third", export_format)


@pytest.mark.parametrize("image_id", ["../escape", "/tmp/escape", ".hidden", "x" * 253, ".."])
def test_ids_that_would_write_elsewhere_are_refused(tmp_path: Path, image_id: str) -> None:
    store = write_store(tmp_path / "store.h5", [image_id])
    with pytest.raises(StoreError, match="cannot be the name of a file"):
        export_features(store, tmp_path / "folder" / "out", "h5")
    assert [path.name for path in tmp_path.iterdir()] == ["store.h5"]
    assert export_features(store, tmp_path / "folder" / "out", "arrow").images == 1


def test_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing to export"):
        export_features(write_store(tmp_path / "store.h5", ["bad"]), tmp_path / "out", "h5")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written(store: FeatureStore) -> None:
    with pytest.raises(StoreError, match="cannot write /proc/out"):
        export_features(store, Path("/proc/out"), "h5")
