"""Joining shards: complete, without repeats, and readable wherever the folder is moved."""

import dataclasses
import errno
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from plain_shards import FEATURES, IDS, assert_reads_as_one, write, write_shards
from plain_stores import SPEC

from feature_extraction.errors import StoreError
from feature_extraction.exchange import join
from feature_extraction.exchange.join import join_stores
from feature_extraction.store import open_features
from feature_extraction.store.store import FeatureStore
from feature_extraction.store.writer import Batch, StoreWriter


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return write_shards(tmp_path)


class TestIndex:
    def test_it_reads_as_one_in_any_given_order(self, shards: list[Path], tmp_path: Path) -> None:
        result = join_stores([shards[2], shards[0], shards[1]], tmp_path / "val.h5")
        assert_reads_as_one(tmp_path / "val.h5")
        assert result.files == tuple(shards)
        assert (result.images, dict(result.failures)) == (7, {"image3": "it is empty"})
        assert sorted(os.listdir(tmp_path)) == ["val.h5", *(path.name for path in shards)]

    def test_hdf5_alone_reads_it_as_well(self, shards: list[Path], tmp_path: Path) -> None:
        join_stores(shards, tmp_path / "val.h5")
        with h5py.File(tmp_path / "val.h5") as file:
            assert file["features"].is_virtual
            assert np.array_equal(file["features"][:], FEATURES)
            assert file["image_id"].asstr()[:].tolist() == IDS
            assert file["status"][:].tolist() == [1, 1, 1, 2, 1, 1, 1]
            assert file["image_size"][6].tolist() == [6, 7]

    def test_the_folder_can_be_moved(
        self, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "deep" / "shards"
        folder.mkdir(parents=True)
        moved = [Path(shutil.move(path, folder)) for path in shards]
        join_stores(moved, tmp_path / "deep" / "val.h5")
        (tmp_path / "deep").rename(tmp_path / "elsewhere")
        monkeypatch.chdir("/")
        assert_reads_as_one(tmp_path / "elsewhere" / "val.h5")

    def test_the_same_shards_give_the_same_bytes(self, shards: list[Path], tmp_path: Path) -> None:
        join_stores(shards, tmp_path / "a.h5")
        join_stores(shards[::-1], tmp_path / "b.h5")
        assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()

    def test_whole_files_are_joined_in_the_given_order(self, tmp_path: Path) -> None:
        late = write(tmp_path / "late.h5", range(5, 7))
        early = write(tmp_path / "early.h5", range(0, 2))
        join_stores([late, early], tmp_path / "both.h5")
        assert list(open_features(tmp_path / "both.h5")) == [IDS[5], IDS[6], IDS[0], IDS[1]]

    def test_it_is_read_together_with_other_files(self, shards: list[Path], tmp_path: Path) -> None:
        join_stores(shards, tmp_path / "val.h5")
        more = tmp_path / "more.h5"
        with StoreWriter(more, SPEC, ["x"]) as writer:
            size = np.ones((1, 2), np.int32)
            writer.write(Batch(start=0, features=FEATURES[:1], image_size=size, reasons=[""]))
            writer.finish()
        reader = open_features([tmp_path / "val.h5", more])
        assert np.array_equal(reader.read(["x", IDS[6]]), FEATURES[[0, 6]])
        with pytest.raises(StoreError, match=r"val\.h5, .*more\.h5: image 'y' is missing"):
            reader["y"]


class TestCopy:
    def test_it_replaces_the_shards_and_equals_an_undivided_file(
        self, shards: list[Path], tmp_path: Path
    ) -> None:
        write(tmp_path / "undivided.h5", range(7))
        join_stores(shards, tmp_path / "val.h5", copy=True)
        for path in shards:
            path.unlink()
        assert_reads_as_one(tmp_path / "val.h5")
        assert (tmp_path / "val.h5").read_bytes() == (tmp_path / "undivided.h5").read_bytes()


class TestVerification:
    def test_a_missing_shard_is_named(self, shards: list[Path], tmp_path: Path) -> None:
        shards[1].rename(tmp_path / "val.shard-2-of-3.h5.partial")
        with pytest.raises(StoreError, match=r"number 2 \(val.shard-2-of-3.h5, which is not fin"):
            join_stores([shards[0], shards[2]], tmp_path / "val.h5")
        assert not (tmp_path / "val.h5").exists()

    def test_an_unfinished_shard_is_distinguished_from_a_missing_one(
        self, shards: list[Path], tmp_path: Path
    ) -> None:
        shards[1].rename(tmp_path / "val.shard-2-of-3.h5.partial")
        with pytest.raises(StoreError, match="not finished: run the same command"):
            join_stores(shards, tmp_path / "val.h5")

    def test_an_image_that_occurs_twice_is_named(self, shards: list[Path], tmp_path: Path) -> None:
        write(shards[2], range(4, 7), (3, 3))
        with pytest.raises(StoreError, match="share images: image4"):
            join_stores(shards, tmp_path / "val.h5")

    def test_images_in_no_shard_are_located(self, shards: list[Path], tmp_path: Path) -> None:
        shards[1].unlink()
        write(shards[1], range(3, 5), (2, 3))
        with pytest.raises(StoreError, match="1 images are missing between 'image1' and 'image3'"):
            join_stores(shards, tmp_path / "val.h5")
        shards[2].unlink()
        write(shards[1], range(2, 5), (2, 3))
        write(shards[2], range(5, 6), (3, 3))
        with pytest.raises(StoreError, match="list 6 images, but were made for 7"):
            join_stores(shards, tmp_path / "val.h5")

    def test_pending_images_are_named(self, shards: list[Path], tmp_path: Path) -> None:
        with h5py.File(shards[0], "r+") as file:
            file["status"][1] = 0
        with pytest.raises(StoreError, match=r"not finished: 1 images are pending \(image1\)"):
            join_stores(shards, tmp_path / "val.h5")

    def test_other_settings_are_named(self, shards: list[Path], tmp_path: Path) -> None:
        shards[0].unlink()
        write(shards[0], range(0, 2), (1, 3), dataclasses.replace(SPEC, precision="bf16"))
        with pytest.raises(StoreError, match="precision: found fp32, expected bf16"):
            join_stores(shards, tmp_path / "val.h5")

    def test_shards_of_different_divisions_and_whole_files_do_not_mix(
        self, shards: list[Path], tmp_path: Path
    ) -> None:
        shards[0].unlink()
        write(shards[0], range(0, 2), (1, 4))
        with pytest.raises(StoreError, match="different extractions"):
            join_stores(shards, tmp_path / "val.h5")
        shards[0].unlink()
        write(shards[0], range(0, 2))
        with pytest.raises(StoreError, match=r"val.shard-1-of-3.h5 is not a shard"):
            join_stores(shards, tmp_path / "val.h5")

    def test_only_an_index_is_overwritten(self, shards: list[Path], tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="one of the files to join"):
            join_stores(shards, shards[0])
        write(tmp_path / "other.h5", range(7))
        with pytest.raises(StoreError, match="exists and is not an index"):
            join_stores(shards, tmp_path / "other.h5")
        for _ in range(2):
            join_stores(shards, tmp_path / "val.h5")
        with pytest.raises(StoreError, match="index made by `vl-lst features join`"):
            join_stores([tmp_path / "val.h5"], tmp_path / "again.h5")

    def test_an_index_stays_above_its_shards(self, shards: list[Path], tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="or pass --copy"):
            join_stores(shards, tmp_path / "elsewhere" / "val.h5")
        join_stores(shards, tmp_path / "elsewhere" / "val.h5", copy=True)
        assert_reads_as_one(tmp_path / "elsewhere" / "val.h5")


class TestAfterwards:
    """Later changes to the shards are detected, never read as zeros."""

    @pytest.fixture
    def index(self, shards: list[Path], tmp_path: Path) -> Path:
        return join_stores(shards, tmp_path / "val.h5").path

    def test_a_missing_shard_is_one_clear_message(self, index: Path, shards: list[Path]) -> None:
        shards[1].unlink()
        with pytest.raises(StoreError, match=r"val.h5 is an index.*shard-2-of-3.h5 does not exist"):
            open_features(index)

    def test_a_shard_removed_while_reading(self, index: Path, shards: list[Path]) -> None:
        reader = open_features(index)
        shards[1].unlink()
        with pytest.raises(StoreError, match=r"shard-2-of-3.h5.*No such file"):
            reader["image2"]

    def test_a_shard_truncated_while_reading(self, index: Path, shards: list[Path]) -> None:
        reader = open_features(index)
        assert np.array_equal(reader["image4"], FEATURES[4])
        os.truncate(shards[1], 64)
        with pytest.raises(StoreError, match="truncated while in use"):
            reader["image4"]

    @pytest.mark.parametrize("change", ["images", "settings", "status"])
    def test_a_replaced_shard(self, index: Path, shards: list[Path], change: str) -> None:
        if change == "status":
            with h5py.File(shards[1], "r+") as file:
                file["status"][1] = 1
        else:
            shards[1].unlink()
            spec = dataclasses.replace(SPEC, resize="letterbox") if change == "settings" else SPEC
            write(shards[1], range(2, 5) if change == "settings" else range(2, 4), (2, 3), spec)
        with pytest.raises(StoreError, match=r"changed since.*Join the files again"):
            open_features(index)

    def test_joining_again_does_not_disturb_readers(self, index: Path, shards: list[Path]) -> None:
        reader = open_features(index)
        assert np.array_equal(reader["image0"], FEATURES[0])
        join_stores(shards, index)
        assert np.array_equal(reader.read(["image6", "image1"]), FEATURES[[6, 1]])

    def test_an_index_of_indexes_is_refused(self, index: Path, tmp_path: Path) -> None:
        index.rename(tmp_path / "val.shard-1-of-3.h5")
        shutil.copy(tmp_path / "val.shard-1-of-3.h5", index)
        with pytest.raises(StoreError, match="is an index made by"):
            open_features(index)


class TestDisk:
    def test_no_space_leaves_the_old_index(
        self, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index = join_stores(shards, tmp_path / "val.h5").path
        before, listed = index.read_bytes(), sorted(os.listdir(tmp_path))

        def full(path: Path, *_: object) -> None:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(join, "write_index", full)
        with pytest.raises(StoreError, match="no space left"):
            join_stores(shards, index)
        assert index.read_bytes() == before
        assert sorted(os.listdir(tmp_path)) == listed

    def test_a_copy_without_space_can_be_resumed(
        self, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = FeatureStore.__getitem__

        def full(store: FeatureStore, image_id: str) -> object:
            if image_id == "image4":
                raise StoreError("no space left")
            return original(store, image_id)

        with monkeypatch.context() as patch:
            patch.setattr(FeatureStore, "__getitem__", full)
            with pytest.raises(StoreError, match="no space"):
                join_stores(shards, tmp_path / "val.h5", copy=True)
        assert not (tmp_path / "val.h5").exists()
        join_stores(shards, tmp_path / "val.h5", copy=True)
        assert_reads_as_one(tmp_path / "val.h5")
