"""Gallery of a table: examples with the answer of its best row and those of others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.leaderboard.board import Group
from eval.leaderboard.runs import Run
from eval.report.examples import ExampleCard, ExampleSheet

__all__ = ["Gallery", "GalleryCard", "OtherAnswer", "make_gallery"]

MAX_CARDS = 12
MAX_OTHER_ROWS = 3


@dataclass(frozen=True, slots=True)
class OtherAnswer:
    """Answer of another row to an example.

    Args:
        label: Label of the row.
        prediction: Answer.
        is_right: As in `ExampleCard`.
    """

    label: str
    prediction: str
    is_right: bool | None


@dataclass(frozen=True, slots=True)
class GalleryCard:
    """An example, the answer of the best row, and answers of others.

    Args:
        task: Task.
        run: Name of the run that answered.
        card: Example and answer.
        others: Answers of other rows.
    """

    task: str
    run: str
    card: ExampleCard
    others: Sequence[OtherAnswer]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Examples of a table.

    Args:
        label: Label of the row whose answers are shown.
        runs: Name of its run, by task.
        graded: Tasks whose answers are right or wrong.
        cards: Examples.
    """

    label: str
    runs: Mapping[str, str]
    graded: frozenset[str]
    cards: Sequence[GalleryCard]


def make_gallery(group: Group, sheets: Mapping[str, Sequence[ExampleSheet]]) -> Gallery | None:
    """Return examples that the best row answers; `None` if there are none.

    Tasks take turns, and wrong answers alternate with right ones.

    Args:
        group: Table.
        sheets: Examples of each run, by the name of the run.
    """
    best = group.rows[0]
    own = {task: _cards_of(_first_run(best.runs, task), task, sheets) for task in group.tasks}
    if not any(own.values()):
        return None
    others = [
        (
            row.label,
            {task: _by_id(_first_run(row.runs, task), task, sheets) for task in group.tasks},
        )
        for row in group.rows_and_floors[1:]
    ]
    chosen = _take_turns(own)
    cards = [
        GalleryCard(
            task,
            _first_run(best.runs, task).name,
            card,
            [
                OtherAnswer(label, found.prediction, found.is_right)
                for label, answers in others
                if (found := answers[task].get(card.id)) is not None
            ][:MAX_OTHER_ROWS],
        )
        for task, card in chosen
    ]
    runs = {task: _first_run(best.runs, task).name for task, found in own.items() if found}
    graded = frozenset(
        task for task, found in own.items() if any(card.is_right is not None for card in found)
    )
    return Gallery(best.label, runs, graded, cards)


def _first_run(runs: Sequence[Run], task: str) -> Run:
    return next(run for run in runs if task in run.record.tasks)


def _cards_of(
    run: Run, task: str, sheets: Mapping[str, Sequence[ExampleSheet]]
) -> Sequence[ExampleCard]:
    return [card for each in sheets.get(run.name, ()) if each.task == task for card in each.cards]


def _by_id(
    run: Run, task: str, sheets: Mapping[str, Sequence[ExampleSheet]]
) -> Mapping[str, ExampleCard]:
    return {card.id: card for card in _cards_of(run, task, sheets)}


def _take_turns(by_task: Mapping[str, Sequence[ExampleCard]]) -> list[tuple[str, ExampleCard]]:
    """Return the cards to show with their task.

    Tasks take turns. Right and wrong answers alternate as long as there are both, and images differ
    as long as there are others.
    """
    queues = {
        task: (
            [card for card in cards if card.is_right is not False],
            [card for card in cards if card.is_right is False],
        )
        for task, cards in by_task.items()
    }
    chosen: list[tuple[str, ExampleCard]] = []
    shown: set[str] = set()
    for turn in range(MAX_CARDS):
        for task, (right, wrong) in queues.items():
            first, second = (wrong, right) if turn % 2 else (right, wrong)
            queue = first or second
            if queue:
                new = (card for card in queue if not shown.intersection(card.image_ids))
                card = next(new, queue[0])
                queue.remove(card)
                shown.update(card.image_ids)
                chosen.append((task, card))
    return chosen[:MAX_CARDS]
