"""Compressed stores: same values, readable elsewhere, written completely or not at all."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from plain_stores import features_of, write_store

from feature_extraction.errors import StoreError
from feature_extraction.exchange.compression import compress_store
from feature_extraction.exchange.join import join_stores
from feature_extraction.store import open_features
from feature_extraction.store.store import FeatureStore

IDS = ["a", "bad", "c", "dé"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_store(tmp_path / "store.h5", IDS)


@pytest.fixture
def compressed(path: Path) -> Path:
    compress_store(path, path.with_name("small.h5"))
    return path.with_name("small.h5")


def test_the_values_and_the_table_are_the_same(path: Path, compressed: Path) -> None:
    before, after = FeatureStore(path), FeatureStore(compressed)
    assert (before.compression, after.compression) == ("none", "zstd")
    assert np.array_equal(after.read(list(after)), before.read(list(before)))
    assert after.spec == before.spec
    assert after.listed_ids == before.listed_ids
    assert after.failures == before.failures
    assert np.array_equal(after.status, before.status)
    assert np.array_equal(after.listed_sizes, before.listed_sizes)


def test_other_programs_read_it_with_hdf5plugin(compressed: Path) -> None:
    code = (
        "import sys, h5py, hdf5plugin, numpy\n"
        "with h5py.File(sys.argv[1]) as file:\n"
        "    sys.stdout.buffer.write(file['features'][:].tobytes())\n"
    )
    pytest.importorskip("hdf5plugin")
    command = [sys.executable, "-W", "ignore", "-c", code, str(compressed)]
    found = subprocess.run(command, check=True, capture_output=True).stdout
    expected = features_of(4)
    expected[1] = 0
    assert found == expected.tobytes()


def test_this_program_loads_no_filter(compressed: Path, tmp_path: Path) -> None:
    """A plugin is code that a file requests and the environment names."""
    code = (
        "import sys, h5py\n"
        "from feature_extraction.store.store import FeatureStore\n"
        "store = FeatureStore(sys.argv[1])\n"
        "store.read(list(store))\n"
        "assert 'hdf5plugin' not in sys.modules\n"
        "assert 'plugins' not in open('/proc/self/maps').read()\n"
    )
    environment = {**os.environ, "HDF5_PLUGIN_PATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, compressed], check=True, env=environment)


def test_again_gives_the_same_bytes(path: Path, compressed: Path) -> None:
    compress_store(path, path)
    assert path.read_bytes() == compressed.read_bytes()
    inode = path.stat().st_ino
    compress_store(path, path)
    assert path.stat().st_ino == inode
    assert sorted(each.name for each in path.parent.iterdir()) == ["small.h5", "store.h5"]


def test_joined_with_copy_it_is_plain_again(path: Path, compressed: Path) -> None:
    join_stores([compressed], path.with_name("plain.h5"), copy=True)
    plain, before = FeatureStore(path.with_name("plain.h5")), FeatureStore(path)
    assert plain.compression == "none"
    assert np.array_equal(plain.read(list(plain)), before.read(list(before)))


def test_compressed_and_plain_files_are_joined(compressed: Path, tmp_path: Path) -> None:
    more = write_store(tmp_path / "more.h5", ["x", "y"], seed=1)
    join_stores([compressed, more], tmp_path / "all.h5")
    store = open_features(tmp_path / "all.h5")
    assert np.array_equal(store["c"], features_of(4)[2])
    assert np.array_equal(store["y"], features_of(2, seed=1)[1])


def test_compressing_again_after_a_kill(path: Path, compressed: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from feature_extraction.exchange import compression\n"
        "compression.IMAGES_BETWEEN_REPORTS = 1\n"
        "path = Path(sys.argv[1])\n"
        "def die(done, total, note=''):\n"
        "    if done == int(sys.argv[2]):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "compression.compress_store(path, path, on_progress=die)\n"
    )
    plain = path.read_bytes()
    for count in ("1", "4"):
        ended = subprocess.run([sys.executable, "-c", code, path, count], check=False)
        assert ended.returncode == -signal.SIGKILL
        assert path.read_bytes() == plain
    compress_store(path, path)
    assert path.read_bytes() == compressed.read_bytes()
    assert not path.with_name("store.h5.partial").exists()


class TestRefusals:
    def test_another_file_is_not_replaced(self, path: Path, tmp_path: Path) -> None:
        other = write_store(tmp_path / "other.h5", ["x"])
        with pytest.raises(StoreError, match="other.h5 exists"):
            compress_store(path, other)

    def test_pending_images(self, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file["status"][0] = 0
        with pytest.raises(StoreError, match="1 images are pending"):
            compress_store(path, path)

    def test_an_unfinished_extraction(self, path: Path) -> None:
        folder = path.with_name("store.h5.partial")
        folder.mkdir()
        (folder / "journal.jsonl").write_text("")
        with pytest.raises(StoreError, match="journal.jsonl.*unfinished extraction"):
            compress_store(path, path)
        assert (folder / "journal.jsonl").exists()

    def test_a_link_in_the_partial_folder(self, path: Path, tmp_path: Path) -> None:
        folder = path.with_name("store.h5.partial")
        folder.mkdir()
        (folder / "compressed").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StoreError, match="compressed is a symbolic link"):
            compress_store(path, path)
        assert not (tmp_path / "elsewhere").exists()

    def test_an_index(self, path: Path, tmp_path: Path) -> None:
        join_stores([path], tmp_path / "index.h5")
        with pytest.raises(StoreError, match="index"):
            compress_store(tmp_path / "index.h5", tmp_path / "out.h5")


def rewrite_chunk(path: Path, row: int, content: bytes, mask: int = 0) -> None:
    with h5py.File(path, "r+") as file:
        file["features"].id.write_direct_chunk((row, 0, 0), content, mask)


def zstd(content: bytes) -> bytes:
    from pyarrow import Codec

    return bytes(Codec("zstd").compress(content, asbytes=True))


class TestDamage:
    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"nonsense" * 4, id="not zstd"),
            pytest.param(zstd(bytes(119)), id="too short"),
            pytest.param(zstd(bytes(2**24)), id="a bomb"),
            pytest.param(zstd(bytes(120))[:-3], id="cut"),
            pytest.param(zstd(bytes(120)) + zstd(bytes(2**24)), id="a second frame"),
            pytest.param(b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 20, id="2**64 bytes declared"),
        ],
    )
    def test_a_damaged_image_is_an_error(self, compressed: Path, content: bytes) -> None:
        rewrite_chunk(compressed, 2, content)
        store = FeatureStore(compressed)
        assert np.array_equal(store["a"], features_of(4)[0])
        with pytest.raises(StoreError, match=r"small.h5: an image .*damaged"):
            store["c"]

    def test_an_oversized_chunk_is_refused_before_reading(self, compressed: Path) -> None:
        rewrite_chunk(compressed, 2, bytes(60000))
        with pytest.raises(StoreError, match="120 bytes takes 60,000"):
            FeatureStore(compressed)

    def test_an_image_stored_plain_in_a_compressed_file(self, compressed: Path) -> None:
        """HDF5 skips a filter that fails, and records it."""
        rewrite_chunk(compressed, 2, features_of(4)[3].tobytes(), mask=1)
        assert np.array_equal(FeatureStore(compressed)["c"], features_of(4)[3])

    def test_a_missing_image_is_refused(self, path: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.h5"
        with h5py.File(path) as old, h5py.File(other, "w") as new:
            for name in set(old) - {"features"}:
                old.copy(name, new)
            new.attrs["spec"] = old.attrs["spec"]
            dataset = new.create_dataset(
                "features", (4, 6, 10), "<f2", chunks=(1, 6, 10), compression="gzip"
            )
            dataset[:3] = old["features"][:3]
        with pytest.raises(StoreError, match="1 images are missing"):
            FeatureStore(other)


def write_with(path: Path, other: Path, **options: object) -> None:
    shutil.copy(path, other)
    with h5py.File(other, "r+") as file:
        del file["features"]
        file.create_dataset("features", data=features_of(4), chunks=(1, 6, 10), **options)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"compression": "gzip"}, "gzip"),
        ({"compression": "gzip", "shuffle": True}, "gzip"),
        ({"shuffle": True}, "none"),
    ],
)
def test_what_other_tools_compress(
    path: Path, tmp_path: Path, options: dict[str, object], name: str
) -> None:
    write_with(path, tmp_path / "other.h5", **options)
    store = FeatureStore(tmp_path / "other.h5")
    assert store.compression == name
    assert np.array_equal(store.read(["a", "dé"]), features_of(4)[[0, 3]])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"compression": "lzf"}, "lzf"),
        ({"fletcher32": True}, "fletcher32"),
        ({"compression": "gzip", "fletcher32": True}, "gzip, fletcher32"),
    ],
)
def test_other_filters_are_named_and_refused(
    path: Path, tmp_path: Path, options: dict[str, object], named: str
) -> None:
    write_with(path, tmp_path / "other.h5", **options)
    with pytest.raises(StoreError, match=f"HDF5 filters .*{named}.*h5repack"):
        FeatureStore(tmp_path / "other.h5")


def test_a_gzip_bomb_is_refused(path: Path, tmp_path: Path) -> None:
    import zlib

    write_with(path, tmp_path / "other.h5", compression="gzip")
    rewrite_chunk(tmp_path / "other.h5", 2, zlib.compress(bytes(2**20), 9))
    store = FeatureStore(tmp_path / "other.h5")
    with pytest.raises(StoreError, match="decompresses to more than its size"):
        store["c"]
