"""What a method makes its backbone forget, measured and printed by `vl-lst evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING

from eval.leaderboard.units import number_text
from vl_lst.bundled import DEMO, PRETRAINING_TEXT
from vl_lst.cli._console import notes, progress, results

if TYPE_CHECKING:
    from vl_lst.run import Run

__all__ = ["report_forgetting"]


def report_forgetting(run: "Run", text: str, *, quiet: bool) -> dict[str, object]:
    """Measure the forgetting of a trained run, print it, and return the JSON report.

    Args:
        run: The run.
        text: Path of a text file, or `demo`.
        quiet: Whether to show no progress and no notes.

    Raises:
        InputError: Nothing was trained, or the text is not usable.
        ModelError: The backbone has no pretraining objective.
    """
    path = PRETRAINING_TEXT if text == DEMO else Path(text)
    with notes(quiet=quiet), progress("measuring forgetting", quiet=quiet) as report:
        found = run.measure_forgetting(path, report=report)
    how = (
        "by construction: the backbone is frozen, and its weights are those before training"
        if found.is_by_construction
        else f"from {found.loss_before:.4f} to {found.loss_after:.4f}"
    )
    change = number_text(found.increase, "nats")
    results.print(
        f"forgetting: {change} nats per token {how} ({found.objective}, {found.tokens:,} tokens)",
        markup=False,
    )
    return {**found.model_dump(mode="json"), "increase": found.increase}
