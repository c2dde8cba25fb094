"""Training and validation batches of a task.

T prompt tokens, L answer tokens.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_extraction.store.reader import FeatureReader
from vl_lst.backbones.tokenizer import CachingTokenizer
from vl_lst.data.backbone_texts import StoredStates
from vl_lst.data.batches import Batches, BlankFeatures, Features
from vl_lst.data.examples import TaskExamples, require_answers, rows_with_answers
from vl_lst.data.targets import AnswerScores, AnswerValues, SampledAnswers, Targets
from vl_lst.recipes import Recipe

__all__ = ["TaskData", "build_task_data", "sample_examples"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TaskData:
    """Examples of a task and their batches.

    Args:
        examples: The examples.
        train: Training batches.
        rows: Rows of the training examples to train on.
        validation: Validation batches, without targets.
    """

    examples: TaskExamples
    train: Batches
    rows: NDArray[np.int64]
    validation: Batches


def build_task_data(
    recipe: Recipe,
    examples: TaskExamples,
    reader: FeatureReader | None,
    tokenizer: CachingTokenizer,
    *,
    backbone_reads_images: bool = False,
    states: StoredStates | None = None,
) -> TaskData:
    """Return the batches of a task.

    Args:
        recipe: Recipe of the run.
        examples: Examples of the task.
        reader: Image features; `None` if no task of the run has images.
        tokenizer: Tokenizer of the backbone.
        backbone_reads_images: See `Batches`.
        states: See `Batches`. A head that generates validates with the backbone itself.

    Raises:
        InputError: No training example has an answer that the head can learn.
        StoreError: The file lacks states of an example.
    """
    task, answers = examples.task, examples.answers
    features: Features | None = None
    if reader is not None and task.images_per_example:
        features = BlankFeatures(reader) if recipe.data.blind else reader
    targets: Targets
    if recipe.head[task.name] == "classify":
        assert answers is not None, "a classifier has an answer list"
        targets = AnswerScores(answers)
        rows = np.arange(len(examples.train))
    elif recipe.head[task.name] == "regress":
        targets = AnswerValues()
        rows = _rows_with_answers(examples)
    else:
        targets = SampledAnswers(
            tokenizer, max_tokens=task.max_answer_tokens, seed=recipe.training.seed
        )
        rows = _rows_with_answers(examples)
    make = partial(
        Batches,
        task,
        features=features,
        tokenizer=tokenizer,
        backbone_reads_images=backbone_reads_images,
    )
    for_validation = None if recipe.head[task.name] == "generate" else states
    if states is not None:
        states.require(recipe.data.train_split[task.name], examples.train)
    if for_validation is not None:
        for_validation.require(recipe.data.validation_split[task.name], examples.validation)
    return TaskData(
        examples,
        make(examples=examples.train, targets=targets, states=states),
        rows,
        make(examples=examples.validation, states=for_validation),
    )


def _rows_with_answers(examples: TaskExamples) -> NDArray[np.int64]:
    rows = rows_with_answers(examples.train)
    if num_skipped := len(examples.train) - len(rows):
        log.warning(
            "%s of %s training examples of %s have no answer with a weight above zero and are "
            "left out",
            f"{num_skipped:,}",
            f"{len(examples.train):,}",
            examples.task.name,
        )
    return rows


def sample_examples(
    data: Mapping[str, TaskData], tokenizer: CachingTokenizer, *, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield prompt ids [1, T] and label ids [1, L] of random training examples, indefinitely.

    Examples of all tasks are equally likely; answers are sampled in proportion to their weight.

    Args:
        data: Data of each task, by name.
        tokenizer: Tokenizer of the backbone.
        seed: Seed for the samples.

    Raises:
        InputError: No example has an answer with a weight above zero.
    """
    generator = np.random.default_rng(seed)
    tasks = list(data.values())
    require_answers(chain.from_iterable(task.examples.train for task in tasks))
    shares = np.array([len(task.rows) for task in tasks]) / sum(len(task.rows) for task in tasks)
    while True:
        chosen = tasks[generator.choice(len(tasks), p=shares)]
        task, train = chosen.examples.task, chosen.examples.train
        example = train[int(generator.choice(chosen.rows))]
        weights = np.array([weight for _, weight in example.targets])
        if not weights.sum() > 0:
            continue
        answer = example.targets[generator.choice(len(weights), p=weights / weights.sum())][0]
        prompt_ids = tokenizer.encode_prompt(
            example.prompt, task.max_prompt_tokens, suffix=task.prompt_suffix
        )
        label_ids = tokenizer.encode_answer(answer, task.max_answer_tokens)
        yield torch.tensor([prompt_ids]), torch.tensor([label_ids])
