"""From batches to answers.

B examples, A answers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from vl_lst.models.batch import Batch
from vl_lst.models.generation import generate
from vl_lst.recipes import Recipe
from vl_lst.training.build import BuiltModel, arithmetic

__all__ = ["Answerer"]


class Answerer:
    """Answers examples with a model, by classification or generation.

    Args:
        built: The model; put into evaluation mode while it answers.
        recipe: How it generates, and at which precision.
        answers: The list a classifier chooses from; `None` when generating.
        device: Where the model is.
    """

    def __init__(
        self,
        built: BuiltModel,
        recipe: Recipe,
        answers: Sequence[str] | None,
        device: torch.device,
    ) -> None:
        self._model = built.model
        self._texts = built.texts
        self._recipe = recipe
        self._answers = answers
        self._device = device

    @torch.no_grad()
    def best(self, batch: Batch) -> list[str]:
        """The answer to each example."""
        if self._answers is not None:
            return [ranked[0][0] for ranked in self.ranked(batch, 1)]
        settings = self._recipe.generation
        with self._evaluating(batch) as moved:
            # The start token takes a place of its own.
            ids_BL = generate(
                self._model, moved, max_length=settings.max_length + 1, beams=settings.beams
            )
        return [self._texts.decode(ids) for ids in ids_BL[:, 1:].tolist()]

    @torch.no_grad()
    def ranked(self, batch: Batch, count: int) -> list[list[tuple[str, float]]]:
        """The best answers to each example with their probabilities, of a model that classifies.

        The loss judges each answer alone, so a probability is a sigmoid, the score expected of
        that answer, and those of all answers need not add up to one.
        """
        if self._answers is None:
            raise RuntimeError("this model generates: it has no answer list to rank")
        with self._evaluating(batch) as moved:
            logits_BA = self._model.classify(moved).float()
        best = logits_BA.topk(min(count, len(self._answers)), dim=1)
        return [
            [(self._answers[row], probability) for row, probability in zip(rows, ps, strict=True)]
            for rows, ps in zip(best.indices.tolist(), best.values.sigmoid().tolist(), strict=True)
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

    @contextmanager
    def _evaluating(self, batch: Batch) -> Iterator[Batch]:
        was_training = self._model.training
        self._model.eval()
        try:
            with arithmetic(self._recipe.training.precision, self._device):
                yield batch.to(self._device)
        finally:
            self._model.train(was_training)
