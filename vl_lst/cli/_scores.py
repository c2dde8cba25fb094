"""How scores are shown to people and written for machines; `score` and `evaluate` share it."""

from collections.abc import Iterator, Mapping

from rich.table import Table
from rich.text import Text

from tasks import Score, Task
from vl_lst.cli._console import results, status

__all__ = ["print_score", "score_document"]

# Points between the official and the lenient score from which a note is worth its line.
NOTEWORTHY_GAP = 2.0


def score_document(task: Task, split: str, score: Score) -> dict[str, object]:
    """Return what `--json` writes."""
    return {
        "task": task.name,
        "split": split,
        "protocol": score.protocol,
        "metrics": dict(score.metrics),
        "per_example": dict(score.per_example),
    }


def print_score(task: Task, split: str, score: Score, *, quiet: bool) -> None:
    """Print a table of all metrics, and a note where the form of answers costs much.

    Args:
        task: The task that was scored.
        split: The split that was scored.
        score: What the evaluator says.
        quiet: Leave out the note.
    """
    table = Table(
        title=f"{task.name} {split}: {len(score.per_example):,} examples",
        caption=f"protocol: {score.protocol}",
    )
    table.add_column("metric")
    table.add_column("score", justify="right")
    for name, value in _rows(score.metrics):
        table.add_row(Text(name), value, style="bold" if name == task.primary_metric else None)
    results.print(table)
    official = score.metrics.get(task.primary_metric)
    lenient = score.metrics.get(f"lenient_{task.primary_metric}")
    if quiet or not isinstance(official, float) or not isinstance(lenient, float):
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
        if isinstance(value, Mapping):
            yield f"{indent}{name}", ""
            yield from _rows(dict(sorted(value.items())), f"{indent}  ")
        else:
            yield f"{indent}{name}", _text(value)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if round(value, 2) == value else f"{value:.4f}"
    return "not computed" if value is None else str(value)
