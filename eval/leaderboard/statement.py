"""What a table shows, in plain English.

Nothing is claimed within noise: a row is better or worse than another only if their paired test
says so. Costs are compared only where they are comparable between the rows.
"""

from collections.abc import Iterable, Mapping, Sequence

from eval.leaderboard.board import Group
from eval.leaderboard.quantities import AVERAGE, COSTS, MEMORY
from eval.leaderboard.rows import FloorKind, Row
from eval.leaderboard.significance import RowTest
from eval.leaderboard.units import number_text
from eval.statistics.paired import Verdict

__all__ = ["describe_group", "leading_rows"]

MAX_NAMES = 4
# Smaller differences between costs are not worth a sentence.
MIN_RATIO = 1.1
MIN_RATIO_WITHOUT_DECIMALS = 10
FLOOR_KINDS: Mapping[FloorKind, str] = {
    "blind": "a model that does not see the images",
    "zero-shot": "the backbone without training",
}
LEFT_TO_RIGHT_MARK = "\u200e"
UNTESTED = (
    "Whether the differences are more than chance is unknown, because per-example scores are "
    "missing (vl-lst evaluate adds them)."
)
ONE_SEED = "The tests compare the trained models; other seeds may give other results."
SOME_ONE_SEED = "Rows with one seed are compared as trained models; other seeds may differ."


def leading_rows(group: Group, score: str) -> frozenset[int]:
    """Return the rows with the highest score and those that are not told apart from it.

    Args:
        group: Table.
        score: Name of the score, one of `columns`.

    Returns:
        Their indices; none if no row is tested against that with the highest score.
    """
    means = [row.scores[score].mean for row in group.rows]
    highest = means.index(max(means))
    verdicts = {row: _verdict(group, score, row, highest) for row in range(len(means))}
    others = {row: verdict for row, verdict in verdicts.items() if row != highest}
    if all(verdict is None for verdict in others.values()):
        return frozenset()
    alike = (row for row, verdict in others.items() if verdict == "not told apart")
    return frozenset([highest, *alike])


def describe_group(group: Group) -> str:
    """Return sentences about which row is best, by which evidence and at what cost.

    Args:
        group: Table.
    """
    sentences = (_ranking(group), _evidence(group), _floors(group), _cost(group))
    return " ".join(sentence for sentence in sentences if sentence)


def _ranking(group: Group) -> str:
    """Return how the row with the highest score compares with the others."""
    best = group.rows[0]
    where = "on average" if group.main_column == AVERAGE else f"in {group.main_column}"
    score = _score(group, best)
    if len(group.rows) == 1:
        return f"{_name(best)} scores {score} {where}{_spread(group, best)}."
    equal = [row for row in group.rows if _mean(group, row) == _mean(group, best)]
    if len(equal) > 1:
        return f"{_names(equal)} share the highest score {where}, {score}."
    by_verdict: dict[Verdict | None, list[Row]] = {}
    for index, row in enumerate(group.rows[1:], 1):
        by_verdict.setdefault(_verdict(group, group.main_column, index, 0), []).append(row)
    worse = by_verdict.get("worse", [])
    if len(worse) == len(group.rows) - 1:
        return f"{_name(best)} is best {where}, {score}: {_are(worse, 'worse', all_others=True)}."
    text = f"{_name(best)} has the highest score {where}, {score}"
    parts = [
        _are(by_verdict.get("not told apart", []), "not told apart from it"),
        _are(worse, "worse"),
        _are(by_verdict.get(None, []), "not tested") if len(by_verdict) > 1 else "",
    ]
    return f"{'; '.join([text, *(part for part in parts if part)])}."


def _evidence(group: Group) -> str:
    """Return what the tests between the rows do not tell; empty if they tell all."""
    num_rows = len(group.rows)
    if num_rows == 1:
        return ""
    tests = [test for test in group.tests.get(group.main_column, ()) if max(test.rows) < num_rows]
    if not tests:
        return UNTESTED
    have_seeds = [each.test.has_seeds for each in tests]
    if all(have_seeds):
        return ""
    return SOME_ONE_SEED if any(have_seeds) else ONE_SEED


