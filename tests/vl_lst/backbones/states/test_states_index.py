"""An index joins the shards of one extraction, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
import torch
from plain_states import INPUTS, PAIRS, SPEC, TABLE, input_states, pair_states, write_states

from feature_extraction.errors import StoreError
from vl_lst.backbones.states.index import join_states
from vl_lst.backbones.states.layout import ShardOfStates
from vl_lst.backbones.states.reader import StateReader


def shard(number: int, count: int = 2, whole: str = TABLE.sha256) -> ShardOfStates:
    return ShardOfStates(number=number, count=count, whole_sha256=whole)


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """The shards, the second one first."""
    return [
        write_states(tmp_path / "two.h5", rows=[2, 3], shard=shard(2)),
        write_states(tmp_path / "one.h5", rows=[0, 1], shard=shard(1)),
    ]


def test_an_index_reads_like_one_file(tmp_path: Path, shards: list[Path]) -> None:
    join_states(shards, tmp_path / "states.h5")
    join_states(shards[::-1], tmp_path / "states.h5")
    reader = StateReader(tmp_path / "states.h5")
    assert [path.name for path in reader.files] == ["one.h5", "two.h5"]
    assert reader.texts_sha256 == TABLE.sha256
    assert reader.spec == SPEC
    states = reader.encoder.read([INPUTS[3], INPUTS[0]])
    assert torch.equal(states.blocks_KNTD[:, 0, :4], input_states(3)[1:-1])
    assert torch.equal(states.blocks_KNTD[:, 1], input_states(0)[1:-1])
    assert reader.decoder is not None
    assert torch.equal(reader.decoder.read(PAIRS[7:]).embedding_NTD[0], pair_states(7)[0])
    assert reader.output_layer() is not None


def test_the_folder_of_an_index_can_be_moved(tmp_path: Path, shards: list[Path]) -> None:
    (tmp_path / "a").mkdir()
    moved = [path.rename(tmp_path / "a" / path.name) for path in shards]
    join_states(moved, tmp_path / "a" / "states.h5")
    (tmp_path / "a").rename(tmp_path / "b")
    reader = StateReader(tmp_path / "b" / "states.h5")
    assert reader.encoder.missing(INPUTS) == []
    (tmp_path / "b" / "one.h5").unlink()
    with pytest.raises(StoreError, match=r"one of the files it joins cannot be used.*one\.h5"):
        StateReader(tmp_path / "b" / "states.h5")


def test_a_joined_file_that_was_replaced_is_refused(tmp_path: Path, shards: list[Path]) -> None:
    join_states(shards, tmp_path / "states.h5")
    shards[1].unlink()
    write_states(shards[1], rows=[0], shard=shard(1))
    with pytest.raises(StoreError, match=r"one\.h5 has changed since .*it holds other texts"):
        StateReader(tmp_path / "states.h5")
    shards[1].unlink()
    spec = SPEC.model_copy(update={"weights_sha256": "c" * 64})
    write_states(shards[1], spec, rows=[0, 1], shard=shard(1))
    with pytest.raises(StoreError, match="weights_sha256: found cccc"):
        StateReader(tmp_path / "states.h5")


def other_weights(path: Path) -> None:
    spec = SPEC.model_copy(update={"weights_sha256": "c" * 64})
    write_states(path, spec, rows=[0, 1], shard=shard(1))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: write_states(path, rows=[0, 1]), r"other\.h5 is not a shard"),
        (other_weights, "belong to different extractions .*weights_sha256"),
        (
            lambda path: write_states(path, rows=[0, 1], shard=shard(1, whole="c" * 64)),
            "a part of other texts",
        ),
        (lambda path: write_states(path, rows=[0, 1], shard=shard(2)), "are both shard 2"),
        (lambda path: write_states(path, rows=[0], shard=shard(1)), "some are missing"),
        (
            lambda path: write_states(path, rows=[0, 1], shard=shard(1, 3)),
            "belong to different extractions",
        ),
    ],
)
def test_what_does_not_belong_together_is_not_joined(
    tmp_path: Path, shards: list[Path], write: Callable[[Path], object], message: str
) -> None:
    write(tmp_path / "other.h5")
    with pytest.raises(StoreError, match=message):
        join_states([shards[0], tmp_path / "other.h5"], tmp_path / "states.h5")
    assert not (tmp_path / "states.h5").exists()


def test_a_missing_shard_is_named(tmp_path: Path, shards: list[Path]) -> None:
    with pytest.raises(StoreError, match="1 of 2 shards are missing: 1"):
        join_states(shards[:1], tmp_path / "states.h5")


def test_only_an_index_is_replaced(tmp_path: Path, shards: list[Path]) -> None:
    with pytest.raises(StoreError, match=r"one\.h5 exists and is not an index"):
        join_states(shards, shards[1])
    (tmp_path / "below").mkdir()
    with pytest.raises(StoreError, match="the folder of the index, or below it"):
        join_states(shards, tmp_path / "below" / "states.h5")


@pytest.mark.parametrize("name", ["../one.h5", "/etc/passwd", "a%b.h5"])
def test_an_index_cannot_lead_outside_its_folder(
    tmp_path: Path, shards: list[Path], name: str
) -> None:
    join_states(shards, tmp_path / "states.h5")
    with h5py.File(tmp_path / "states.h5", "r+") as file:
        text = file.attrs["state_index"].decode().replace("one.h5", name)
        file.attrs["state_index"] = text
    with pytest.raises(StoreError, match="expected a relative path"):
        StateReader(tmp_path / "states.h5")
