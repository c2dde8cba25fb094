"""Notes to the tables of a leaderboard: which numbers are not comparable, and what is missing."""

from collections.abc import Sequence

from eval.leaderboard.board import Board, Group
from eval.leaderboard.quantities import Cost
from eval.text import counted

__all__ = [
    "FLOOR_NOTE",
    "SIGNIFICANCE_NOTE",
    "SUITE_NOTE",
    "answering_note",
    "cost_note",
    "incomplete_notes",
    "needed_note",
    "recompute_note",
]

MAX_INCOMPLETE_SHOWN = 5
SUITE_NOTE = (
    "the mean over the tasks for each seed, then mean and deviation over seeds. Memory is that of "
    "the task that needs most, time that of all tasks together."
)

FLOOR_NOTE = (
    "Floors say what a score is worth and do not compete: zero-shot is the backbone without "
    "training, blind is a model whose image features are zeros."
)
SIGNIFICANCE_NOTE = (
    "Brackets are the 95 % interval of a single run. Columns 'vs' say whether a row is "
    "better, worse, or not told apart: paired tests on the same examples, with errors clustered by "
    "image, at 2 % over all pairs of rows of a table (Holm). Between rows with two or more seeds "
    "they include the variance between seeds; otherwise they compare the trained models. A dash "
    "means that per-example scores are missing, which vl-lst evaluate adds."
)
MAX_NEEDED_SHOWN = 5
NOTES_ON_COSTS = {
    "seconds_per_answer": (
        "Time/answer is that of answering the validation split in batches, for which a ladder runs "
        "two networks, the backbone and its side network."
    ),
    "forgetting": (
        "Forgetting is how much the backbone's loss on text like that of its pretraining has "
        "increased, in nats per token; 0 where it is frozen."
    ),
}


def needed_note(group: Group) -> str | None:
    """Return how many examples would tell rows apart from the best one, of those that are not.

    Returns:
        The note; `None` if there are none.
    """
    if not group.contrasts:
        return None
    contrast = group.contrasts[0]
    found = [
        (group.rows_and_floors[index].label, each.test)
        for index, each in enumerate(contrast.tests)
        if each is not None and each.verdict_of(index) == "not told apart"
    ]
    needed = [
        f"{label} {test.examples_needed:,}"
        for label, test in found
        if test.examples_needed is not None
    ]
    if not needed:
        return None
    more = f" and {len(needed) - MAX_NEEDED_SHOWN:,} more" if len(needed) > MAX_NEEDED_SHOWN else ""
    return (
        "Number of examples with which a single test would tell a true difference of this size "
        f"from {group.rows_and_floors[contrast.reference].label} with a power of 80 % (there are "
        f"{found[0][1].examples:,}): {', '.join(needed[:MAX_NEEDED_SHOWN])}{more}."
    )


def cost_note(group: Group, costs: Sequence[Cost]) -> str | None:
    """Return a note that names the costs that cannot be compared between the rows of a group.

    Args:
        group: Group of rows.
        costs: Costs with a column in the table.

    Returns:
        The note; `None` if all costs are comparable.
    """
    labels = [
        cost.label
        for cost in costs
        if cost.measured_under is None and not group.is_comparable(cost)
    ]
    if not labels:
        return None
    return (
        f"{', '.join(labels)}: not comparable between rows, which were measured on "
        f"{'; '.join(group.devices)}."
    )


def answering_note(group: Group) -> str | None:
    """Return a note on what the costs of answering are, and which costs cannot be compared.

    Returns:
        The note; `None` if no row has such a cost.
    """
    costs = [cost for cost in group.costs if cost.measured_under is not None]
    if not costs:
        return None
    notes = [NOTES_ON_COSTS[cost.key] for cost in costs if cost.key in NOTES_ON_COSTS]
    if labels := [cost.label for cost in costs if not group.is_comparable(cost)]:
        notes.append(
            f"{', '.join(labels)}: not comparable between rows, which were measured on other "
            "devices, splits or texts, or in batches of other sizes."
        )
    return " ".join(notes)


def recompute_note(group: Group) -> str | None:
    """Return a note that some runs of a group recompute blocks and others do not, if so."""
    recomputed = [row.label for row in group.rows if True in row.recomputing]
    kept = [row.label for row in group.rows if False in row.recomputing]
    if not recomputed or not kept:
        return None
    return (
        "Saved bytes, CUDA peak and speed do not compare methods alone: "
        f"{', '.join(recomputed)} recompute blocks in the backward pass (gradient checkpointing), "
        f"which saves memory and costs time, and {', '.join(kept)} do not."
    )


def incomplete_notes(board: Board) -> list[str]:
    """Return which runs are not a result of their suite, and why; the first ones of many."""
    notes = [
        f"No result of {each.suite} for {each.method}, seed {each.seed} "
        f"({', '.join(each.runs)}): {each.reason}"
        for each in board.incomplete[:MAX_INCOMPLETE_SHOWN]
    ]
    if further := len(board.incomplete) - len(notes):
        more = counted(
            further,
            "more seed without a result of its suite",
            "more seeds without a result of their suite",
        )
        notes.append(f"{more}: see the page")
    return notes
