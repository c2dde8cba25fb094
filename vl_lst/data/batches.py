"""Model batches of examples and their image features, collated in workers.

B examples, U unique prompts, I images per example, N feature vectors per image, F channels,
T prompt tokens.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from feature_extraction.cores import usable_cores
from feature_extraction.store.reader import FeatureReader
from tasks import ExampleTable, Task
from vl_lst.backbones.tokenizer import CachingTokenizer, pad_rows
from vl_lst.data.backbone_texts import StoredStates
from vl_lst.data.order import ExampleKey, StepKeys
from vl_lst.data.targets import Targets
from vl_lst.errors import USER_ERRORS
from vl_lst.launch import ignore_stop_signals
from vl_lst.models.batch import Batch, unique_rows

__all__ = [
    "Batches",
    "BlankFeatures",
    "Features",
    "MixedBatches",
    "load_in_order",
    "prompt_fields",
]


class Features(Protocol):
    """Source of image features, such as a feature store."""

    def read(self, image_ids: Sequence[str]) -> NDArray[np.float16]:
        """Return the features of several images, float16 [images, N, F]."""
        ...


class BlankFeatures:
    """Zeros in place of image features, for models that must not see the image.

    Args:
        reader: Features with the shape to imitate.
    """

    def __init__(self, reader: FeatureReader) -> None:
        self._shape = (reader.tokens, reader.channels)

    def read(self, image_ids: Sequence[str]) -> NDArray[np.float16]:
        """Return zeros, float16 [images, N, F]."""
        return np.zeros((len(image_ids), *self._shape), dtype=np.float16)


def prompt_fields(
    prompts: Sequence[str],
    tokenizer: CachingTokenizer,
    *,
    max_tokens: int,
    suffix: str = "",
    image_ids: Sequence[tuple[str, ...]] | None = None,
) -> dict[str, Tensor]:
    """Return the fields of a `Batch` that hold the prompts, with equal encoder inputs merged.

    Args:
        prompts: B prompts.
        tokenizer: Tokenizer of the backbone.
        max_tokens: Maximum number of prompt tokens, special tokens included; longer prompts are
            truncated.
        suffix: End of all prompts, before which they are truncated.
        image_ids: Images of each prompt, if the backbone reads them together: only equal prompts
            about the same images are merged.
    """
    rows = [tokenizer.encode_prompt(prompt, max_tokens, suffix=suffix) for prompt in prompts]
    ids_BT = pad_rows(rows, padding=tokenizer.pad_token_id)
    if image_ids is None:
        first_U, index_B = unique_rows(ids_BT)
        return {"prompt_ids_UT": ids_BT[first_U], "prompt_index_B": index_B}
    numbers = {images: number for number, images in enumerate(dict.fromkeys(image_ids))}
    images_B1 = torch.tensor([[numbers[images]] for images in image_ids])
    first_U, index_B = unique_rows(torch.cat((ids_BT, images_B1), 1))
    return {
        "prompt_ids_UT": ids_BT[first_U],
        "prompt_index_B": index_B,
        "prompt_rows_U": first_U,
    }


class Batches(Dataset[Batch]):
    """Batches of one split, indexed by lists of example keys; safe in forked and spawned workers.

    Args:
        task: Task of the examples.
        examples: Examples of the split.
        features: Image features; `None` if the examples have no images, or the model reads none.
        tokenizer: Tokenizer of the backbone.
        targets: Training targets; `None` for prediction.
        answered_as: Name of the task whose head answers. Default: the examples' own task.
        backbone_reads_images: Whether the backbone reads images with the prompts; otherwise,
            equal prompts are computed once whatever their images.
        states: States of the backbone for the batches' texts; `None` if the backbone computes them.
    """

    def __init__(
        self,
        task: Task,
        examples: ExampleTable,
        features: Features | None,
        tokenizer: CachingTokenizer,
        targets: Targets | None = None,
        *,
        answered_as: str | None = None,
        backbone_reads_images: bool = False,
        states: StoredStates | None = None,
    ) -> None:
        self._head = answered_as or task.name
        self._images = task.images_per_example
        self._max_prompt_tokens = task.max_prompt_tokens
        self._suffix = task.prompt_suffix
        self._examples = examples
        self._tokenizer = tokenizer
        self._targets = targets
        if states is not None and states.reads_images:
            # What the backbone made of the images is in its states.
            features = None
        self._features = features
        self._states = states
        self._backbone_reads_images = (
            states.reads_images
            if states is not None
            else backbone_reads_images and features is not None
        )

    def __getitem__(self, keys: Sequence[ExampleKey]) -> Batch:
        examples = [self._examples[row] for _, row in keys]
        image_ids = [example.image_ids for example in examples]
        fields = prompt_fields(
            [example.prompt for example in examples],
            self._tokenizer,
            max_tokens=self._max_prompt_tokens,
            suffix=self._suffix,
            image_ids=image_ids if self._backbone_reads_images else None,
        )
        if self._features is not None:
            features = torch.from_numpy(self._features.read(list(chain.from_iterable(image_ids))))
            fields["features_BINF"] = features.unflatten(0, (len(examples), self._images))
        if self._targets is not None:
            fields |= self._targets.fields(examples, keys, fields["prompt_index_B"])
        states = None if self._states is None else self._states.read(fields, image_ids)
        return Batch(
            states=states,
            example_ids=tuple(example.id for example in examples),
            task=self._head,
            **fields,
        )


class MixedBatches(Dataset[Batch]):
    """Batches of several tasks, indexed by task and example keys.

    Args:
        batches: Batches of each task, by name.
    """

    def __init__(self, batches: Mapping[str, Batches]) -> None:
        self._batches = dict(batches)

    def __getitem__(self, keys: StepKeys) -> Batch:
        task, examples = keys
        return self._batches[task][examples]


class _Explained(Dataset[Batch | Exception]):
    """Batches, and in place of one that cannot be made, the error that tells the user why.

    A worker that raised the error would replace its message by a traceback.

    Args:
        batches: The batches.
    """

    def __init__(self, batches: Batches | MixedBatches) -> None:
        self._batches: Dataset[Batch] = batches

    def __getitem__(self, keys: Any) -> Batch | Exception:
        try:
            return self._batches[keys]
        except USER_ERRORS as error:
            return error


def load_in_order(
    batches: Batches | MixedBatches,
    order: Iterable[list[ExampleKey]] | Iterable[StepKeys],
    *,
    workers: int,
    pin_memory: bool,
) -> Iterator[Batch]:
    """Yield batches in a given order.

    Args:
        batches: Batches to load.
        order: Key of each batch.
        workers: Number of worker processes, at most one per core; 0 loads in this process.
        pin_memory: Whether to pin the batches in memory, for copies to a GPU.

    Raises:
        StoreError: Features or states are missing, or their file can no longer be read.
    """
    loader: Iterable[Batch | Exception] = DataLoader(
        _Explained(batches),
        sampler=order,
        batch_size=None,
        # A recipe may come from a larger machine. More workers than cores slow each other down;
        # the batches do not depend on their number.
        num_workers=min(workers, usable_cores()),
        pin_memory=pin_memory,
        # A loader draws a seed for its workers. Drawn from the global generator, dropout would
        # depend on how often a run was interrupted.
        generator=torch.Generator(),
        # Schedulers signal all processes of a job, and the main process still needs its workers.
        worker_init_fn=ignore_stop_signals,
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch
