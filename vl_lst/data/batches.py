"""Examples and their image features, read in workers and put together as model batches.

B examples, U unique prompts, P unique (prompt, answer) pairs, I images, N feature vectors, F
channels, T prompt tokens, L answer tokens, A answers.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from feature_extraction.cores import usable_cores
from feature_extraction.store.store import FeatureReader
from tasks import Example, ExampleTable, Task
from vl_lst.backbones.backbone import IGNORED
from vl_lst.backbones.tokenizer import CachingTokenizer as Texts
from vl_lst.data.order import ExampleKey, StepKeys, uniform
from vl_lst.models.batch import Batch, unique_rows

__all__ = [
    "AnswerScores",
    "Batches",
    "BlankFeatures",
    "Features",
    "MixedBatches",
    "SampledAnswers",
    "Targets",
    "load_in_order",
    "prompt_fields",
]


class Features(Protocol):
    """Where image features come from: a feature store, or nowhere."""

    def read(self, image_ids: Sequence[str]) -> NDArray[np.float16]:
        """Features of several images, float16 [images, N, F]."""
        ...


class BlankFeatures:
    """Zeros in place of features, for models that must do without the image.

    Args:
        reader: Features of the same shape.
    """

    def __init__(self, reader: FeatureReader) -> None:
        self._shape = (reader.tokens, reader.channels)

    def read(self, image_ids: Sequence[str]) -> NDArray[np.float16]:
        """Zeros, float16 [images, N, F]."""
        return np.zeros((len(image_ids), *self._shape), dtype=np.float16)


class Targets(Protocol):
    """What a head is trained against."""

    def fields(
        self, examples: Sequence[Example], keys: Sequence[ExampleKey], prompt_index_B: Tensor
    ) -> dict[str, Tensor]:
        """Fields of a `Batch` that hold the targets."""
        ...


class AnswerScores:
    """Soft scores over a closed list of answers.

    An example none of whose answers is on the list has scores of zero throughout: every answer
    of the list is wrong for it, which is something to learn as well.

    Args:
        answers: The list.
    """

    def __init__(self, answers: Sequence[str]) -> None:
        self._row = {answer: row for row, answer in enumerate(answers)}

    def fields(
        self, examples: Sequence[Example], keys: Sequence[ExampleKey], prompt_index_B: Tensor
    ) -> dict[str, Tensor]:
        """Scores [B, A]."""
        scores_BA = torch.zeros(len(examples), len(self._row))
        for place, example in enumerate(examples):
            for answer, weight in example.targets:
                row = self._row.get(answer)
                if row is not None:
                    scores_BA[place, row] = weight
        return {"scores_BA": scores_BA}


class SampledAnswers:
    """One answer of each example, drawn anew in each epoch; its score weighs the loss (VL-T5).

    An answer is drawn with a probability proportional to its weight. What is drawn depends on
    the seed, the epoch and the example alone, not on which worker draws.

    Args:
        texts: Tokenises answers.
        most_tokens: Answers are cut to this many tokens, end-of-sequence included.
        seed: Of the draws.
    """

    def __init__(self, texts: Texts, *, most_tokens: int, seed: int) -> None:
        self._texts = texts
        self._most_tokens = most_tokens
        self._seed = seed

    def fields(
        self, examples: Sequence[Example], keys: Sequence[ExampleKey], prompt_index_B: Tensor
    ) -> dict[str, Tensor]:
        """Labels [B, L], weights [B], and which (prompt, answer) pairs are the same."""
        drawn = [self.draw(example, key) for example, key in zip(examples, keys, strict=True)]
        labels_BL = self._texts.encode_all(
            [answer for answer, _ in drawn], self._most_tokens, padding=IGNORED
        )
        pair_rows_P, pair_index_B = unique_rows(torch.cat((prompt_index_B[:, None], labels_BL), 1))
        return {
            "labels_BL": labels_BL,
            "weights_B": torch.tensor([weight for _, weight in drawn]),
            "pair_rows_P": pair_rows_P,
            "pair_index_B": pair_index_B,
        }

    def draw(self, example: Example, key: ExampleKey) -> tuple[str, float]:
        """An answer of the example, with its weight."""
        usable = [target for target in example.targets if target[1] > 0]
        point = uniform(self._seed, *key) * sum(weight for _, weight in usable)
        for answer, weight in usable:
            point -= weight
            if point < 0:
                return answer, weight
        return usable[-1]


def prompt_fields(prompts: Sequence[str], texts: Texts, *, most_tokens: int) -> dict[str, Tensor]:
    """Fields of a `Batch` that hold the prompts, each distinct one once.

    Args:
        prompts: B texts.
        texts: Tokenises them.
        most_tokens: They are cut to this many tokens, end-of-sequence included.
    """
    ids_BT = texts.encode_all(prompts, most_tokens, padding=texts.pad_token_id)
    first_U, index_B = unique_rows(ids_BT)
    return {"prompt_ids_UT": ids_BT[first_U], "prompt_index_B": index_B}


class Batches(Dataset[Batch]):
    """Makes the batch for a list of example keys; safe in forked and spawned workers.

    Args:
        task: Whose examples they are.
        examples: Examples of one split.
        features: Of their images.
        texts: Tokenises prompts.
        targets: What to train against; `None` for prediction.
        answered_as: The task whose head answers; the examples' own unless said otherwise.
    """

    def __init__(
        self,
        task: Task,
        examples: ExampleTable,
        features: Features,
        texts: Texts,
        targets: Targets | None = None,
        *,
        answered_as: str | None = None,
    ) -> None:
        self._head = answered_as or task.name
        self._images = task.images_per_example
        self._most_prompt_tokens = task.max_prompt_tokens
        self._examples = examples
        self._features = features
        self._texts = texts
        self._targets = targets

    def __getitem__(self, keys: Sequence[ExampleKey]) -> Batch:
        examples = [self._examples[row] for _, row in keys]
        image_ids = [image_id for example in examples for image_id in example.image_ids]
        features = torch.from_numpy(self._features.read(image_ids))
        fields = prompt_fields(
            [example.prompt for example in examples],
            self._texts,
            most_tokens=self._most_prompt_tokens,
        )
        if self._targets is not None:
            fields |= self._targets.fields(examples, keys, fields["prompt_index_B"])
        return Batch(
            features_BINF=features.unflatten(0, (len(examples), self._images)),
            example_ids=tuple(example.id for example in examples),
            task=self._head,
            **fields,
        )


class MixedBatches(Dataset[Batch]):
    """Makes batches of several tasks.

    Args:
        batches: Of each task, by name.
    """

    def __init__(self, batches: Mapping[str, Batches]) -> None:
        self._batches = dict(batches)

    def __getitem__(self, keys: StepKeys) -> Batch:
        task, examples = keys
        return self._batches[task][examples]


def load_in_order(
    batches: Batches | MixedBatches,
    order: Iterable[list[ExampleKey]] | Iterable[StepKeys],
    *,
    workers: int,
    pin_memory: bool,
) -> DataLoader[Batch]:
    """Load batches in a given order.

    Args:
        batches: Makes them.
        order: What each batch is made from.
        workers: Processes that make them, at most one for each core; 0 makes them here.
        pin_memory: Put them in page-locked memory, for a GPU.
    """
    return DataLoader(
        batches,
        sampler=order,
        batch_size=None,
        # Recipes are written for larger machines; more than there are cores only get in each
        # other's way, and the batches are the same.
        num_workers=min(workers, usable_cores()),
        pin_memory=pin_memory,
        # A loader draws a seed for its workers. They need none, and drawing it from the global
        # generator would let dropout depend on how often a run was interrupted.
        generator=torch.Generator(),
    )
