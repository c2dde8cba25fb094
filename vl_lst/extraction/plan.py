"""The order in which the texts of a file are computed: batches without padding.

U encoder inputs of a batch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Self

from feature_extraction.errors import FeatureError
from feature_extraction.store.shards import Shard
from vl_lst.backbones.states.keys import pair_key
from vl_lst.backbones.states.table import StateTable, Texts
from vl_lst.data.backbone_texts import TextInput

__all__ = ["InputBatch", "Pair", "TextPlan"]

Pair = tuple[int, tuple[int, ...]]
"""Row of an encoder input within its batch, and the token ids that the decoder reads."""


@dataclass(frozen=True, slots=True)
class InputBatch:
    """Encoder inputs of one length, and their pairs.

    Args:
        inputs: Inputs with equally many token ids and images.
        pairs: Pairs, shorter ones first.
    """

    inputs: tuple[TextInput, ...]
    pairs: tuple[Pair, ...]

    def pair_batches(self, size: int) -> Iterator[tuple[int, tuple[Pair, ...]]]:
        """Yield batches of pairs of one length, each with the place of its first pair."""
        place = 0
        for _, group in groupby(self.pairs, key=lambda pair: len(pair[1])):
            pairs = tuple(group)
            for start in range(0, len(pairs), size):
                yield place + start, pairs[start : start + size]
            place += len(pairs)


@dataclass(frozen=True, slots=True)
class TextPlan:
    """All texts of an extraction, in file order.

    Without padding, the states of a text do not depend on the length of others.

    Args:
        batches: Batches, shorter inputs first.
        size: Maximum number of inputs, or pairs, that are computed at once.
    """

    batches: tuple[InputBatch, ...]
    size: int

    @classmethod
    def of(cls, found: Mapping[TextInput, Mapping[tuple[int, ...], None]], batch_size: int) -> Self:
        """Return the order of texts.

        Args:
            found: Decoder ids by encoder input, in order of appearance.
            batch_size: See `size`.
        """

        def shape(text: TextInput) -> tuple[int, int]:
            return len(text.image_ids), len(text.ids)

        batches = []
        for _, group in groupby(sorted(found, key=shape), key=shape):
            inputs = tuple(group)
            for start in range(0, len(inputs), batch_size):
                chosen = inputs[start : start + batch_size]
                pairs = [(row, ids) for row, text in enumerate(chosen) for ids in found[text]]
                pairs.sort(key=lambda pair: len(pair[1]))
                batches.append(InputBatch(chosen, tuple(pairs)))
        return cls(tuple(batches), batch_size)

    def part(self, shard: Shard) -> "TextPlan":
        """Return the batches of a shard.

        Raises:
            FeatureError: There are fewer batches than shards.
        """
        count = len(self.batches)
        if count < shard.count:
            raise FeatureError(
                f"{count:,} batches of texts cannot be divided into {shard.count:,} shards: choose "
                f"at most {count:,}, or a smaller --batch-size"
            )
        rows = shard.rows(count, 1)
        return TextPlan(self.batches[rows.start : rows.stop], self.size)

    def table(self, image_tokens: Mapping[int, int]) -> StateTable:
        """Return the keys and lengths of all texts.

        Args:
            image_tokens: Number of tokens that the encoder reads besides the text, by the number of
                images.
        """
        inputs, pairs = [], []
        for batch in self.batches:
            keys = [text.key for text in batch.inputs]
            for key, text in zip(keys, batch.inputs, strict=True):
                inputs.append((key, len(text.ids) + image_tokens[len(text.image_ids)]))
            pairs += [(pair_key(keys[row], ids), len(ids)) for row, ids in batch.pairs]
        return StateTable(Texts.of(inputs), Texts.of(pairs))
