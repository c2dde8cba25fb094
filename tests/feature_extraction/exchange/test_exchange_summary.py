from pathlib import Path

import h5py
import numpy as np
import pytest

from feature_extraction.exchange.compression import compress_store
from feature_extraction.exchange.importing import imported_spec
from feature_extraction.exchange.join import join_stores
from feature_extraction.exchange.summary import summarise
from feature_extraction.store.writer import Batch, StoreWriter

SPEC = imported_spec("tiny", (4, 25))


def write_store(path: Path, values: np.ndarray, failed: int = 0) -> Path:
    images = len(values)
    with StoreWriter(path, SPEC, [f"image{number}" for number in range(images)]) as writer:
        writer.write(
            Batch(
                start=0,
                features=values.astype(np.float16),
                image_size=np.ones((images, 2), np.int32),
                reasons=["broken"] * failed + [""] * (images - failed),
            )
        )
        writer.finish()
    return path


def test_counts_size_and_values(tmp_path: Path) -> None:
    values = np.zeros((10, 4, 25))
    values[:, :2] = np.linspace(1, 5, 25)
    path = write_store(tmp_path / "store.h5", values, failed=2)
    with h5py.File(path, "r+") as file:
        file["status"][9] = 0
    found = summarise(path)
    assert (found.listed, found.done, found.pending) == (10, 7, 1)
    assert found.failures == {"image0": "broken", "image1": "broken"}
    assert found.file_bytes == path.stat().st_size
    assert found.spec == SPEC
    assert found.values is not None
    assert (found.values.images, found.values.minimum, found.values.maximum) == (7, 0, 5)
    assert found.values.zero_share == 0.5
    assert found.values.mean == pytest.approx(1.5, abs=1e-3)
    assert sum(found.values.counts) == 7 * 100
    assert len(found.values.edges) == len(found.values.counts) + 1


def test_an_index_counts_what_its_files_hold(tmp_path: Path) -> None:
    one = write_store(tmp_path / "one.h5", np.ones((3, 4, 25)), failed=1)
    with StoreWriter(tmp_path / "two.h5", SPEC, ["x", "y"]) as writer:
        features, size = np.ones((2, 4, 25), np.float16), np.ones((2, 2), np.int32)
        writer.write(Batch(start=0, features=features, image_size=size, reasons=["", ""]))
        writer.finish()
    two = tmp_path / "two.h5"
    compress_store(two, two)
    index = join_stores([one, two], tmp_path / "index.h5").path
    found = summarise(index)
    assert (found.listed, found.done, found.pending) == (5, 4, 0)
    assert found.failures == {"image0": "broken"}
    assert found.files == (one, two)
    assert found.compression == ("none", "zstd")
    assert found.file_bytes == sum(path.stat().st_size for path in (one, two, index))
    assert found.values is not None
    assert found.values.images == 4


def test_a_few_huge_values_do_not_hide_the_rest(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(40, 4, 25))
    values[3, 0, 0] = 60000
    found = summarise(write_store(tmp_path / "store.h5", values)).values
    assert found is not None
    assert found.maximum > 59000
    assert found.edges[-1] < 10
    assert sum(found.counts) == 4000


@pytest.mark.parametrize("value", [0.0, 3.5, np.nan])
def test_constant_and_unusable_values(tmp_path: Path, value: float) -> None:
    found = summarise(write_store(tmp_path / "store.h5", np.full((2, 4, 25), value))).values
    assert found is not None
    assert found.not_finite == (200 if np.isnan(value) else 0)
    assert found.edges[0] < found.edges[-1]


def test_no_image_has_features(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store.h5", np.zeros((2, 4, 25)), failed=2)
    assert summarise(path).values is None
