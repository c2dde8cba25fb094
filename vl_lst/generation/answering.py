"""Answers to batches of examples.

B examples, L answer tokens, A answers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from eval.errors import InputError
from tasks import get_task
from vl_lst.devices import autocast, float32_products
from vl_lst.generation.answer_tree import AnswerTree
from vl_lst.generation.search import generate
from vl_lst.models.batch import Batch
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel

__all__ = ["Answerer"]

# As in the sample submissions of GLUE.
DECIMALS = 3


class Answerer:
    """Predictor of answers, with the head of each batch's task.

    Args:
        built: Model, which is in evaluation mode while it answers.
        recipe: Recipe with the settings for generation and the precision.
        answers: Answer list of each task; `None` if its answers are free text.
        device: Device of the model.

    Raises:
        InputError: All answers on the list of a task are longer than `generation.max_length`.
    """

    def __init__(
        self,
        built: BuiltModel,
        recipe: Recipe,
        answers: Mapping[str, Sequence[str] | None],
        device: torch.device,
    ) -> None:
        self._model = built.model
        self._tokenizer = built.tokenizer
        self._recipe = recipe
        self._answers = answers
        self._device = device
        self._trees: dict[str, AnswerTree] = {}
        for task in recipe.tasks:
            # Built now, so that an unusable list is refused before training.
            if not self.is_ranked(task):
                self._tree(task)

    def is_ranked(self, task: str) -> bool:
        """Return whether the task classifies, so that every answer has a score."""
        return self._recipe.head[task] == "classify"

    @torch.no_grad()
    def answer(self, batch: Batch) -> list[str]:
        """Return the best answer to each example."""
        if self.is_ranked(batch.task):
            return [ranked[0][0] for ranked in self.rank(batch, 1)]
        if self._recipe.head[batch.task] == "regress":
            return self._numbers(batch)
        settings, tree = self._recipe.generation, self._tree(batch.task)
        with self._evaluating(batch) as moved:
            # The start token counts too.
            ids_BL = generate(
                self._model,
                moved,
                max_length=settings.max_length[batch.task] + 1,
                beams=settings.beams[batch.task],
                answers=tree,
            )
        return [self._tokenizer.decode(ids) for ids in ids_BL[:, 1:].tolist()]

    def _numbers(self, batch: Batch) -> list[str]:
        """Return answers that are numbers, limited to the task's range."""
        limits = get_task(batch.task).value_range
        assert limits is not None
        with self._evaluating(batch) as moved:
            values_B = self._model.regress(moved).float().clamp(*limits)
        return [f"{value:.{DECIMALS}f}" for value in values_B.tolist()]

    @torch.no_grad()
    def rank(self, batch: Batch, count: int) -> list[list[tuple[str, float]]]:
        """Return the best answers to each example of a classification task, with scores.

        Answers are scored independently: a score is a sigmoid in [0, 1], the accuracy that the
        model expects of that answer. The scores of an example need not sum to one.

        Args:
            batch: Examples.
            count: Maximum number of answers per example.
        """
        answers = self._answers[batch.task]
        if answers is None or not self.is_ranked(batch.task):
            raise RuntimeError(f"{batch.task} has no answer list to rank: it does not classify")
        with self._evaluating(batch) as moved:
            logits_BA = self._model.classify(moved).float()
        best = logits_BA.topk(min(count, len(answers)), dim=1)
        return [
            [(answers[row], score) for row, score in zip(rows, scores, strict=True)]
            for rows, scores in zip(
                best.indices.tolist(), best.values.sigmoid().tolist(), strict=True
            )
        ]

    def answer_all(
        self, batches: Iterable[Batch], on_batch: Callable[[int], None] = lambda done: None
    ) -> dict[str, str]:
        """Return the answers of several batches by example ID.

        Args:
            batches: Examples.
            on_batch: Called after each batch with the number of examples answered so far.
        """
        answers: dict[str, str] = {}
        for batch in batches:
            answers.update(zip(batch.example_ids, self.answer(batch), strict=True))
            on_batch(len(answers))
        return answers

    def _tree(self, task: str) -> AnswerTree | None:
        """Return the tree of a task's answers, without those that are too long to generate."""
        answers = self._answers[task]
        if answers is None:
            return None
        if task not in self._trees:
            max_length = self._recipe.generation.max_length[task]
            # With a limit of one more token, an answer that is too long is recognised.
            encoded = [self._tokenizer.encode_answer(answer, max_length + 1) for answer in answers]
            fitting = [ids for ids in encoded if len(ids) <= max_length]
            if not fitting:
                raise InputError(
                    f"no answer on the list of {task} has at most {max_length} tokens; raise "
                    f"generation.max_length.{task} or remove generation.constrain_to_answers"
                )
            vocabulary = len(self._model.backbone.vocabulary_weight)
            self._trees[task] = AnswerTree(fitting, vocabulary=vocabulary, device=self._device)
        return self._trees[task]

    @contextmanager
    def _evaluating(self, batch: Batch) -> Iterator[Batch]:
        was_training = self._model.training
        self._model.eval()
        try:
            with (
                autocast(self._recipe.training.precision, self._device),
                float32_products(tf32=self._recipe.training.tf32, device=self._device),
            ):
                yield batch.to(self._device)
        finally:
            self._model.train(was_training)
