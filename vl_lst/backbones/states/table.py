"""Which encoder inputs and pairs a file of states holds, and how many bytes they take.

N texts of one stack: encoder inputs, or pairs of an encoder input and an answer.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vl_lst.backbones.states.keys import KEY_BYTES
from vl_lst.backbones.states.spec import DTYPES, StateSpec

__all__ = ["MAX_TOKENS", "StateTable", "Texts", "concatenate", "expected_bytes"]

# Tokens per text.
MAX_TOKENS = 2**16
# Upper bound on the structures of HDF5, the spec, and the gaps between blocks.
OVERHEAD_BYTES = 2**17


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Keys and lengths of texts, in file order.

    Args:
        keys_N: Keys, uint8 `[N, 16]`.
        length_N: Tokens per text, int32.
    """

    keys_N: NDArray[np.uint8]
    length_N: NDArray[np.int32]

    @classmethod
    def of(cls, texts: Iterable[tuple[bytes, int]]) -> Self:
        """Return a table of keys, each with the number of tokens that the backbone reads."""
        pairs = list(texts)
        keys = np.frombuffer(b"".join(key for key, _ in pairs), np.uint8)
        lengths = np.array([length for _, length in pairs], np.int32)
        return cls(keys.reshape(-1, KEY_BYTES), lengths)

    def __len__(self) -> int:
        """Return N."""
        return len(self.length_N)

    @property
    def tokens(self) -> int:
        """Number of tokens of all texts."""
        return int(self.length_N.sum(dtype=np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class StateTable:
    """The texts of one file.

    Args:
        inputs: Encoder inputs. If the encoder reads images, lengths include their tokens.
        pairs: Pairs of an encoder input and an answer; empty without a decoder. Lengths are those
            of the decoder's ids.
    """

    inputs: Texts
    pairs: Texts

    @property
    def sha256(self) -> str:
        """SHA-256 of all keys and lengths, in order."""
        digest = hashlib.sha256()
        for texts in (self.inputs, self.pairs):
            digest.update(f"{len(texts)}\n".encode())
            digest.update(texts.keys_N.tobytes())
            digest.update(texts.length_N.astype("<i4").tobytes())
        return digest.hexdigest()


def concatenate(parts: Sequence[Texts]) -> Texts:
    """Return the texts of all parts, one part after another."""
    return Texts(
        np.concatenate([part.keys_N for part in parts]),
        np.concatenate([part.length_N for part in parts]),
    )


def expected_bytes(spec: StateSpec, table: StateTable) -> int:
    """Return the size of a file in bytes, to within `OVERHEAD_BYTES`.

    Args:
        spec: Settings of the states.
        table: The texts.
    """
    size = OVERHEAD_BYTES
    for stack, texts in ((spec.encoder, table.inputs), (spec.decoder, table.pairs)):
        if stack is not None:
            size += texts.tokens * stack.planes * stack.width * spec.itemsize
            size += len(texts) * (KEY_BYTES + np.dtype(np.int32).itemsize)
    if spec.output is not None:
        rows = spec.output.width + spec.output.has_bias
        size += spec.output.vocabulary_size * rows * DTYPES[spec.output.dtype].itemsize
    return size
