"""From batches to answers.

B examples, A answers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from eval.errors import InputError
from vl_lst.devices import arithmetic
from vl_lst.generation.answer_tree import AnswerTree
from vl_lst.generation.search import generate
from vl_lst.models.batch import Batch
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel

__all__ = ["Answerer"]


class Answerer:
    """Answers examples with a model, by the head of the batch's task.

    Args:
        built: The model; put into evaluation mode while it answers.
        recipe: How it generates, and at which precision.
        answers: The list each task's answers are from; `None` where it may generate any.
        device: Where the model is.

    Raises:
        InputError: No answer on the list of a task fits into what may be generated.
    """

    def __init__(
        self,
        built: BuiltModel,
        recipe: Recipe,
        answers: Mapping[str, Sequence[str] | None],
        device: torch.device,
    ) -> None:
        self._model = built.model
        self._texts = built.texts
        self._recipe = recipe
        self._answers = answers
        self._device = device
        self._trees: dict[str, AnswerTree] = {}
        for task in recipe.tasks:
            # Before training, since a list of which nothing fits is refused.
            if not self.ranks(task):
                self._tree(task)

    def ranks(self, task: str) -> bool:
        """Whether the task classifies, so that all answers have a score."""
        return self._recipe.head[task] == "classify"

    @torch.no_grad()
    def best(self, batch: Batch) -> list[str]:
        """The answer to each example."""
        if self.ranks(batch.task):
            return [ranked[0][0] for ranked in self.ranked(batch, 1)]
        settings, tree = self._recipe.generation, self._tree(batch.task)
        with self._evaluating(batch) as moved:
            # The start token takes a place of its own.
            ids_BL = generate(
                self._model,
                moved,
                max_length=settings.max_length[batch.task] + 1,
                beams=settings.beams[batch.task],
                answers=tree,
            )
        return [self._texts.decode(ids) for ids in ids_BL[:, 1:].tolist()]

    @torch.no_grad()
    def ranked(self, batch: Batch, count: int) -> list[list[tuple[str, float]]]:
        """Return the best answers to each example with their scores, of a task that classifies.

        The loss judges each answer alone. A score is a sigmoid in [0, 1]: the accuracy that the
        model expects of that answer. Scores are no distribution over answers and need not add up
        to one.
        """
        answers = self._answers[batch.task]
        if answers is None or not self.ranks(batch.task):
            raise RuntimeError(f"{batch.task} generates: it has no answer list to rank")
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
        """Answers by example id.

        Args:
            batches: To answer.
            on_batch: Told after each batch how many examples are done.
        """
        answers: dict[str, str] = {}
        for batch in batches:
            answers.update(zip(batch.example_ids, self.best(batch), strict=True))
            on_batch(len(answers))
        return answers

    def _tree(self, task: str) -> AnswerTree | None:
        """What the task may generate; answers that would be cut are left out."""
        answers = self._answers[task]
        if answers is None:
            return None
        if task not in self._trees:
            most = self._recipe.generation.max_length[task]
            # One token more than fits would show that something is missing.
            coded = [self._texts.encode(answer, most + 1) for answer in answers]
            fitting = [ids for ids in coded if len(ids) <= most]
            if not fitting:
                raise InputError(
                    f"no answer on the list of {task} has at most {most} tokens; raise "
                    f"generation.max_length.{task} or leave out generation.constrain_to_answers"
                )
            vocabulary = len(self._model.backbone.vocabulary_weight)
            self._trees[task] = AnswerTree(fitting, vocabulary=vocabulary, device=self._device)
        return self._trees[task]

    @contextmanager
    def _evaluating(self, batch: Batch) -> Iterator[Batch]:
        was_training = self._model.training
        self._model.eval()
        try:
            with arithmetic(self._recipe.training.precision, self._device):
                yield batch.to(self._device)
        finally:
            self._model.train(was_training)
