"""Every way of reading an image gives the same values and detects damage."""

import dataclasses
import errno
import os
import pickle
from pathlib import Path

import numpy as np
import plain_stores
import pytest

from feature_extraction.errors import StoreError
from feature_extraction.store import row_reader
from feature_extraction.store.store import FeatureStore
from feature_extraction.store.writer import Batch, StoreWriter

IMAGES, TOKENS, CHANNELS = 9, 9, 1024
IDS = [f"image{number}" for number in range(IMAGES)]
FEATURES = np.random.default_rng(0).random((IMAGES, TOKENS, CHANNELS)).astype(np.float16)
SPEC = dataclasses.replace(plain_stores.SPEC, grid=(3, 3), channels=CHANNELS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with StoreWriter(tmp_path / "store.h5", SPEC, IDS) as writer:
        size = np.ones((IMAGES, 2), np.int32)
        writer.write(Batch(start=0, features=FEATURES, image_size=size, reasons=[""] * IMAGES))
        writer.finish()
    return tmp_path / "store.h5"


@pytest.fixture(params=["in memory", "on disk", "file system cannot tell", "small"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    original, no_wait = os.preadv, row_reader.NO_WAIT

    def refuse(number: int) -> None:
        def preadv(handle: int, buffers: list[bytearray], offset: int, flags: int = 0) -> int:
            if flags:
                raise OSError(number, os.strerror(number))
            return original(handle, buffers, offset)

        monkeypatch.setattr(row_reader.os, "preadv", preadv)

    match request.param:
        case "in memory":
            if no_wait is None:
                pytest.skip("not available on this system")
        case "on disk":
            monkeypatch.setattr(row_reader, "NO_WAIT", 8)
            refuse(errno.EAGAIN)
        case "file system cannot tell":
            monkeypatch.setattr(row_reader, "NO_WAIT", 8)
            refuse(errno.EOPNOTSUPP)
        case "small":
            monkeypatch.setattr(row_reader, "SMALL_BYTES", 2**20)


@pytest.mark.usefixtures("way")
def test_every_way_gives_the_same_values(path: Path) -> None:
    store = FeatureStore(path)
    assert np.array_equal(store["image4"], FEATURES[4])
    assert np.array_equal(store.read(["image8", "image0", "image8"]), FEATURES[[8, 0, 8]])
    assert np.array_equal(pickle.loads(pickle.dumps(store))["image1"], FEATURES[1])
    store.close()
    assert np.array_equal(store["image2"], FEATURES[2])


@pytest.mark.usefixtures("way")
def test_a_file_truncated_while_in_use_is_an_error(path: Path) -> None:
    """An access to a memory map would crash the process."""
    store = FeatureStore(path)
    assert np.array_equal(store["image8"], FEATURES[8])
    os.truncate(path, 5 * TOKENS * CHANNELS * 2)
    for image_ids in (["image8"], ["image0", "image7"]):
        with pytest.raises(StoreError, match="truncated while in use"):
            store.read(image_ids)


def test_arrays_are_independent_of_the_file(path: Path) -> None:
    """Arrays can be changed, and outlive the store."""
    store = FeatureStore(path)
    features = store["image3"]
    store.close()
    features += 1
    assert np.array_equal(store["image3"], FEATURES[3])