def _floors(group: Group) -> str:
    """Return which rows are better than the highest floor, by test."""
    if not group.floors:
        return ""
    index, floor = len(group.rows), group.floors[0]
    assert floor.floor is not None, "all floors have a kind"
    kind = FLOOR_KINDS[floor.floor]
    name = f"the floor of {_score(group, floor)}, {kind}"
    verdicts = [_verdict(group, group.main_column, row, index) for row in range(len(group.rows))]
    if all(verdict is None for verdict in verdicts):
        return f"{kind[0].upper()}{kind[1:]} scores {_score(group, floor)} (not tested)."
    better = [row for row, verdict in zip(group.rows, verdicts, strict=True) if verdict == "better"]
    if len(better) == len(group.rows):
        who = "It is" if len(better) == 1 else "All rows are"
        return f"{who} better than {name}."
    others = [row for row in group.rows if row not in better]
    return f"{_are(others, 'not shown to be better')} than {name}."


def _cost(group: Group) -> str:
    """Return what the best row costs, or how much cheaper another row is."""
    memory = next(cost for cost in COSTS if cost.key == MEMORY)
    costs = {
        index: found.mean
        for index, row in enumerate(group.rows)
        if (found := row.costs[memory.key]) is not None and found.mean > 0
    }
    if not group.is_comparable(memory) or 0 not in costs or len(costs) < 2:
        return ""
    cheaper = [row for row, cost in costs.items() if costs[0] / cost >= MIN_RATIO]
    if not cheaper:
        others = [cost / costs[0] for row, cost in costs.items() if row]
        if min(others) < MIN_RATIO:
            return ""
        return (
            f"It also needs the least memory for the backward pass: "
            f"{number_text(costs[0], 'bytes')}, {_times(min(others), max(others))} less than the "
            f"other rows."
        )
    verdicts = {row: _verdict(group, group.main_column, row, 0) for row in cheaper}
    alike = [row for row in cheaper if verdicts[row] == "not told apart"]
    chosen = min(alike or cheaper, key=lambda row: costs[row])
    ratio = costs[0] / costs[chosen]
    text = (
        f"{_name(group.rows[chosen])} needs {_times(ratio, ratio)} less memory for the backward "
        f"pass than {_name(group.rows[0])} ({number_text(costs[chosen], 'bytes')} instead of "
        f"{number_text(costs[0], 'bytes')})"
    )
    if not alike:
        lower = _mean(group, group.rows[0]) - _mean(group, group.rows[chosen])
        text += f", and scores {lower:.1f} less"
    recomputing = [group.rows[row] for row in (chosen, 0) if True in group.rows[row].recomputing]
    if len(recomputing) == 1:
        text += f"; {_name(recomputing[0])} recomputes blocks, which saves memory and costs time"
    return f"{text}."


def _verdict(group: Group, score: str, row: int, other: int) -> Verdict | None:
    """Return what the test between two rows or floors says about the first; `None` without one."""
    wanted = (min(row, other), max(row, other))
    found: Iterable[RowTest] = (each for each in group.tests.get(score, ()) if each.rows == wanted)
    return next((each.verdict_of(row) for each in found), None)


def _name(row: Row) -> str:
    # After a name in letters that run from right to left, numbers would move to its other side.
    return row.label if row.label.isascii() else f"{row.label}{LEFT_TO_RIGHT_MARK}"


def _mean(group: Group, row: Row) -> float:
    return row.scores[group.main_column].mean


def _score(group: Group, row: Row) -> str:
    return f"{_mean(group, row):.1f}"


def _spread(group: Group, row: Row) -> str:
    statistic = row.scores[group.main_column]
    if statistic.deviation is not None:
        return f" (± {statistic.deviation:.1f} over {len(row.seeds)} seeds)"
    if statistic.interval is not None:
        low, high = statistic.interval
        return f" (95 % interval {low:.1f} to {high:.1f})"
    return ""


def _are(rows: Sequence[Row], what: str, *, all_others: bool = False) -> str:
    """Return that some rows are something; empty if there are none."""
    if not rows:
        return ""
    if all_others and len(rows) > MAX_NAMES:
        return f"all {len(rows)} other rows are {what}"
    return f"{_names(rows)} {'is' if len(rows) == 1 else 'are'} {what}"


def _names(rows: Sequence[Row]) -> str:
    shown = [_name(row) for row in rows[:MAX_NAMES]]
    if len(rows) > MAX_NAMES:
        shown[MAX_NAMES - 1 :] = [f"{len(rows) - MAX_NAMES + 1} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _times(low: float, high: float) -> str:
    first, last = _ratio(low), _ratio(high)
    return f"{first} times" if first == last else f"{first} to {last} times"


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= MIN_RATIO_WITHOUT_DECIMALS else f"{value:.1f}"
