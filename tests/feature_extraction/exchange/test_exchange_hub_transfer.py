"""Feature files on the Hub: pushed and pulled byte for byte."""

from pathlib import Path

import numpy as np
import pytest
from loopback_hub import LoopbackHub, running_hub
from plain_stores import SPEC, write_store

from eval.errors import InputError
from feature_extraction.errors import StoreError
from feature_extraction.exchange import hub_files
from feature_extraction.exchange.compression import compress_store
from feature_extraction.exchange.hub_transfer import pull_features, push_features
from feature_extraction.exchange.join import join_stores
from feature_extraction.store.writer import Batch, StoreWriter

NAME = "someone/features"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "coco.h5", ["a", "b", "bad", "c"])


def test_a_pulled_file_is_the_pushed_one(hub: LoopbackHub, store: Path, tmp_path: Path) -> None:
    compress_store(store, store)
    pushed = push_features(store, NAME, private=True)
    assert hub.repositories["datasets", NAME].private
    assert pushed.is_changed
    assert pushed.has_new_card
    pulled = pull_features(NAME, tmp_path / "y.h5")
    assert (pulled.commit, pulled.file_name) == (pushed.commit, "coco.h5")
    assert (tmp_path / "y.h5").read_bytes() == store.read_bytes()
    assert pulled.store.spec == SPEC
    assert list(pulled.store.failures) == ["bad"]
    downloads = hub.count("GET", "/large-files/")
    assert not pull_features(NAME, tmp_path / "y.h5").is_changed
    assert hub.count("GET", "/large-files/") == downloads
    assert sorted(path.name for path in tmp_path.glob("*.h5*")) == ["coco.h5", "y.h5"]


def test_pushing_again(hub: LoopbackHub, store: Path, tmp_path: Path) -> None:
    push_features(store, NAME)
    assert not push_features(store, NAME).is_changed
    files = hub.files(NAME, "datasets")
    assert f"vl-lst features pull {NAME}".encode() in files["README.md"]
    hub.add(NAME, {**files, "README.md": b"# Mine"}, kind="datasets")
    other = write_store(tmp_path / "vg.h5", ["x"], seed=1)
    assert not push_features(other, NAME).has_new_card
    assert hub.files(NAME, "datasets")["README.md"] == b"# Mine"
    with pytest.raises(StoreError, match=r"there are 2 files.*Name one: someone/features/coco.h5"):
        pull_features(NAME, tmp_path / "y.h5")
    pull_features(f"{NAME}/vg.h5", tmp_path / "y.h5")
    assert (tmp_path / "y.h5").read_bytes() == other.read_bytes()


def test_a_download_whose_connection_dropped_is_resumed(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once; after several attempts, by the same command."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(hub_files, "BLOCK_BYTES", 2**17)
    store = write_store(tmp_path / "x.h5", [str(number) for number in range(5000)])
    push_features(store, NAME)
    size = store.stat().st_size
    hub.drop_next("GET", "/large-files/", after_bytes=size // 2)
    pull_features(NAME, tmp_path / "y.h5")

    def drop(done: int, total: int, note: str = "") -> None:
        assert total == size
        if done > size // 2:
            hub.drop_next("GET", "/large-files/", after_bytes=100, times=20)

    with pytest.raises(InputError, match=r"connection .* failed.*Run the same command again"):
        pull_features(NAME, tmp_path / "z.h5", on_progress=drop)
    assert not (tmp_path / "z.h5").exists()
    (partial,) = (tmp_path / "z.h5.partial").rglob("*.incomplete")
    kept = partial.stat().st_size
    assert size // 2 < kept < size
    hub.drops.clear()
    seen: list[int] = []
    pull_features(
        NAME, tmp_path / "z.h5", on_progress=lambda done, total, note="": seen.append(done)
    )
    assert seen[0] == kept + 2**17
    for name in ("y.h5", "z.h5"):
        assert (tmp_path / name).read_bytes() == store.read_bytes()
    assert not (tmp_path / "z.h5.partial").exists()


def test_an_upload_whose_connection_dropped(hub: LoopbackHub, store: Path) -> None:
    hub.drop_next("PUT", "/large-files/", after_bytes=100)
    push_features(store, NAME)
    assert hub.files(NAME, "datasets")["coco.h5"] == store.read_bytes()


def test_what_cannot_be_pushed(hub: LoopbackHub, store: Path, tmp_path: Path) -> None:
    hub.add("someone/public", {}, kind="datasets")
    with pytest.raises(InputError, match="already exists and is public, so nothing was uploaded"):
        push_features(store, "someone/public", private=True)
    with pytest.raises(InputError, match="403"):
        push_features(store, "another/features")
    with pytest.raises(StoreError, match="without path and revision"):
        push_features(store, f"{NAME}/x.h5")
    join_stores([store, write_store(tmp_path / "t.h5", ["x"])], tmp_path / "index.h5")
    with pytest.raises(StoreError, match=r"index.h5 is an index .* Push each of these"):
        push_features(tmp_path / "index.h5", NAME)
    (tmp_path / "no.h5").write_bytes(b"no features")
    with pytest.raises(StoreError, match=r"no\.h5"):
        push_features(tmp_path / "no.h5", NAME)
    assert ("datasets", NAME) not in hub.repositories


def test_without_a_token(store: Path, tmp_path: Path) -> None:
    with running_hub(tmp_path, token=None) as hub:
        with pytest.raises(InputError, match="found no token"):
            push_features(store, NAME)
        hub.add(NAME, {"x.h5": b"\0"}, kind="datasets", private=True)
        with pytest.raises(InputError, match="no public repository .* if it is private, sign in"):
            pull_features(NAME, tmp_path / "y.h5")


def test_what_cannot_be_pulled(hub: LoopbackHub, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "y.h5"
    hub.add(NAME, {"x.parquet": b"\0", "README.md": b""}, kind="datasets")
    with pytest.raises(StoreError, match=r"no feature file.*features import hf://datasets/someone"):
        pull_features(NAME, out)
    hub.add(NAME, {"x.h5": b"\x89HDF\r\n\x1a\n\0\0\0"}, kind="datasets")
    with pytest.raises(StoreError, match=r"someone/features: x.h5.*Nothing was written"):
        pull_features(NAME, out)
    with pytest.raises(InputError, match="has no revision 'gone'"):
        pull_features(f"{NAME}@gone", out)
    assert not out.exists()
    push_features(store, NAME)
    with pytest.raises(StoreError, match=r"x.h5 of someone/features. Remove it"):
        pull_features(f"{NAME}/x.h5", store)
    with StoreWriter(tmp_path / "z.h5", SPEC, ["a", "b"]) as writer:
        features = np.zeros((1, SPEC.tokens, SPEC.channels), np.float16)
        size = np.zeros((1, 2), np.int32)
        writer.write(Batch(start=0, features=features, image_size=size, reasons=[""]))
    with pytest.raises(StoreError, match="holds other unfinished work"):
        pull_features(f"{NAME}/coco.h5", tmp_path / "z.h5")
