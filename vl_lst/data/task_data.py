"""What a run learns from, and is judged by, in each of its tasks."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_extraction.store.store import FeatureReader
from tasks import ExampleTable, Task
from vl_lst.backbones.tokenizer import CachingTokenizer as Texts
from vl_lst.data.batches import (
    AnswerScores,
    Batches,
    BlankFeatures,
    Features,
    SampledAnswers,
    Targets,
)
from vl_lst.data.examples import (
    read_answers,
    require_images,
    require_labels,
    task_of,
    usable_rows,
)
from vl_lst.recipes import Recipe

__all__ = ["TaskData", "TaskExamples", "batch_task", "load_examples", "text_samples"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TaskExamples:
    """The examples of a task, checked.

    Args:
        task: The task.
        train: Its training split.
        validation: Its validation split.
        answers: The list its answers are from; `None` where it may generate any.
    """

    task: Task
    train: ExampleTable
    validation: ExampleTable
    answers: list[str] | None


@dataclass(frozen=True, slots=True)
class TaskData:
    """The same, ready to be batched.

    Args:
        examples: The examples.
        train: Makes training batches.
        rows: Rows of the training table that take part.
        validation: Makes batches to predict.
    """

    examples: TaskExamples
    train: Batches
    rows: NDArray[np.int64]
    validation: Batches


def load_examples(recipe: Recipe, name: str, reader: FeatureReader) -> TaskExamples:
    """Load what a task trains on and is validated by.

    Raises:
        InputError: Something about the annotations is wrong, a split has no labels, or the
            validation metric cannot be computed on this machine.
        StoreError: Images have no features.
    """
    task, data = task_of(recipe, name), recipe.data
    if task.require_evaluator is not None:
        task.require_evaluator()
    loaded = []
    for split, own_file in (
        (data.train_split[name], data.train_file[name]),
        (data.validation_split[name], data.validation_file[name]),
    ):
        examples = task.load(data.folder, split)
        source = str(own_file or split)
        require_labels(task, source, examples)
        if not data.blind:
            require_images(reader, source, examples)
        loaded.append(examples)
    train, validation = loaded
    return TaskExamples(task, train, validation, read_answers(recipe, task, train))


def batch_task(
    recipe: Recipe, examples: TaskExamples, reader: FeatureReader, texts: Texts
) -> TaskData:
    """Make the examples of a task ready to be batched."""
    task, answers = examples.task, examples.answers
    features: Features = BlankFeatures(reader) if recipe.data.blind else reader
    targets: Targets
    if recipe.head[task.name] == "classify":
        assert answers is not None, "a classifier has a list"
        targets = AnswerScores(answers)
        rows = np.arange(len(examples.train))
    else:
        seed = recipe.training.seed
        targets = SampledAnswers(texts, most_tokens=task.max_answer_tokens, seed=seed)
        rows = _answered_rows(examples)
    return TaskData(
        examples,
        Batches(task, examples.train, features, texts, targets),
        rows,
        Batches(task, examples.validation, features, texts),
    )


def _answered_rows(examples: TaskExamples) -> NDArray[np.int64]:
    rows = usable_rows(examples.train)
    if left_out := len(examples.train) - len(rows):
        log.warning(
            "%s of %s training examples of %s have no answer with a weight above zero and are "
            "left out",
            f"{left_out:,}",
            f"{len(examples.train):,}",
            examples.task.name,
        )
    return rows


def text_samples(
    data: Mapping[str, TaskData], texts: Texts, *, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Texts of training examples, without end: prompt ids [1, T] and label ids [1, L], unpadded.

    A task is as likely as it has examples, an answer as likely as it has weight.
    """
    generator = np.random.default_rng(seed)
    tasks = list(data.values())
    shares = np.array([len(task.rows) for task in tasks]) / sum(len(task.rows) for task in tasks)
    while True:
        chosen = tasks[generator.choice(len(tasks), p=shares)]
        task, train = chosen.examples.task, chosen.examples.train
        example = train[int(generator.choice(chosen.rows))]
        weights = np.array([weight for _, weight in example.targets])
        if not weights.sum() > 0:
            continue
        answer = example.targets[generator.choice(len(weights), p=weights / weights.sum())][0]
        prompt_ids = texts.encode(example.prompt, task.max_prompt_tokens)
        yield (
            torch.tensor([prompt_ids]),
            torch.tensor([texts.encode(answer, task.max_answer_tokens)]),
        )
