"""`vl-lst join-states`: the index is written, and a problem is one message."""

from pathlib import Path

import pytest
import torch

from vl_lst.backbones.states.keys import input_key
from vl_lst.backbones.states.layout import ShardOfStates
from vl_lst.backbones.states.reader import StateReader
from vl_lst.backbones.states.spec import StackSpec, StateSpec
from vl_lst.backbones.states.table import StateTable, Texts
from vl_lst.backbones.states.writer import StateWriter
from vl_lst.cli import main

KEYS = [input_key([number]) for number in range(2)]
NO_PAIRS = Texts.of(())


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    spec = StateSpec(
        backbone="tiny",
        weights_sha256="a" * 64,
        precision="fp32",
        vocabulary=None,
        tokenizer_sha256="b" * 64,
        encoder=StackSpec(layers=(0,), width=3, has_final=False),
        decoder=None,
        dtype="float32",
    )
    whole = StateTable(Texts.of((key, 1) for key in KEYS), NO_PAIRS).sha256
    paths = [tmp_path / f"states.shard-{number}-of-2.h5" for number in (1, 2)]
    for number, (path, key) in enumerate(zip(paths, KEYS, strict=True), start=1):
        shard = ShardOfStates(number=number, count=2, whole_sha256=whole)
        table = StateTable(Texts.of([(key, 1)]), NO_PAIRS)
        with StateWriter(path, spec, table, shard=shard) as writer:
            writer.write_inputs(0, [torch.zeros(2, 1, 3)])
            writer.finish()
    return list(map(str, paths))


def test_shards_are_joined(
    tmp_path: Path, shards: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "states.h5"
    assert main(["join-states", *shards, "--out", str(out)]) == 0
    assert "2 prompts and 0 answers, an index of 2 files" in capsys.readouterr().out
    assert StateReader(out).encoder.missing(KEYS) == []


def test_a_missing_shard_is_named(
    tmp_path: Path, shards: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "states.h5"
    assert main(["join-states", shards[1], "--out", str(out)]) == 1
    assert "1 of 2 shards are missing: 1" in capsys.readouterr().err
    assert not out.exists()
