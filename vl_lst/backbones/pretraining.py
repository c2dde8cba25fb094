"""Objectives with which backbones were pretrained: what a text becomes as a source and a target.

What is hidden depends on the generator alone, so the same seed gives the same pairs everywhere.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from random import Random

from vl_lst.backbones.tokenizer import CachingTokenizer
from vl_lst.errors import ModelError

__all__ = [
    "PrefixLanguageModelling",
    "PretrainingObjective",
    "SpanCorruption",
    "TextInfilling",
    "hide_spans",
]

NUM_SENTINELS = 100


class PretrainingObjective(ABC):
    """Task that a backbone was pretrained on."""

    name: str
    """Name for records and messages."""

    @abstractmethod
    def corrupt(
        self, ids: Sequence[int], tokenizer: CachingTokenizer, random: Random
    ) -> tuple[list[int], list[int]] | None:
        """Return the token ids that the encoder reads, and those that the decoder predicts.

        Args:
            ids: Token ids of a text without special tokens, at least one.
            tokenizer: Tokenizer of the backbone.
            random: Chooses what is hidden.

        Returns:
            Source and target with special tokens; `None` if the text is too short.

        Raises:
            ModelError: The tokenizer lacks a token of the objective.
        """


class SpanCorruption(PretrainingObjective):
    """Predict spans that sentinels replace (Raffel et al. 2020, arXiv 1910.10683, section 3.1.4).

    As published: 15 % of the tokens, in spans of 3 on average.
    """

    name = "span corruption"
    noise_density = 0.15
    mean_span = 3.0

    def corrupt(
        self, ids: Sequence[int], tokenizer: CachingTokenizer, random: Random
    ) -> tuple[list[int], list[int]]:
        """Return the text with sentinels, and the sentinels with what they replace."""
        # Some vocabularies of many languages have them as words, after a space.
        sentinels = [
            _token_id(tokenizer, f"<extra_id_{n}>", f"▁<extra_id_{n}>")
            for n in range(NUM_SENTINELS)
        ]
        source, target = hide_spans(
            ids,
            random,
            sentinels=sentinels,
            noise_density=self.noise_density,
            mean_span=self.mean_span,
        )
        return tokenizer.wrap_prompt(source), tokenizer.wrap_answer(target)


class TextInfilling(PretrainingObjective):
    """Restore a text in which single mask tokens replace spans (Lewis et al. 2020, section 2.2).

    As published (arXiv 1910.13461): 30 % of the tokens, in spans whose lengths have a Poisson
    distribution with a mean of 3; a span of length 0 inserts a mask. Sentences are not permuted.
    """

    name = "text infilling"
    noise_density = 0.3
    mean_span = 3.0

    def corrupt(
        self, ids: Sequence[int], tokenizer: CachingTokenizer, random: Random
    ) -> tuple[list[int], list[int]]:
        """Return the text with masks, and the whole text."""
        mask = _token_id(tokenizer, tokenizer.mask_token)
        hidden = max(1, round(len(ids) * self.noise_density))
        lengths: list[int] = []
        while (left := hidden - sum(lengths)) > 0:
            lengths.append(min(left, _poisson(self.mean_span, random)))
        gaps = _parts(len(ids) - hidden, len(lengths) + 1, random, minimum=0)
        source: list[int] = []
        at = 0
        for gap, length in zip(gaps, lengths, strict=False):
            source += [*ids[at : at + gap], mask]
            at += gap + length
        return tokenizer.wrap_prompt([*source, *ids[at:]]), tokenizer.wrap_answer(ids)


class PrefixLanguageModelling(PretrainingObjective):
    """Predict the second half of a text from the first."""

    name = "prefix language modelling"

    def corrupt(
        self, ids: Sequence[int], tokenizer: CachingTokenizer, random: Random
    ) -> tuple[list[int], list[int]] | None:
        """Return the first and the second half; `None` for a single token."""
        middle = len(ids) // 2
        if not middle:
            return None
        return tokenizer.wrap_prompt(ids[:middle]), tokenizer.wrap_answer(ids[middle:])


def hide_spans(
    ids: Sequence[int],
    random: Random,
    *,
    sentinels: Sequence[int],
    noise_density: float,
    mean_span: float,
) -> tuple[list[int], list[int]]:
    """Replace at least one random span by a sentinel (arXiv 1910.10683, figure 2).

    Args:
        ids: Token ids of a text, at least one.
        random: Chooses the spans.
        sentinels: Token ids of the sentinels, the first one first; at most one less than their
            number of spans are hidden.
        noise_density: Share of the tokens to replace.
        mean_span: Mean number of tokens per span.

    Returns:
        Source and target without special tokens; the target ends with a sentinel.
    """
    hidden = max(1, round(len(ids) * noise_density))
    spans = min(max(1, round(hidden / mean_span)), len(ids) - hidden + 1, len(sentinels) - 1)
    lengths = _parts(hidden, spans, random, minimum=1)
    gaps = _parts(len(ids) - hidden, spans + 1, random, minimum=0)
    source: list[int] = []
    target: list[int] = []
    at = 0
    for gap, length, sentinel in zip(gaps, lengths, sentinels, strict=False):
        source += [*ids[at : at + gap], sentinel]
        target += [sentinel, *ids[at + gap : at + gap + length]]
        at += gap + length
    return [*source, *ids[at:]], [*target, sentinels[spans]]


def _parts(total: int, count: int, random: Random, *, minimum: int) -> list[int]:
    """Split `total` into `count` random parts of at least `minimum`."""
    spare = total - count * minimum
    cuts = sorted(int(random.random() * (spare + 1)) for _ in range(count - 1))
    return [b - a + minimum for a, b in zip([0, *cuts], [*cuts, spare], strict=True)]


def _poisson(mean: float, random: Random) -> int:
    """Return a number from a Poisson distribution (Knuth)."""
    limit, product, count = math.exp(-mean), random.random(), 0
    while product > limit:
        product *= random.random()
        count += 1
    return count


def _token_id(tokenizer: CachingTokenizer, *names: str | None) -> int:
    """Return the id of the first name that the tokenizer knows.

    Raises:
        ModelError: It knows none of them.
    """
    for name in names:
        found = None if name is None else tokenizer.token_id(name)
        if found is not None:
            return found
    raise ModelError(
        f"the tokenizer lacks {names[0] or 'a mask token'}, with which the backbone was "
        "pretrained: found none, expected it in tokenizer.json, so its loss on text cannot be "
        "measured"
    )
