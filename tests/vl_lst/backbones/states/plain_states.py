"""Small files of states with random values."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vl_lst.backbones.layers import OutputLayer
from vl_lst.backbones.states.keys import input_key, pair_key
from vl_lst.backbones.states.layout import ShardOfStates
from vl_lst.backbones.states.spec import DTYPES, OutputSpec, StackSpec, StateSpec
from vl_lst.backbones.states.table import StateTable, Texts
from vl_lst.backbones.states.writer import StateWriter

__all__ = [
    "INPUTS",
    "LENGTHS",
    "OUTPUT",
    "PAIRS",
    "SPEC",
    "TABLE",
    "input_states",
    "pair_states",
    "write_states",
]

LENGTHS = (5, 3, 1, 4)
INPUTS = [input_key(range(length)) for length in LENGTHS]
# Two answers for each input, of 1 and 2 tokens.
PAIRS = [pair_key(key, answer) for key in INPUTS for answer in ([0], [0, 7])]
TABLE = StateTable(
    Texts.of(zip(INPUTS, LENGTHS, strict=True)),
    Texts.of(zip(PAIRS, (1, 2) * len(INPUTS), strict=True)),
)
SPEC = StateSpec(
    backbone="tiny",
    weights_sha256="a" * 64,
    precision="fp32",
    vocabulary=None,
    tokenizer_sha256="b" * 64,
    encoder=StackSpec(layers=(0, 2, 3), width=6, has_final=True),
    decoder=StackSpec(layers=(1,), width=4, has_final=False),
    dtype="float32",
    output=OutputSpec(vocabulary_size=9, width=4, dtype="bfloat16", has_bias=True),
)
OUTPUT = OutputLayer(
    weight_VW=torch.arange(36.0).reshape(9, 4).to(torch.bfloat16),
    bias_V=torch.arange(9.0).to(torch.bfloat16),
)


def _states(stack: StackSpec, length: int, seed: int) -> Tensor:
    values = np.random.default_rng(seed).normal(size=(stack.planes, length, stack.width))
    return torch.from_numpy(values).float()


def input_states(row: int) -> Tensor:
    """States `[S, T, D]` of one encoder input, in float32."""
    return _states(SPEC.encoder, LENGTHS[row], row)


def pair_states(row: int) -> Tensor:
    """States `[S, L, D]` of one pair, in float32."""
    assert SPEC.decoder is not None
    return _states(SPEC.decoder, 1 + row % 2, 100 + row)


def write_states(
    path: Path,
    spec: StateSpec = SPEC,
    *,
    rows: Sequence[int] = range(len(INPUTS)),
    shard: ShardOfStates | None = None,
) -> Path:
    """Write a file with some inputs and their pairs, two inputs at a time."""
    pairs = [pair for row in rows for pair in (2 * row, 2 * row + 1) if spec.decoder]
    table = StateTable(
        Texts.of((INPUTS[row], LENGTHS[row]) for row in rows),
        Texts.of((PAIRS[pair], 1 + pair % 2) for pair in pairs),
    )
    output = None if spec.output is None else OUTPUT
    with StateWriter(path, spec, table, output=output, shard=shard) as writer:
        for start in range(0, len(rows), 2):
            stop = min(start + 2, len(rows))
            if not writer.inputs_done[start:stop].all():
                states = [input_states(row).to(DTYPES[spec.dtype]) for row in rows[start:stop]]
                writer.write_inputs(start, states)
            if spec.decoder and not writer.pairs_done[2 * start : 2 * stop].all():
                writer.write_pairs(2 * start, list(map(pair_states, pairs[2 * start : 2 * stop])))
        writer.finish()
    return path
