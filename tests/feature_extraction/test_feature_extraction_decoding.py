"""Decoding processes: what comes out, how far they run ahead, and how they end."""

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
from feature_extraction.images.decode import ImageFile
from feature_extraction.images.decoding_pool import SquareBatch, decoded_batches
from feature_extraction.spec import FeatureSpec

BATCH = 2


@pytest.fixture(scope="module")
def spec(encoder: Encoder) -> FeatureSpec:
    return encoder.spec


class Watched(Sequence[ImageFile]):
    """An image list that remembers how far it was asked for."""

    def __init__(self, files: Sequence[ImageFile]) -> None:
        self.files = files
        self.furthest = 0

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, wanted: slice) -> Sequence[ImageFile]:  # type: ignore[override]
        self.furthest = max(self.furthest, wanted.start)
        return self.files[wanted]


def kept(batches: Iterator[SquareBatch]) -> list[SquareBatch]:
    return [
        SquareBatch(batch.start, batch.pixels.copy(), batch.image_size.copy(), batch.reasons)
        for batch in batches
    ]


def test_what_comes_out_is_what_is_decoded_here_in_order(
    files: list[ImageFile], spec: FeatureSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three processes, the first batch the slowest; two of eleven images are broken."""
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
            found.append(kept(batches))
    for here, there in zip(*found, strict=True):
        assert (here.start, here.reasons) == (there.start, there.reasons)
        assert np.array_equal(here.pixels, there.pixels)
        assert np.array_equal(here.image_size, there.image_size)
    assert [batch.start for batch in found[0]] == list(starts)
    assert sum(map(bool, (reason for batch in found[1] for reason in batch.reasons))) == 2
    assert decoding_processes(os.getpid()) == []


def test_a_slot_used_again_holds_nothing_of_what_was_in_it(
    files: list[ImageFile], spec: FeatureSpec
) -> None:
    broken = [file for file in files if file.path.suffix == ".jpg"]
    listed = [files[0], broken[0]] * 4
    with decoded_batches(listed, range(8), spec, batch_size=1, workers=1) as batches:
        for batch in batches:
            assert batch.pixels.any() == batch.image_size.any() == (batch.start % 2 == 0)


def test_they_run_ahead_by_a_few_batches_only(files: list[ImageFile], spec: FeatureSpec) -> None:
    listed = Watched(files * 10)
    with decoded_batches(listed, range(110), spec, batch_size=1, workers=2) as batches:
        for batch in batches:
            assert listed.furthest <= batch.start + 4


class TestDeath:
    def test_it_gives_the_same_message_each_of_twenty_times(
        self, files: list[ImageFile], spec: FeatureSpec
    ) -> None:
        """At whatever instant, from before Python has started to after several batches."""

        def work(kill_at: int) -> None:
            with decoded_batches(
                files * 100, range(0, 1100, BATCH), spec, batch_size=BATCH, workers=2
            ) as batches:
                processes = decoding_processes(os.getpid())
                for count, _ in enumerate(batches):
                    if count == kill_at:
                        os.kill(processes[kill_at % 2], signal.SIGKILL)

        for number in range(20):
            with pytest.raises(
                FeatureError,
                match=r"^a decoding process died \(killed by SIGKILL\)( at .*)?, perhaps for lack "
                r"of memory\. What is done is kept: run the same command again",
            ):
                work(number)
            assert decoding_processes(os.getpid()) == []

    def test_the_image_it_was_at_is_named(
        self,
        files: list[ImageFile],
        spec: FeatureSpec,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A decoder may crash on one image: it must be known which."""
        crash = """
            def decode_image(path, side):
                if path.stem == "photo4":
                    os.kill(os.getpid(), signal.SIGSEGV)
                return original(path, side)
            """
        change_decoding(crash, tmp_path, monkeypatch)
        with (
            decoded_batches(files, [0, 2, 4], spec, batch_size=2, workers=1) as batches,
            pytest.raises(FeatureError, match=r"killed by SIGSEGV\) at .*photo4\.png, perhaps"),
        ):
            kept(batches)

    def test_one_that_cannot_start_is_told_as_well(
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
            pytest.raises(FeatureError, match=r"died \(exit code 7\); what it printed says why"),
        ):
            kept(batches)


def test_they_import_no_torch() -> None:
    """Each would take seconds to start, and half a gigabyte."""
    code = (
        "import sys, feature_extraction.images.decoding_process; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
