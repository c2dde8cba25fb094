"""Decoding processes: their results, how far they decode ahead, and how they end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from decoding_processes import change_decoding, decoding_processes

from feature_extraction.encoders.encoder import Encoder
from feature_extraction.errors import FeatureError
from feature_extraction.images.decoding_pool import DecodedBatch, decoded_batches
from feature_extraction.images.finding import ImageFile
from feature_extraction.spec import FeatureSpec

BATCH = 2


@pytest.fixture(scope="module")
def spec(encoder: Encoder) -> FeatureSpec:
    return encoder.spec


class TrackedFiles(Sequence[ImageFile]):
    """An image list that records the last row that was requested."""

    def __init__(self, files: Sequence[ImageFile]) -> None:
        self.files = files
        self.last_row = 0

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, wanted: slice) -> Sequence[ImageFile]:  # type: ignore[override]
        self.last_row = max(self.last_row, wanted.start)
        return self.files[wanted]


def copies(batches: Iterator[DecodedBatch]) -> list[DecodedBatch]:
    return [
        DecodedBatch(batch.start, batch.pixels.copy(), batch.image_size.copy(), batch.reasons)
        for batch in batches
    ]


def test_batches_equal_those_decoded_in_this_process_and_are_in_order(
    files: list[ImageFile], spec: FeatureSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With three processes, a slow first batch, and two broken images of eleven."""
    starts = range(0, len(files), BATCH)
    slow = """
        def decode_image(path, side):
            time.sleep(0.3 * (path.stem == "photo0"))
            return original(path, side)
        """
    change_decoding(slow, tmp_path, monkeypatch)
    found = []
    for workers in (0, 3):
        with decoded_batches(files, starts, spec, batch_size=BATCH, workers=workers) as batches:
            found.append(copies(batches))
    for expected, batch in zip(*found, strict=True):
        assert (batch.start, batch.reasons) == (expected.start, expected.reasons)
        assert np.array_equal(batch.pixels, expected.pixels)
        assert np.array_equal(batch.image_size, expected.image_size)
    assert [batch.start for batch in found[0]] == list(starts)
    assert sum(map(bool, (reason for batch in found[1] for reason in batch.reasons))) == 2
    assert decoding_processes(os.getpid()) == []


def test_a_reused_slot_has_no_pixels_of_an_earlier_batch(
    files: list[ImageFile], spec: FeatureSpec
) -> None:
    broken = [file for file in files if file.path.suffix == ".jpg"]
    listed = [files[0], broken[0]] * 4
    with decoded_batches(listed, range(8), spec, batch_size=1, workers=1) as batches:
        for batch in batches:
            assert batch.pixels.any() == batch.image_size.any() == (batch.start % 2 == 0)


def test_they_decode_only_a_few_batches_ahead(files: list[ImageFile], spec: FeatureSpec) -> None:
    listed = TrackedFiles(files * 10)
    with decoded_batches(listed, range(110), spec, batch_size=1, workers=2) as batches:
        for batch in batches:
            assert listed.last_row <= batch.start + 4


class TestUnexpectedExit:
    def test_the_message_is_the_same_each_time(
        self, files: list[ImageFile], spec: FeatureSpec
    ) -> None:
        """Killed at any time, from before Python starts until after several batches."""

        def work(kill_at: int) -> None:
            with decoded_batches(
                files * 100, range(0, 1100, BATCH), spec, batch_size=BATCH, workers=2
            ) as batches:
                processes = decoding_processes(os.getpid())
                for count, _ in enumerate(batches):
                    if count == kill_at:
                        os.kill(processes[kill_at % 2], signal.SIGKILL)

        for number in (0, 1, 2, 3, 4, 7, 12, 19):
            with pytest.raises(
                FeatureError,
                match=r"^a decoding process exited unexpectedly \(killed by SIGKILL\)( while it "
                r"decoded .*)?, possibly because it ran out of memory\. Finished batches are kept",
            ):
                work(number)
            assert decoding_processes(os.getpid()) == []

    def test_the_image_being_decoded_is_named(
        self,
        files: list[ImageFile],
        spec: FeatureSpec,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A decoder may crash for one image."""
        crash = """
            def decode_image(path, side):
                if path.stem == "photo4":
                    os.kill(os.getpid(), signal.SIGSEGV)
                return original(path, side)
            """
        change_decoding(crash, tmp_path, monkeypatch)
        with (
            decoded_batches(files, [0, 2, 4], spec, batch_size=2, workers=1) as batches,
            pytest.raises(
                FeatureError, match=r"by SIGSEGV\) while it decoded .*photo4\.png, possibly"
            ),
        ):
            copies(batches)

    def test_a_process_that_cannot_start_is_an_error(
        self,
        files: list[ImageFile],
        spec: FeatureSpec,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (tmp_path / "sitecustomize.py").write_text("import os; os._exit(7)")
        monkeypatch.syspath_prepend(tmp_path)
        with (
            decoded_batches(files, [0, 2], spec, batch_size=2, workers=2) as batches,
            pytest.raises(FeatureError, match=r"unexpectedly \(exit code 7\); see its output"),
        ):
            copies(batches)


def test_they_do_not_import_torch() -> None:
    """It would cost each of them seconds and half a gigabyte."""
    code = (
        "import sys, feature_extraction.images.decoding_process; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
