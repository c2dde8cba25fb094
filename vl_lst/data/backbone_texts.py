"""The texts that a backbone reads of examples, and their states in a file.

U unique prompts, P unique (prompt, answer) pairs, T prompt tokens, L answer tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from feature_extraction.errors import StoreError
from tasks import Example, ExampleTable, Task
from vl_lst.backbones.backbone import IGNORED
from vl_lst.backbones.states.keys import input_key, pair_key
from vl_lst.backbones.states.reader import StateReader
from vl_lst.backbones.stored import BackboneStates
from vl_lst.backbones.tokenizer import CachingTokenizer

__all__ = ["BackboneTexts", "StoredStates", "TextInput"]


@dataclass(frozen=True, slots=True)
class TextInput:
    """What the encoder of a backbone reads of an example.

    Args:
        ids: Token ids of the prompt, truncated, without padding.
        image_ids: Images that the backbone reads with it.
    """

    ids: tuple[int, ...]
    image_ids: tuple[str, ...] = ()

    @property
    def key(self) -> bytes:
        """Key of the input in a file of states."""
        return input_key(self.ids, self.image_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneTexts:
    """Lists what a backbone reads of the examples of a task.

    Args:
        task: The task, as configured for the run.
        tokenizer: Tokenizer of the backbone.
        generates: Whether the task's head generates.
        start_token_id: Token id that starts the decoder; `None` without a decoder.
        reads_images: Whether the backbone reads images with the prompts.
    """

    task: Task
    tokenizer: CachingTokenizer
    generates: bool
    start_token_id: int | None
    reads_images: bool

    def input_of(self, example: Example) -> TextInput:
        """Return what the encoder reads of an example."""
        ids = self.tokenizer.encode_prompt(
            example.prompt, self.task.max_prompt_tokens, suffix=self.task.prompt_suffix
        )
        ids = _strip(ids, self.tokenizer.pad_token_id)
        return TextInput(ids, example.image_ids if self.reads_images else ())

    def answers_of(self, example: Example) -> Iterator[tuple[int, ...]]:
        """Yield what the decoder may read of an example in training.

        For a head that generates, each answer with a weight; for another head, the start token.
        """
        if self.start_token_id is None:
            return
        if not self.generates:
            yield (self.start_token_id,)
            return
        for answer, weight in example.targets:
            if weight > 0:
                ids = self.tokenizer.encode_answer(answer, self.task.max_answer_tokens)
                yield (self.start_token_id, *ids[:-1])

    def collect(
        self, examples: Iterable[Example], found: dict[TextInput, dict[tuple[int, ...], None]]
    ) -> None:
        """Add what the backbone reads of examples to a table of inputs and their answers.

        Args:
            examples: Examples of a split.
            found: Decoder ids by input, in order of appearance; changed in place.
        """
        for example in examples:
            answers = dict.fromkeys(self.answers_of(example))
            if answers or not self.generates:
                found.setdefault(self.input_of(example), {}).update(answers)


class StoredStates:
    """States of the texts of batches, read from a file; safe in forked and spawned workers.

    Args:
        reader: The file.
        texts: What the backbone reads of the task's examples.
        encoder_layers: Layers of the encoder that the model reads.
        decoder_layers: Layers of the decoder, likewise; `None` without a decoder.
    """

    def __init__(
        self,
        reader: StateReader,
        texts: BackboneTexts,
        *,
        encoder_layers: Sequence[int],
        decoder_layers: Sequence[int] | None,
    ) -> None:
        self._reader = reader
        self._texts = texts
        self._layers = (encoder_layers, decoder_layers)

    @property
    def reads_images(self) -> bool:
        """Whether the states are those of prompts with images."""
        return self._texts.reads_images

    def missing(self, examples: ExampleTable) -> list[TextInput]:
        """Return the inputs of examples that lack states of their own or of one of their pairs."""
        found: dict[TextInput, dict[tuple[int, ...], None]] = {}
        self._texts.collect(examples, found)
        inputs, keys = list(found), [each.key for each in found]
        rows = set(self._reader.encoder.missing(keys))
        if self._reader.decoder is not None:
            owners = [row for row, answers in enumerate(found.values()) for _ in answers]
            pairs = [
                pair_key(key, ids)
                for key, answers in zip(keys, found.values(), strict=True)
                for ids in answers
            ]
            rows |= {owners[place] for place in self._reader.decoder.missing(pairs)}
        return [inputs[row] for row in sorted(rows)]

    def require(self, split: str, examples: ExampleTable) -> None:
        """Refuse a file without the states of a split.

        Args:
            split: Name of the split, for the message.
            examples: Its examples.

        Raises:
            StoreError: States are missing.
        """
        if missing := self.missing(examples):
            raise StoreError(
                f"{len(missing):,} prompts of {self._texts.task.name} {split}, or their answers, "
                f"have no states in {self._reader.path} (first: {self._describe(missing[0].ids)}): "
                "the states were extracted for other data, prompts, limits or answers. Extract "
                "them with the settings of this run (`vl-lst extract-states`)."
            )

    def read(
        self, fields: Mapping[str, Tensor], image_ids: Sequence[tuple[str, ...]]
    ) -> BackboneStates:
        """Return the states of a batch.

        Args:
            fields: Fields of the `Batch`: prompts, and labels if it has any.
            image_ids: Images of each example.

        Raises:
            StoreError: States are missing, or the file can no longer be read.
        """
        padding = self._texts.tokenizer.pad_token_id
        ids_UT = fields["prompt_ids_UT"]
        rows = [_strip(row, padding) for row in ids_UT.tolist()]
        images: list[tuple[str, ...]] = [()] * len(rows)
        if self.reads_images:
            images = [image_ids[row] for row in fields["prompt_rows_U"].tolist()]
        keys = [input_key(*each) for each in zip(rows, images, strict=True)]
        encoder_layers, decoder_layers = self._layers

        def describe(place: int) -> str:
            return self._describe(rows[place])

        encoder = self._reader.encoder.read(keys, encoder_layers, describe=describe)
        lengths: list[int] = encoder.mask_NT.sum(1).tolist()
        others = max(0, lengths[0] - len(rows[0])) if self.reads_images else 0
        self._require_lengths(lengths, [others + len(row) for row in rows], describe)
        # As the backbone masks its input: padding tokens within a text too, and no image token.
        mask_UT = ids_UT[:, : encoder.mask_NT.shape[1] - others] != padding
        encoder = replace(encoder, mask_NT=F.pad(mask_UT, (others, 0), value=True))
        if self._reader.decoder is None or decoder_layers is None:
            return BackboneStates(encoder)
        pairs = list(self._pairs(fields, keys))

        def describe_pair(place: int) -> str:
            prompt, ids = pairs[place]
            return f"{describe(prompt)} with the answer {self._describe(ids[1:])}"

        pair_keys = [pair_key(keys[prompt], ids) for prompt, ids in pairs]
        decoder = self._reader.decoder.read(pair_keys, decoder_layers, describe=describe_pair)
        lengths = decoder.mask_NT.sum(1).tolist()
        self._require_lengths(lengths, [len(ids) for _, ids in pairs], describe_pair)
        return BackboneStates(encoder, decoder)

    def _require_lengths(
        self, found: Sequence[int], expected: Sequence[int], describe: Callable[[int], str]
    ) -> None:
        """Refuse states that cannot be those of their texts.

        Raises:
            StoreError: A text has another number of tokens than its states.
        """
        for place, (tokens, wanted) in enumerate(zip(found, expected, strict=True)):
            if tokens != wanted:
                raise StoreError(
                    f"{self._reader.path} holds states of {tokens:,} tokens for {describe(place)}, "
                    f"expected {wanted:,}: it is damaged. Extract the states again."
                )

    def _pairs(
        self, fields: Mapping[str, Tensor], keys: Sequence[bytes]
    ) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield the prompt and the decoder ids of each unique pair of a batch."""
        start = self._texts.start_token_id
        assert start is not None, "a backbone with a decoder has a start token"
        if "labels_BL" not in fields:
            yield from ((prompt, (start,)) for prompt in range(len(keys)))
            return
        prompts = fields["prompt_index_B"].tolist()
        labels = fields["labels_BL"].tolist()
        for row in fields["pair_rows_P"].tolist():
            yield prompts[row], (start, *_strip(labels[row], IGNORED)[:-1])

    def _describe(self, ids: Sequence[int]) -> str:
        return repr(self._texts.tokenizer.decode(ids))


def _strip(row: Sequence[int], padding: int) -> tuple[int, ...]:
    """Return token ids without the padding after them."""
    length = len(row)
    while length and row[length - 1] == padding:
        length -= 1
    return tuple(row[:length])
