"""Tokenizer that caches the token ids of each text.

R texts, X tokens.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from vl_lst.errors import ModelError

__all__ = ["CachingTokenizer", "pad_rows", "vocabulary_sha256"]

# Questions repeat: VQA v2's 440,000 training questions are 150,000 distinct ones.
CACHED_TEXTS = 2**17
# Text on which the special tokens of a tokenizer are found.
PROBE = "is it red?"


class CachingTokenizer:
    """Hugging Face tokenizer with a cache, which is not pickled.

    A prompt gets the special tokens that the tokenizer itself adds before and after a text, such as
    `<s> text </s>`; if it adds none, end-of-sequence.

    An answer is what the untouched backbone generates after its start token: the token that the
    backbone forces, or else the tokens that the tokenizer adds before a text, without the start
    token; then the text, then end-of-sequence. A language code before a text is thus part of
    an answer, one after the text is not.

    Args:
        tokenizer: Hugging Face tokenizer with a padding token.
        start_token_id: Token id that starts the backbone's decoder.
        forced_bos_token_id: Token id that every answer of the backbone begins with.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        start_token_id: int | None = None,
        forced_bos_token_id: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._decoder_ids = (start_token_id, forced_bos_token_id)
        self.pad_token_id = int(tokenizer.pad_token_id)
        self.eos_token_id: int | None = getattr(tokenizer, "eos_token_id", None)
        self.unk_token_id: int | None = getattr(tokenizer, "unk_token_id", None)
        end = () if self.eos_token_id is None else (self.eos_token_id,)
        before, after = _special_tokens(tokenizer)
        self._around_prompt = (before, after) if before or after else ((), end)
        if forced_bos_token_id is None:
            start = tuple(token for token in before if token != start_token_id)
        else:
            start = (forced_bos_token_id,)
        self._around_answer = (start, end)
        self._vocabulary: dict[str, int] | None = None
        self._cached = lru_cache(CACHED_TEXTS)(self._tokenise)

    @property
    def num_prompt_specials(self) -> int:
        """Number of special tokens in each prompt."""
        return sum(map(len, self._around_prompt))

    @property
    def vocabulary_sha256(self) -> str:
        """Digest of the ids of all tokens; see the function of this name."""
        return vocabulary_sha256(self._tokenizer)

    @property
    def num_answer_specials(self) -> int:
        """Number of special tokens in each answer."""
        return sum(map(len, self._around_answer))

    def encode_prompt(self, text: str, max_tokens: int, *, suffix: str = "") -> tuple[int, ...]:
        """Return the token ids of a prompt.

        Args:
            text: Prompt.
            max_tokens: Maximum number of tokens. Longer texts are truncated, special tokens kept.
            suffix: End of the prompt, which is kept too.
        """
        return self._encode(text, self._around_prompt, max_tokens, suffix)

    def encode_answer(self, text: str, max_tokens: int) -> tuple[int, ...]:
        """Return the token ids of an answer; see `encode_prompt`."""
        return self._encode(text, self._around_answer, max_tokens)

    def wrap_prompt(self, ids: Sequence[int]) -> list[int]:
        """Return the token ids of a text with the special tokens of a prompt."""
        before, after = self._around_prompt
        return [*before, *ids, *after]

    def wrap_answer(self, ids: Sequence[int]) -> list[int]:
        """Return the token ids of a text with the special tokens of an answer."""
        before, after = self._around_answer
        return [*before, *ids, *after]

    @property
    def mask_token(self) -> str | None:
        """Token that stands for hidden text; `None` if there is none."""
        token: str | None = getattr(self._tokenizer, "mask_token", None)
        return token

    def token_id(self, token: str) -> int | None:
        """Return the id of a token by its text; `None` if there is none."""
        if self._vocabulary is None:
            self._vocabulary = self._tokenizer.get_vocab()
        return self._vocabulary.get(token)

    def tokenise_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of several texts, untruncated, uncached, without special tokens."""
        ids: list[list[int]] = self._tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
        ).input_ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated token ids, without special tokens."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    def __getstate__(self) -> dict[str, Any]:
        return {"_tokenizer": self._tokenizer, "_decoder_ids": self._decoder_ids}

    def __setstate__(self, state: dict[str, Any]) -> None:
        start, forced = state["_decoder_ids"]
        self.__init__(  # type: ignore[misc]
            state["_tokenizer"], start_token_id=start, forced_bos_token_id=forced
        )

    def _encode(
        self,
        text: str,
        around: tuple[tuple[int, ...], tuple[int, ...]],
        max_tokens: int,
        suffix: str = "",
    ) -> tuple[int, ...]:
        before, after = around
        room = max(0, max_tokens - len(before) - len(after))
        ids = self._cached(text)
        if suffix and len(ids) > room:
            kept = self._cached(suffix)[:room]
            ids = (*ids[: room - len(kept)], *kept)
        return (*before, *ids[:room], *after)

    def _tokenise(self, text: str) -> tuple[int, ...]:
        # Without `verbose=False` it warns about lengths that are truncated above.
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return tuple(ids)


def _special_tokens(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the token ids that a tokenizer adds before and after a text.

    Raises:
        ModelError: It changes the tokens of the text itself.
    """
    plain, full = (
        tuple(tokenizer(PROBE, add_special_tokens=is_full, verbose=False).input_ids)
        for is_full in (False, True)
    )
    for place in range(len(full) - len(plain) + 1):
        end = place + len(plain)
        if full[place:end] == plain:
            return full[:place], full[end:]
    raise ModelError(
        f"the tokenizer turns {PROBE!r} into the token ids {full}, and without special tokens into "
        f"{plain}: expected the same ids with others before and after them. Correct tokenizer.json"
    )


def pad_rows(rows: Sequence[Sequence[int]], *, padding: int) -> Tensor:
    """Stack rows of different lengths into [R, X], padded on the right with `padding`."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[padding] * (width - len(row))] for row in rows])


def vocabulary_sha256(tokenizer: Any) -> str:
    """Return the SHA-256 of the ids of all tokens of a Hugging Face tokenizer."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: (entry[1], entry[0]))
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()
