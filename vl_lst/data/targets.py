"""Training targets: soft scores over an answer list, sampled answers, or numbers.

B examples, P unique (prompt, answer) pairs, L answer tokens, A answers.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from eval.errors import InputError
from tasks import Example
from vl_lst.backbones.backbone import IGNORED
from vl_lst.backbones.tokenizer import CachingTokenizer, pad_rows
from vl_lst.data.order import ExampleKey, uniform_from_key
from vl_lst.models.batch import unique_rows

__all__ = ["AnswerScores", "AnswerValues", "SampledAnswers", "Targets", "require_numbers"]


class Targets(Protocol):
    """Training targets of a head."""

    def fields(
        self, examples: Sequence[Example], keys: Sequence[ExampleKey], prompt_index_B: Tensor
    ) -> dict[str, Tensor]:
        """Return the fields of a `Batch` that hold the targets.

        Args:
            examples: The B examples of the batch.
            keys: Their keys.
            prompt_index_B: Index of each example's prompt among the batch's unique prompts.
        """
        ...


class AnswerScores:
    """Soft scores over an answer list.

    An example without an answer on the list has scores of 0. A model learns from it too, since all
    listed answers are wrong.

    Args:
        answers: Answer list.
    """

    def __init__(self, answers: Sequence[str]) -> None:
        self._row = {answer: row for row, answer in enumerate(answers)}

    def fields(
        self, examples: Sequence[Example], keys: Sequence[ExampleKey], prompt_index_B: Tensor
    ) -> dict[str, Tensor]:
        """Return scores [B, A]."""
        scores_BA = torch.zeros(len(examples), len(self._row))
        for place, example in enumerate(examples):
            for answer, weight in example.targets:
                row = self._row.get(answer)
                if row is not None:
                    scores_BA[place, row] = weight
        return {"scores_BA": scores_BA}


class AnswerValues:
    """Answers that are numbers: of each example, its first with the highest weight."""

    def fields(
        self, examples: Sequence[Example], keys: Sequence[ExampleKey], prompt_index_B: Tensor
    ) -> dict[str, Tensor]:
        """Return values [B]."""
        return {"values_B": torch.tensor([_value(example) for example in examples])}


def require_numbers(
    source: str, examples: Iterable[Example], value_range: tuple[float, float]
) -> None:
    """Refuse examples whose answers a regression head cannot give.

    Args:
        source: File or split of the examples, for the message.
        examples: The examples; those without an answer are skipped.
        value_range: Smallest and largest answer of the head.

    Raises:
        InputError: An answer is not a number within the range.
    """
    low, high = value_range
    for example in examples:
        # Written so that NaN is refused too.
        if example.targets and not low <= _value(example) <= high:
            raise InputError(
                f"the example {example.id!r:.60} of {source} has the answer "
                f"{_answer(example)!r:.40}, which a head that regresses cannot give: expected a "
                f"number from {low:g} to {high:g}, or another head (--head generate)"
            )


def _answer(example: Example) -> str:
    return max(example.targets, key=lambda target: target[1])[0]


def _value(example: Example) -> float:
    """Return the answer of an example as a number; NaN if it is none."""
    try:
        return float(_answer(example))
    except ValueError:
        return math.nan


class SampledAnswers:
    """One answer per example, sampled in every epoch; its weight scales the loss (VL-T5).

    The probability of an answer is proportional to its weight. The sample depends only on the
    seed, the epoch and the example, not on the worker.

    Args:
        tokenizer: Tokenizer of the backbone.
        max_tokens: Maximum number of answer tokens, special tokens included; longer answers are
            truncated.
        seed: Seed for answer sampling.
    """

    def __init__(self, tokenizer: CachingTokenizer, *, max_tokens: int, seed: int) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._seed = seed

    def fields(
        self, examples: Sequence[Example], keys: Sequence[ExampleKey], prompt_index_B: Tensor
    ) -> dict[str, Tensor]:
        """Return labels [B, L], weights [B], and the unique (prompt, answer) pairs."""
        sampled = [self.sample(example, key) for example, key in zip(examples, keys, strict=True)]
        rows = [self._tokenizer.encode_answer(answer, self._max_tokens) for answer, _ in sampled]
        labels_BL = pad_rows(rows, padding=IGNORED)
        pair_rows_P, pair_index_B = unique_rows(torch.cat((prompt_index_B[:, None], labels_BL), 1))
        return {
            "labels_BL": labels_BL,
            "weights_B": torch.tensor([weight for _, weight in sampled]),
            "pair_rows_P": pair_rows_P,
            "pair_index_B": pair_index_B,
        }

    def sample(self, example: Example, key: ExampleKey) -> tuple[str, float]:
        """Return an answer of the example, and its weight."""
        usable = [target for target in example.targets if target[1] > 0]
        point = uniform_from_key(self._seed, *key) * sum(weight for _, weight in usable)
        for answer, weight in usable:
            point -= weight
            if point < 0:
                return answer, weight
        return usable[-1]
