"""Tokenizer that caches the token ids of each text.

R texts, X tokens.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["CachingTokenizer", "pad_rows"]

# Questions repeat: VQA v2's 440,000 training questions are 150,000 distinct ones.
CACHED_TEXTS = 2**17


class CachingTokenizer:
    """Hugging Face tokenizer with a cache, which is not pickled.

    Args:
        tokenizer: Hugging Face tokenizer with padding and end-of-sequence tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.pad_token_id = int(tokenizer.pad_token_id)
        self.eos_token_id = int(tokenizer.eos_token_id)
        self.unk_token_id: int | None = getattr(tokenizer, "unk_token_id", None)
        self._cached = lru_cache(CACHED_TEXTS)(self._tokenise)

    def encode(self, text: str, max_tokens: int, *, suffix: str = "") -> tuple[int, ...]:
        """Return the token ids of a text, at most `max_tokens`, ending with end-of-sequence.

        Args:
            text: The text.
            max_tokens: Maximum number of tokens, end-of-sequence included.
            suffix: End of the text that is kept if the text is truncated before it.
        """
        ids, room = self._cached(text), max_tokens - 1
        if suffix and len(ids) > room:
            kept = self._cached(suffix)[:room]
            ids = (*ids[: room - len(kept)], *kept)
        return (*ids[:room], self.eos_token_id)

    def encode_all(
        self, texts: Sequence[str], max_tokens: int, *, padding: int, suffix: str = ""
    ) -> Tensor:
        """Return the token ids [R, X] of several texts, padded on the right with `padding`."""
        return pad_rows(
            [self.encode(text, max_tokens, suffix=suffix) for text in texts], padding=padding
        )

    def tokenise_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of several texts, untruncated, uncached, without end-of-sequence."""
        ids: list[list[int]] = self._tokenizer(
            list(texts), add_special_tokens=False, verbose=False
        ).input_ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated token ids, without special tokens."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    def __getstate__(self) -> dict[str, Any]:
        return {"_tokenizer": self._tokenizer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_tokenizer"])  # type: ignore[misc]

    def _tokenise(self, text: str) -> tuple[int, ...]:
        # Without `verbose=False` it warns about lengths that are truncated above.
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return tuple(ids)


def pad_rows(rows: Sequence[Sequence[int]], *, padding: int) -> Tensor:
    """Stack rows of different lengths into [R, X], padded on the right with `padding`."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[padding] * (width - len(row))] for row in rows])
