import errno
import os
import random
import shutil
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from kill_at_call import in_child, kill_at_change
from PIL import Image

from feature_extraction.encoders.encoder import Encoder, build_encoder, encode_image
from feature_extraction.errors import EncoderError, ImageError, StoreError
from feature_extraction.extract import extract
from feature_extraction.images.finding import ImageFile, find_images
from feature_extraction.store import resumable_writer, writer
from feature_extraction.store.outputs import partial_folder
from feature_extraction.store.store import FeatureStore

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)

BATCH = 3


class TestResult:
    def test_features_equal_those_of_each_image_alone(
        self, photographs: Path, encoder: Encoder, tmp_path: Path
    ) -> None:
        seen: list[tuple[int, int]] = []
        result = extract(
            photographs,
            tmp_path / "new" / "folder" / "out.h5",
            encoder,
            batch_size=4,
            on_progress=lambda done, total, note="": seen.append((done, total)),
        )
        store = FeatureStore(result.path)
        for file in find_images(photographs):
            if file.image_id in result.failures:
                continue
            alone = encode_image(file.path, encoder)
            np.testing.assert_allclose(store[file.image_id], alone, rtol=2e-3, atol=1e-3)
            with Image.open(file.path) as image:
                assert store.image_size(file.image_id) == (image.height, image.width)
        assert seen == [(4, 11), (8, 11), (11, 11)]
        assert (result.images, result.extracted) == (11, 11)
        assert result.file_bytes == result.path.stat().st_size
        assert result.images_per_second > 0
        assert os.listdir(result.path.parent) == ["out.h5"]

    def test_failures_are_recorded_with_their_reasons(
        self, photographs: Path, encoder: Encoder, tmp_path: Path
    ) -> None:
        result = extract(photographs, tmp_path / "out.h5", encoder, batch_size=BATCH)
        assert set(result.failures) == {"photo3-empty", "photo5-page"}
        assert result.failures["photo3-empty"] == "the file is empty"
        assert "not an image" in result.failures["photo5-page"]
        with h5py.File(tmp_path / "out.h5") as file:
            assert not file["features"][4].any()
            assert file["image_size"][4].tolist() == [0, 0]

    def test_a_reason_with_unusual_characters_can_be_stored(
        self,
        files: list[ImageFile],
        encoder: Encoder,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def quote(*_: object) -> None:
            raise ImageError("starts with \0 and \udce9")

        monkeypatch.setattr("feature_extraction.images.decoding_process.decode_image", quote)
        result = extract(files, tmp_path / "out.h5", encoder)
        assert set(result.failures.values()) == {r"starts with \0 and \udce9"}
        assert len(FeatureStore(tmp_path / "out.h5")) == 0

    def test_decoding_in_workers_changes_nothing(
        self, photographs: Path, encoder: Encoder, tmp_path: Path, uninterrupted: bytes
    ) -> None:
        extract(photographs, tmp_path / "out.h5", encoder, batch_size=BATCH, workers=2)
        assert (tmp_path / "out.h5").read_bytes() == uninterrupted

    def test_the_callers_random_state_is_unchanged(
        self, photographs: Path, encoder: Encoder, tmp_path: Path
    ) -> None:
        before = torch.random.get_rng_state()
        extract(photographs, tmp_path / "out.h5", encoder)
        assert torch.equal(before, torch.random.get_rng_state())

    def test_features_that_are_not_finite_are_an_error(
        self, files: list[ImageFile], resnet_folder: Path, tmp_path: Path
    ) -> None:
        encoder = build_encoder(resnet_folder, device="cpu")
        encoder._module.layer4[0].conv1.weight.fill_(torch.inf)
        with pytest.raises(EncoderError, match="'photo0'.*not finite"):
            extract(files, tmp_path / "out.h5", encoder)
        assert not (tmp_path / "out.h5").exists()


class TestBeforeDecoding:
    """Errors that are raised before any image is decoded."""

    def test_no_images(self, encoder: Encoder, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="no images"):
            extract(tmp_path, tmp_path / "out.h5", encoder)

    def test_the_output_is_a_folder(
        self, files: list[ImageFile], encoder: Encoder, tmp_path: Path
    ) -> None:
        with pytest.raises(StoreError, match="is a folder"):
            extract(files, tmp_path, encoder)

    def test_the_output_cannot_be_written(
        self, files: list[ImageFile], encoder: Encoder, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="cannot write"):
            extract(files, tmp_path / "file" / "out.h5", encoder)

    def test_a_store_with_other_settings(
        self, files: list[ImageFile], encoder: Encoder, resnet_folder: Path, tmp_path: Path
    ) -> None:
        extract(files, tmp_path / "out.h5", encoder)
        other = build_encoder(resnet_folder, image_size=96, device="cpu")
        with pytest.raises(StoreError, match="image_size: found 64, expected 96"):
            extract(files, tmp_path / "out.h5", other)

    def test_a_store_with_other_images(
        self, photographs: Path, encoder: Encoder, tmp_path: Path
    ) -> None:
        extract(photographs, tmp_path / "out.h5", encoder)
        (photographs / "photo0.png").rename(photographs / "new.png")
        with pytest.raises(StoreError, match=r"1 \(new\) are new, 1 \(photo0\) are missing"):
            extract(photographs, tmp_path / "out.h5", encoder)

    def test_a_file_that_is_not_a_store(
        self, files: list[ImageFile], encoder: Encoder, tmp_path: Path
    ) -> None:
        (tmp_path / "out.h5").write_text("some text")
        with pytest.raises(StoreError, match="cannot be read as an HDF5 feature store"):
            extract(files, tmp_path / "out.h5", encoder)
        assert (tmp_path / "out.h5").read_text() == "some text"

    def test_too_little_space(
        self,
        files: list[ImageFile],
        encoder: Encoder,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        usage = shutil.disk_usage(tmp_path)._replace(free=100)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(StoreError, match="need 22.0 KiB, but 100 bytes are free"):
            extract(files, tmp_path / "out.h5", encoder)

    def test_another_process_with_the_same_output(
        self, files: list[ImageFile], encoder: Encoder, tmp_path: Path
    ) -> None:
        out, ids = tmp_path / "out.h5", [file.image_id for file in files]

        def work() -> None:
            with pytest.raises(StoreError, match="another process"):
                extract(files, out, encoder)

        with writer.StoreWriter(out, encoder.spec, ids) as held:
            assert in_child(work) == 0
            assert (held.status == 0).all()
        extract(files, out, encoder)


class TestSecondRun:
    def test_a_finished_store_is_not_changed(
        self, photographs: Path, encoder: Encoder, tmp_path: Path
    ) -> None:
        extract(photographs, tmp_path / "out.h5", encoder)
        before = (tmp_path / "out.h5").stat()
        result = extract(photographs, tmp_path / "out.h5", encoder)
        after = (tmp_path / "out.h5").stat()
        assert (result.extracted, len(result.failures)) == (0, 2)
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    def test_a_replaced_image_is_tried_again(
        self, photographs: Path, encoder: Encoder, tmp_path: Path
    ) -> None:
        """The store equals one whose images could all be decoded from the start."""
        extract(photographs, tmp_path / "out.h5", encoder, batch_size=BATCH)
        Image.new("RGB", (30, 20), "teal").save(photographs / "photo3-empty.jpg")
        result = extract(photographs, tmp_path / "out.h5", encoder, batch_size=BATCH)
        assert (result.extracted, list(result.failures)) == (BATCH, ["photo5-page"])
        extract(photographs, tmp_path / "fresh.h5", encoder, batch_size=BATCH)
        assert (tmp_path / "out.h5").read_bytes() == (tmp_path / "fresh.h5").read_bytes()

    def test_an_unfinished_store_with_other_settings_is_an_error(
        self, files: list[ImageFile], encoder: Encoder, resnet_folder: Path, tmp_path: Path
    ) -> None:
        ids = [file.image_id for file in files]
        with writer.StoreWriter(tmp_path / "out.h5", encoder.spec, ids):
            pass
        other = build_encoder(resnet_folder, resize="letterbox", device="cpu")
        with pytest.raises(StoreError, match="resize: found squash, expected letterbox"):
            extract(files, tmp_path / "out.h5", other)
        with pytest.raises(StoreError, match="images: found 11, expected 10"):
            extract(files[1:], tmp_path / "out.h5", encoder)


class TestKilled:
    """After a kill at any time, the finished file is identical to that of an uninterrupted run."""

    @pytest.mark.parametrize("before", [True, False])
    def test_at_every_step_that_changes_files(
        self,
        files: list[ImageFile],
        encoder: Encoder,
        tmp_path: Path,
        uninterrupted: bytes,
        before: bool,
    ) -> None:
        out = tmp_path / "out.h5"
        for number in range(1, 200):

            def work(number: int = number) -> None:
                kill_at_change(number, writer, before=before)
                extract(files, out, encoder, batch_size=BATCH)

            code = in_child(work)
            extract(files, out, encoder, batch_size=BATCH)
            assert out.read_bytes() == uninterrupted
            assert not partial_folder(out).exists()
            out.unlink()
            if code == 0:
                break
            assert code == -signal.SIGKILL
        assert number > 20

    def test_repeatedly_at_random_instants(
        self, files: list[ImageFile], encoder: Encoder, tmp_path: Path, uninterrupted: bytes
    ) -> None:
        """Each run is killed after some milliseconds, and the next one resumes it."""
        out, generator = tmp_path / "out.h5", random.Random(7)

        def work() -> None:
            resumable_writer.SECONDS_BETWEEN_COMMITS = 0.0
            extract(
                files, out, encoder, batch_size=BATCH,
                on_progress=lambda done, total, note="": time.sleep(0.02),
            )  # fmt: skip

        for _ in range(12):
            in_child(work, kill_after=generator.uniform(0.0, 0.15))
        extract(files, out, encoder, batch_size=BATCH)
        assert out.read_bytes() == uninterrupted

    @pytest.mark.parametrize("cut", [1, 5, 40])
    def test_with_a_truncated_last_line_in_the_journal(
        self,
        files: list[ImageFile],
        encoder: Encoder,
        tmp_path: Path,
        uninterrupted: bytes,
        cut: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """As after a power failure during an append."""
        out = tmp_path / "out.h5"
        monkeypatch.setattr(resumable_writer, "SECONDS_BETWEEN_COMMITS", 0.0)

        def stop(done: int, total: int, note: str = "") -> None:
            if done >= 6:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            extract(files, out, encoder, batch_size=BATCH, on_progress=stop)
        assert not out.exists()
        journal = partial_folder(out) / "journal.jsonl"
        journal.write_bytes(journal.read_bytes()[:-cut])
        result = extract(files, out, encoder, batch_size=BATCH)
        assert result.extracted == 8
        assert out.read_bytes() == uninterrupted


class TestNoSpace:
    @pytest.mark.parametrize("name", ["pwrite", "write", "fsync", "truncate"])
    def test_it_is_an_error_and_can_be_resumed(
        self,
        files: list[ImageFile],
        encoder: Encoder,
        tmp_path: Path,
        uninterrupted: bytes,
        name: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        out, original, count = tmp_path / "out.h5", getattr(os, name), 0

        def full(*args: object) -> object:
            nonlocal count
            count += 1
            # The first calls start the journal; the disk fills up after them.
            if count > 2 or name == "truncate":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(resumable_writer, "SECONDS_BETWEEN_COMMITS", 0.0)
            patch.setattr(os, name, full)
            with pytest.raises(StoreError, match="no space left.*run the same command again"):
                extract(files, out, encoder, batch_size=BATCH)
            assert not out.exists()
        extract(files, out, encoder, batch_size=BATCH)
        assert out.read_bytes() == uninterrupted
