"""Texts to token ids and back, each distinct text tokenised once.

R texts, X tokens.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["Texts", "pad_rows"]

# Questions repeat: VQA v2's 440,000 training questions are 150,000 distinct ones.
CACHED_TEXTS = 2**17


class Texts:
    """A tokenizer with a memory; pickles without what it remembers.

    Args:
        tokenizer: A Hugging Face tokenizer with padding and end-of-sequence tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.pad_token_id = int(tokenizer.pad_token_id)
        self.eos_token_id = int(tokenizer.eos_token_id)
        self.unk_token_id: int | None = getattr(tokenizer, "unk_token_id", None)
        self._remembered = lru_cache(CACHED_TEXTS)(self._tokenise)

    def encode(self, text: str, most_tokens: int) -> tuple[int, ...]:
        """Token ids of a text, cut to `most_tokens` of which the last is end-of-sequence."""
        return (*self._remembered(text)[: most_tokens - 1], self.eos_token_id)

    def encode_all(self, texts: Sequence[str], most_tokens: int, *, padding: int) -> Tensor:
        """Token ids [R, X] of several texts, `padding` behind each."""
        return pad_rows([self.encode(text, most_tokens) for text in texts], padding=padding)

    def tokenise_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of several texts at once, uncut, without end-of-sequence, not remembered."""
        ids: list[list[int]] = self._tokenizer(
            list(texts), add_special_tokens=False, verbose=False
        ).input_ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated token ids, special tokens left out."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    def __getstate__(self) -> dict[str, Any]:
        return {"_tokenizer": self._tokenizer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_tokenizer"])  # type: ignore[misc]

    def _tokenise(self, text: str) -> tuple[int, ...]:
        # Not verbose: it would warn of lengths that are cut here, or that T5 has no limit for.
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return tuple(ids)


def pad_rows(rows: Sequence[Sequence[int]], *, padding: int) -> Tensor:
    """Stack rows [R, X] of different lengths, `padding` behind the shorter ones."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
