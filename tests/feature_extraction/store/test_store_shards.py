"""Dividing a folder into shards, and extracting them."""

from pathlib import Path

import numpy as np
import pytest

from feature_extraction.encoders.encoder import Encoder
from feature_extraction.errors import FeatureError, StoreError
from feature_extraction.extract import extract
from feature_extraction.images.finding import ImageFile
from feature_extraction.store.shards import Shard
from feature_extraction.store.store import FeatureStore


class TestDivision:
    @pytest.mark.parametrize("images", [1, 5, 11, 64, 1000])
    @pytest.mark.parametrize("count", [1, 2, 3, 5])
    @pytest.mark.parametrize("batch_size", [1, 4, 32])
    def test_every_image_is_in_exactly_one_shard_and_none_is_empty(
        self, images: int, count: int, batch_size: int
    ) -> None:
        if images < count:
            with pytest.raises(FeatureError, match="choose at most"):
                Shard(1, count).rows(images, batch_size)
            return
        parts = [Shard(number, count).rows(images, batch_size) for number in range(1, count + 1)]
        assert [row for part in parts for row in part] == list(range(images))
        assert all(parts)
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= batch_size

    def test_shards_are_cut_between_batches_if_there_are_enough(self) -> None:
        assert [Shard(n, 3).rows(100, 10).start for n in (1, 2, 3)] == [0, 30, 60]
        assert [Shard(n, 3).rows(29, 10).start for n in (1, 2, 3)] == [0, 9, 19]


class TestNames:
    def test_shard_numbers_start_at_1(self) -> None:
        assert Shard.parse("8/8") == Shard(8, 8)
        for wrong in ("0/8", "9/8", "8", "1/", "-1/8", "1/8/2", "a/b", "1 / 8", "²/3"):
            with pytest.raises(FeatureError, match="from 1"):
                Shard.parse(wrong)

    def test_its_file_is_next_to_the_joined_file(self) -> None:
        assert Shard(3, 8).path(Path("a/val.v2.h5")) == Path("a/val.v2.shard-3-of-8.h5")


class TestExtraction:
    def test_shards_hold_what_one_run_holds(
        self, files: list[ImageFile], encoder: Encoder, tmp_path: Path
    ) -> None:
        """Bit for bit: eleven images, two of them broken, batches of three, two shards."""
        extract(files, tmp_path / "one.h5", encoder, batch_size=3)
        whole = FeatureStore(tmp_path / "one.h5")
        listed: list[str] = []
        for number in (1, 2):
            result = extract(
                files, tmp_path / "all.h5", encoder, batch_size=3, shard=Shard(number, 2)
            )
            assert result.path == tmp_path / f"all.shard-{number}-of-2.h5"
            store = FeatureStore(result.path)
            assert np.array_equal(store.read(list(store)), whole.read(list(store)))
            assert store.shard is not None
            assert (store.shard.number, store.shard.start) == (number, len(listed))
            listed += store.listed_ids
        assert listed == list(whole.listed_ids)
        assert whole.shard is None

    def test_a_finished_shard_is_unchanged_and_a_changed_folder_is_detected(
        self, files: list[ImageFile], encoder: Encoder, tmp_path: Path
    ) -> None:
        def work(found: list[ImageFile], batch_size: int = 3) -> int:
            return extract(
                found, tmp_path / "all.h5", encoder, batch_size=batch_size, shard=Shard(1, 2)
            ).extracted

        assert work(files) == 6
        assert work(files) == 0
        with pytest.raises(StoreError, match="holds another part of the images"):
            work(files[:-1])
        with pytest.raises(StoreError, match="same --batch-size"):
            work(files, batch_size=32)
