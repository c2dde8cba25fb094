"""Writing states can be killed at any step, and refuses what it cannot write."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kill_at_call import in_child, kill_at_change
from plain_states import OUTPUT, SPEC, TABLE, input_states, write_states

from feature_extraction.errors import StoreError
from feature_extraction.store.outputs import partial_folder
from vl_lst.backbones.states import writer
from vl_lst.backbones.states.reader import StateReader
from vl_lst.backbones.states.spec import StateSpec
from vl_lst.backbones.states.table import StateTable, Texts
from vl_lst.backbones.states.writer import StateWriter

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_states(tmp_path_factory.mktemp("whole") / "states.h5").read_bytes()


def test_killed_at_any_step_the_finished_file_is_the_same(
    tmp_path: Path, uninterrupted: bytes
) -> None:
    out = tmp_path / "states.h5"
    for number in range(1, 200):

        def work(number: int = number) -> None:
            kill_at_change(number, writer, before=False)
            write_states(out)

        code = in_child(work)
        if out.exists():
            assert out.read_bytes() == uninterrupted
        write_states(out)
        assert out.read_bytes() == uninterrupted
        assert not partial_folder(out).exists()
        out.unlink()
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert number > 20


def test_what_is_committed_is_not_written_again(tmp_path: Path) -> None:
    out = tmp_path / "states.h5"
    with StateWriter(out, SPEC, TABLE, output=OUTPUT) as first:
        first.write_inputs(1, [input_states(1), input_states(2)])
        with pytest.raises(StoreError, match="10 texts of .* are still pending"):
            first.finish()
    with StateWriter(out, SPEC, TABLE, output=OUTPUT) as second:
        assert second.inputs_done.tolist() == [False, True, True, False]
        assert not second.pairs_done.any()


@pytest.mark.parametrize("name", ["pwrite", "fsync", "truncate"])
def test_a_full_disk_is_an_error_and_writing_can_be_resumed(
    tmp_path: Path, uninterrupted: bytes, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, original, count = tmp_path / "states.h5", getattr(os, name), 0

    def full(*args: object) -> object:
        nonlocal count
        count += 1
        if count > 2 or name == "truncate":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr("feature_extraction.store.resumable_writer.SECONDS_BETWEEN_COMMITS", 0.0)
        patch.setattr(os, name, full)
        with pytest.raises(StoreError, match="no space left.*run the same command again"):
            write_states(out)
        assert not out.exists()
    write_states(out)
    assert out.read_bytes() == uninterrupted


def test_a_disk_that_is_too_small_is_refused_before_work_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = r"of 12 texts need 2.0 KiB, but 1,000 bytes are free.*fewer layers.*--precision bf16"
    with pytest.raises(StoreError, match=message):
        write_states(tmp_path / "states.h5")


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "states.h5"

    def work() -> None:
        with pytest.raises(StoreError, match="another process is writing"):
            write_states(out)

    with StateWriter(out, SPEC, TABLE, output=OUTPUT):
        assert in_child(work) == 0
    write_states(out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "bfloat16"}, "dtype: found float32, expected bfloat16"),
        ({"weights_sha256": "c" * 64}, "weights_sha256: found aaaaaaaaaaaa…, expected cccccccc"),
        ({"packages": {"torch": "1"}}, "the layout|torch"),
    ],
)
def test_unfinished_work_with_other_settings_is_not_continued(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    out = tmp_path / "states.h5"
    with StateWriter(out, SPEC, TABLE, output=OUTPUT):
        pass
    with pytest.raises(StoreError, match=message):
        write_states(out, SPEC.model_copy(update=change))


def test_unfinished_work_on_other_texts_is_not_continued(tmp_path: Path) -> None:
    out = tmp_path / "states.h5"
    with StateWriter(out, SPEC, TABLE, output=OUTPUT):
        pass
    with pytest.raises(StoreError, match="texts: found 12, expected 6"):
        write_states(out, rows=[0, 1])


def test_a_value_that_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"dtype": "float16"})
    states = input_states(0)
    states[1, 2, 3] = -70000
    with StateWriter(tmp_path / "states.h5", spec, TABLE, output=OUTPUT) as out:
        with pytest.raises(StoreError, match="of 'gqa: why' is 7e.04, expected at most 6.55e.04.*"):
            out.write_inputs(0, [states], lambda _: "'gqa: why'")
        assert not out.inputs_done.any()


def test_a_value_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    states = input_states(0)
    states[0, 0, 0] = torch.nan
    with (
        StateWriter(tmp_path / "states.h5", SPEC, TABLE, output=OUTPUT) as out,
        pytest.raises(StoreError, match="a state of text 0 of the encoder that is not finite"),
    ):
        out.write_inputs(0, [states])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (StateTable(TABLE.inputs, Texts.of(())), "no text for the decoder"),
        (StateTable(Texts.of([(bytes(16), 0)]), TABLE.pairs), "have 0 to 0 tokens"),
        (StateTable(Texts.of([(bytes(16), 1)] * 2), TABLE.pairs), "encoder occurs twice"),
    ],
)
def test_texts_that_cannot_be_stored_are_refused(
    tmp_path: Path, table: StateTable, message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        StateWriter(tmp_path / "states.h5", SPEC, table, output=OUTPUT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "write",
    [
        lambda out: out.write_inputs(0, [input_states(1)]),
        lambda out: out.write_pairs(0, [input_states(0)]),
    ],
)
def test_states_of_another_shape_are_an_error_of_the_caller(
    tmp_path: Path, write: Callable[[StateWriter], None]
) -> None:
    with (
        StateWriter(tmp_path / "states.h5", SPEC, TABLE, output=OUTPUT) as out,
        pytest.raises(ValueError, match=r"expected \["),
    ):
        write(out)


def test_a_file_that_is_being_written_cannot_be_read(tmp_path: Path) -> None:
    out = tmp_path / "states.h5"
    spec: StateSpec = SPEC
    with StateWriter(out, spec, TABLE, output=OUTPUT):
        pass
    with pytest.raises(StoreError, match="is not finished: run the same command again"):
        StateReader(out)
    (partial_folder(out) / "features").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be read as an HDF5 state store"):
        StateReader(partial_folder(out) / "features")
