"""Faults during an extraction: a clear error, and finished batches are kept."""

import errno
import importlib.util
import multiprocessing
import os
import resource
import signal
import threading
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from decoding_processes import (
    change_decoding,
    decoding_processes,
    wait_until_gone,
)
from PIL import Image

from feature_extraction.encoders.encoder import Encoder
from feature_extraction.errors import EncoderError, FeatureError, ImageError, StoreError
from feature_extraction.extract import extract
from feature_extraction.images import decode
from feature_extraction.images.decode import decode_image
from feature_extraction.images.finding import ImageFile, find_images
from feature_extraction.store import resumable_writer
from feature_extraction.store.store import FeatureStore

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "kills.py"
BATCH = 3


@pytest.fixture
def kills() -> ModuleType:
    found = importlib.util.spec_from_file_location("kills", BENCHMARK)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_killed_at_random_instants_every_finished_file_is_the_same(
    files: list[ImageFile],
    encoder: Encoder,
    tmp_path: Path,
    kills: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Six SIGKILLs to an extraction in two shards; `benchmarks/kills.py` sends fifty."""
    monkeypatch.setattr(resumable_writer, "SECONDS_BETWEEN_COMMITS", 1.0)
    hit, different = kills.kill_and_finish(files, encoder, tmp_path, kills=6, seed=1)
    assert hit > 0
    assert different == 0


def test_after_a_kill_its_decoding_processes_exit_and_it_can_be_resumed_at_once(
    files: list[ImageFile], encoder: Encoder, tmp_path: Path, uninterrupted: bytes
) -> None:
    out, seen = tmp_path / "out.h5", tmp_path / "processes"

    def die(done: int, total: int, note: str = "") -> None:
        seen.write_text(" ".join(map(str, decoding_processes(os.getpid()))))
        os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        extract(files, out, encoder, batch_size=BATCH, workers=2, on_progress=die)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    extract(files, out, encoder, batch_size=BATCH)
    assert out.read_bytes() == uninterrupted
    found = [int(number) for number in seen.read_text().split()]
    assert len(found) == 2
    wait_until_gone(found)


def test_an_interrupted_extraction_leaves_no_process_and_is_resumed(
    files: list[ImageFile], encoder: Encoder, tmp_path: Path, uninterrupted: bytes
) -> None:
    """Ctrl-C reaches only this process, and encoded batches are written before it exits."""
    out, threads = tmp_path / "out.h5", threading.active_count()

    def interrupt(done: int, total: int, note: str = "") -> None:
        found = decoding_processes(os.getpid())
        assert all(os.getpgid(number) != os.getpgid(0) for number in found)
        if done >= 6:
            assert len(found) == 2
            os.kill(os.getpid(), signal.SIGINT)

    # Tests that a shell starts in the background ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            extract(files, out, encoder, batch_size=BATCH, workers=2, on_progress=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert decoding_processes(os.getpid()) == []
    assert threading.active_count() == threads
    assert not out.exists()
    assert extract(files, out, encoder, batch_size=BATCH, workers=2).extracted == len(files) - 6
    assert out.read_bytes() == uninterrupted
    assert decoding_processes(os.getpid()) == []


class TestDisk:
    def test_a_full_disk(
        self, files: list[ImageFile], encoder: Encoder, tmp_path: Path, uninterrupted: bytes
    ) -> None:
        """Simulated by a limit on the size of files, which makes the system refuse the write."""
        out, message = tmp_path / "out.h5", tmp_path / "message.txt"

        def work() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(uninterrupted) // 2,) * 2)
            resumable_writer.SECONDS_BETWEEN_COMMITS = 0.0
            try:
                extract(files, out, encoder, batch_size=BATCH)
            except StoreError as error:
                message.write_text(str(error))

        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        assert "no space left on the device" in message.read_text()
        assert not out.exists()
        extract(files, out, encoder, batch_size=BATCH)
        assert out.read_bytes() == uninterrupted

    def test_a_read_only_output(
        self,
        files: list[ImageFile],
        encoder: Encoder,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def refuse(path: Path, *_: object, **__: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(StoreError, match=r"cannot write .*Read-only.*Choose a place"):
            extract(files, tmp_path / "out.h5", encoder)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_without_permission(
        self, files: list[ImageFile], encoder: Encoder, tmp_path: Path
    ) -> None:
        folder = tmp_path / "mine"
        folder.mkdir(mode=0o555)
        with pytest.raises(StoreError, match="Permission denied.*Choose a place"):
            extract(files, folder / "out.h5", encoder)


class TestImages:
    def test_a_deleted_image_is_listed_and_added_when_it_is_back(
        self, photographs: Path, encoder: Encoder, tmp_path: Path, uninterrupted: bytes
    ) -> None:
        out, last, moved = tmp_path / "out.h5", photographs / "photo8.png", tmp_path / "moved.png"

        def move(done: int, total: int, note: str = "") -> None:
            if last.exists():
                last.rename(moved)

        result = extract(photographs, out, encoder, batch_size=BATCH, on_progress=move)
        assert result.failures["photo8"] == "the file does not exist"
        assert len(FeatureStore(out)) == 8
        moved.rename(last)
        extract(photographs, out, encoder, batch_size=BATCH)
        assert out.read_bytes() == uninterrupted

    def test_an_image_that_changes_while_it_is_read_is_an_error(
        self, photographs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, original = photographs / "photo0.png", decode._decode

        def rewritten(image: Image.Image, side: int) -> decode.Decoded:
            decoded = original(image, side)
            path.write_bytes(path.read_bytes() + b"more")
            return decoded

        monkeypatch.setattr(decode, "_decode", rewritten)
        with pytest.raises(ImageError, match="changed while it was read"):
            decode_image(path, 32)

    def test_adding_an_image_does_not_change_others_of_its_batch(
        self, photographs: Path, encoder: Encoder, tmp_path: Path
    ) -> None:
        """Another image of the batch has been damaged since; its features are kept."""
        out = tmp_path / "out.h5"
        extract(photographs, out, encoder, batch_size=BATCH)
        before = FeatureStore(out)["photo4"]
        Image.new("RGB", (30, 20), "teal").save(photographs / "photo3-empty.jpg")
        (photographs / "photo4.png").write_bytes(b"damaged")
        result = extract(photographs, out, encoder, batch_size=len(find_images(photographs)))
        assert set(result.failures) == {"photo5-page"}
        assert np.array_equal(FeatureStore(out)["photo4"], before)


class TestFinishedBatches:
    """Batches finished before the fault are kept, even less than a second before it."""

    def test_features_that_are_not_finite(
        self,
        files: list[ImageFile],
        encoder: Encoder,
        tmp_path: Path,
        uninterrupted: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        out, original, calls = tmp_path / "out.h5", encoder.encode, 0

        def broken(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise EncoderError("the features of image 'x' are not finite")
            return original(*arguments)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(encoder, "encode", broken)
            with pytest.raises(EncoderError, match="not finite"):
                extract(files, out, encoder, batch_size=BATCH)
        assert not out.exists()
        assert extract(files, out, encoder, batch_size=BATCH).extracted == 5
        assert out.read_bytes() == uninterrupted

    def test_a_decoding_process_that_is_killed(
        self,
        files: list[ImageFile],
        encoder: Encoder,
        tmp_path: Path,
        uninterrupted: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It waits until the first batch is finished, and is killed at the last photograph."""
        out, mark = tmp_path / "out.h5", tmp_path / "first-batch-done"
        code = f"""
            def decode_image(path, side):
                if path.stem == "photo8":
                    while not os.path.exists({str(mark)!r}):
                        time.sleep(0.01)
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(path, side)
            """
        with monkeypatch.context() as patch:
            change_decoding(code, tmp_path, patch)
            with pytest.raises(
                FeatureError,
                match=r"decoding process exited unexpectedly \(killed by SIGKILL\) while it "
                r"decoded .*photo8\.png, .*Finished batches are kept: run the same command again",
            ):
                extract(
                    files, out, encoder, batch_size=BATCH, workers=1,
                    on_progress=lambda done, total, note="": mark.touch(),
                )  # fmt: skip
        assert decoding_processes(os.getpid()) == []
        result = extract(files, out, encoder, batch_size=BATCH)
        assert 0 < result.extracted < len(files)
        assert out.read_bytes() == uninterrupted

    def test_a_disk_that_fills_up_during_decoding(
        self,
        files: list[ImageFile],
        encoder: Encoder,
        tmp_path: Path,
        uninterrupted: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The error occurs in the writing thread; the extraction reports it and writes no more."""
        out, original, calls = tmp_path / "out.h5", os.pwrite, 0

        def full(handle: int, data: memoryview, offset: int) -> int:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(handle, data, offset)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(StoreError, match=r"no space left .* 3 of 11 images are done"):
                extract(files, out, encoder, batch_size=BATCH, workers=2)
        assert calls == 2
        assert decoding_processes(os.getpid()) == []
        extract(files, out, encoder, batch_size=BATCH)
        assert out.read_bytes() == uninterrupted
