"""A full disk gives one error message, and never a crash of HDF5."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from plain_stores import SPEC, write_store

from feature_extraction.store.hdf5_writer import Hdf5Writer, memory_file
from feature_extraction.store.layout import Metadata, write_layout

# A limit on the file size simulates a full disk: the system refuses the write. Each attempt
# runs in its own process, because HDF5 may crash it as late as when Python exits.
PROGRAM = """
import os, resource, signal, sys
from pathlib import Path
from feature_extraction.exchange.compression import compress_store
from feature_extraction.errors import FeatureError
from feature_extraction.exchange.exporting import export_features
from feature_extraction.exchange.join import join_stores
from feature_extraction.store.store import FeatureStore

work, folder, limits = sys.argv[1], Path(sys.argv[2]), map(int, sys.argv[3:])
one, two = folder / "one.h5", folder / "two.h5"
if work == "arrow":
    import datasets  # takes seconds, so once for all attempts
for limit in limits:
    child = os.fork()
    if not child:
        break
    _, status = os.waitpid(child, 0)
    left = set(os.listdir(folder)) - {"one.h5", "two.h5"}
    print(os.waitstatus_to_exitcode(status), *sorted(left))
else:
    sys.exit()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    if work in ("h5", "arrow"):
        export_features(FeatureStore(one), folder / "out", work)
    elif work == "compress":
        compress_store(one, folder / "out.h5")
    else:
        join_stores([one, two], folder / "out.h5", copy=work == "copy")
except FeatureError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.mark.parametrize("work", ["h5", "arrow", "compress", "join", "copy"])
def test_no_command_is_ended_by_a_signal(tmp_path: Path, work: str) -> None:
    write_store(tmp_path / "one.h5", [f"a{number}" for number in range(50)])
    write_store(tmp_path / "two.h5", [f"b{number}" for number in range(50)])
    limits = ["900", "1800", str(2**30)]
    command = [sys.executable, "-u", "-W", "ignore", "-c", PROGRAM, work, str(tmp_path), *limits]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    attempts = [line.split() for line in ended.stdout.splitlines()]
    assert [code for code, *_ in attempts] == ["1", "1", "0"], ended
    for _, *left in attempts[:2]:
        assert set(left) <= {"out.h5.partial"}
    messages = ended.stderr.splitlines()
    assert len(messages) == 2
    for message in messages:
        assert message.startswith("refused: ")
        assert "space" in message
        assert f"{tmp_path}/out" in message
    assert not list(tmp_path.glob("*.partial"))


class TestWriter:
    def test_after_the_first_failed_write_hdf5_finds_all_it_wrote(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Otherwise its state is damaged, and the process crashes at exit."""
        original, written = os.pwrite, 0

        def full(handle: int, data: memoryview, offset: int) -> int:
            nonlocal written
            written += len(data)
            if written > 1000:
                raise OSError(28, "No space left on device")
            return original(handle, data, offset)

        monkeypatch.setattr(os, "pwrite", full)
        writer = Hdf5Writer(tmp_path / "x.h5")
        with pytest.raises(OSError, match="No space left"), writer:
            writer.do(lambda file: file.create_dataset("x", data=np.arange(1000)))

    def test_an_error_in_the_block_is_the_one_that_is_raised(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError), Hdf5Writer(tmp_path / "x.h5") as writer:
            writer.do(lambda file: file["nothing"])


def test_space_for_features_takes_no_memory_until_it_is_written(tmp_path: Path) -> None:
    ids = [f"image{number}" for number in range(200_000)]
    metadata = Metadata(
        spec=SPEC,
        image_ids=ids,
        status=np.zeros(len(ids), np.uint8),
        image_size=np.zeros((len(ids), 2), np.int32),
        reasons=[""] * len(ids),
    )
    with memory_file() as handle:
        offset = write_layout(handle, tmp_path / "layout", metadata)
        found = os.fstat(handle)
    assert found.st_size > offset + len(ids) * 2 * SPEC.tokens * SPEC.channels
    assert found.st_blocks * 512 < found.st_size / 2
