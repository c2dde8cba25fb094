"""How scores are shown to people and written for machines; `score` and `evaluate` share it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from rich.table import Table
from rich.text import Text

from eval.errors import InputError
from eval.intervals import CONFIDENCE
from tasks import Score, Task
from vl_lst.cli._console import results, status

__all__ = ["print_score", "require_metrics", "score_document"]

# Points between the official and the lenient score from which a note is worth its line.
NOTEWORTHY_GAP = 2.0


def score_document(task: Task, split: str, score: Score) -> dict[str, object]:
    """Return what `--json` writes; "reasons" and "notes" are in it only where there are any."""
    document: dict[str, object] = {
        "task": task.name,
        "split": split,
        "protocol": score.protocol,
        "metrics": dict(score.metrics),
        "per_example": dict(score.per_example),
    }
    if score.reasons:
        document["reasons"] = dict(score.reasons)
    if score.notes:
        document["notes"] = list(score.notes)
    return document


def require_metrics(score: Score, names: Iterable[str]) -> None:
    """Refuse a score that lacks one of these metrics.

    Raises:
        InputError: There is no such metric, or the given files do not allow it.
    """
    for name in names:
        if name not in score.metrics:
            raise InputError(f"no metric {name!r}; there are: {', '.join(score.metrics)}")
        if score.metrics[name] is None:
            reason = score.reasons.get(name, "the given files do not allow it")
            raise InputError(f"{name} cannot be computed: {reason}")


def print_score(task: Task, split: str, score: Score, *, quiet: bool) -> None:
    """Print a table of all metrics, and notes on what it lacks or what is odd about it.

    Args:
        task: The task that was scored.
        split: The split that was scored.
        score: What the evaluator says.
        quiet: Leave out the notes.
    """
    table = Table(
        title=f"{task.name} {split}: {score.examples:,} examples",
        caption=f"protocol: {score.protocol}",
    )
    table.add_column("metric")
    table.add_column("score", justify="right")
    for name, value in _rows(score.metrics):
        table.add_row(Text(name), value, style="bold" if name == task.primary_metric else None)
    results.print(table)
    if quiet:
        return
    metrics_of: defaultdict[str, list[str]] = defaultdict(list)
    for name, reason in score.reasons.items():
        metrics_of[reason].append(name)
    for reason, names in metrics_of.items():
        status.print(f"note: no {', '.join(names)}: {reason}", markup=False)
    for note in score.notes:
        status.print(f"note: {note}", markup=False)
    official = score.metrics.get(task.primary_metric)
    lenient = score.metrics.get(f"lenient_{task.primary_metric}")
    if not isinstance(official, float) or not isinstance(lenient, float):
        return
    if lenient - official > NOTEWORTHY_GAP:
        status.print(
            f"note: {lenient - official:.2f} points are lost to the form of answers alone (case, "
            "articles, punctuation). The official rules do not forgive it everywhere; scores "
            "computed by other code may be the lenient one.",
            markup=False,
        )


def _rows(metrics: Mapping[str, object], indent: str = "") -> Iterator[tuple[str, str]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping) and set(value) == {"accuracy", "count"}:
            yield f"{indent}{name} ({value['count']:,})", _text(value["accuracy"])
        elif isinstance(value, Mapping):
            yield f"{indent}{name}", ""
            yield from _rows(dict(sorted(value.items(), key=_by_number_or_name)), f"{indent}  ")
        else:
            yield f"{indent}{name}", _text(value)


def _by_number_or_name(item: tuple[str, object]) -> tuple[int, str]:
    name, _ = item
    return (int(name), "") if name.isdecimal() else (-1, name)


def _text(value: object) -> str:
    if isinstance(value, list):
        low, high = map(_text, value)
        return f"{low} to {high} ({CONFIDENCE:.0%})"
    if isinstance(value, float):
        return f"{value:.2f}" if round(value, 2) == value else f"{value:.4f}"
    return "not computed" if value is None else str(value)
