"""`vl-lst compare`: how two runs differ in their settings, scores and answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vl_lst.cli._console import results
from vl_lst.cli._outputs import JsonOption, write_json_report

if TYPE_CHECKING:
    from eval.leaderboard.runs import Run
    from vl_lst.cli._differing_examples import DifferingExample
    from vl_lst.cli._run_comparison import TaskComparison

__all__ = ["compare"]

MISSING = "–"


def compare(
    first: Annotated[
        Path, typer.Argument(metavar="RUN_A", help="Run directory of `vl-lst train`.")
    ],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another run directory.")],
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK", help="Task to compare. Default: all that both have scores of."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT",
            help="Split to compare. Default: the split that chose the best checkpoints.",
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, max=10_000, help="Maximum number of differing examples per task."
        ),
    ] = 10,
    json_file: JsonOption = None,
) -> None:
    """Compare two finished runs: settings, scores with a paired test, and answers that differ.

    First come the settings in which the runs differ. The test compares both runs on the same
    examples, with errors clustered by image, and says whether A is better, worse, or not told apart
    from B at 2 %. Last come examples that only one of the runs answers right.

    Example: vl-lst compare runs/lst-seed-0 runs/lora-seed-0 --limit 20
    """
    from vl_lst.cli._run_comparison import compare_settings, compare_tasks, read_run

    runs = read_run(first), read_run(second)
    settings = compare_settings(*runs)
    found = compare_tasks(*runs, task=task, split=split, limit=limit)
    for name, run in zip("AB", runs, strict=True):
        _print(f"{name}: {run.name} ({run.record.method}, seed {run.record.seed})")
    _print_settings(settings)
    for each in found:
        _print_task(each)
    if num_tests := sum(each.test is not None for each in found):
        _print(_test_note(num_tests))
    write_json_report(json_file, _document(runs, settings, found))


def _print(text: str) -> None:
    from eval.text import escape_controls

    results.print(escape_controls(text), markup=False)


def _print_settings(settings: dict[str, tuple[str | None, str | None]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from eval.leaderboard.units import setting_text
    from eval.text import escape_controls

    if not settings:
        _print("The runs have the same settings.")
        return
    table = Table(title="Settings that differ")
    for heading in ("setting", "A", "B"):
        table.add_column(heading, overflow="fold")
    for name, values in settings.items():
        cells = [MISSING if value is None else setting_text(value) for value in values]
        table.add_row(*(Text(escape_controls(cell)) for cell in (name, *cells)))
    results.print(table)


def _print_task(found: "TaskComparison") -> None:
    _print(f"\n{found.task} on {found.split}, {found.metric} in percent")
    for name, score, bounds in zip("AB", found.scores, found.intervals, strict=True):
        shown = f"  95 % interval {bounds[0]:.2f} to {bounds[1]:.2f}" if bounds else ""
        _print(f"  {name} {score:.2f}{shown}")
    if found.test is not None:
        _print(f"  A - B {_test_text(found)}")
    if found.only_right is not None:
        _print("  only A right: {:,}, only B right: {:,}".format(*found.only_right))
    if found.note:
        _print(f"  {found.note}")
    for example in found.examples:
        _print_example(example, is_graded=found.only_right is not None)


def _test_text(found: "TaskComparison") -> str:
    from eval.leaderboard.units import probability_text
    from eval.statistics.paired import LEVEL

    test = found.test
    assert test is not None
    assert found.probability is not None
    shown = probability_text(found.probability)
    said = f"A is {found.verdict}"
    if found.verdict == "not told apart":
        said = "A and B are not told apart"
    text = (
        f"{test.difference:+.2f}  {100 * (1 - LEVEL):.0f} % interval {test.low:+.2f} to "
        f"{test.high:+.2f}, p {shown}: {said}"
    )
    if found.verdict == "not told apart" and test.examples_needed is not None:
        text += (
            f". A true difference of this size would be found with {test.examples_needed:,} "
            f"examples (power 80 %); there are {test.examples:,}"
        )
    return text


def _test_note(num_tests: int) -> str:
    from eval.statistics.paired import LEVEL

    adjusted = ", adjusted for the number of tasks (Holm)" if num_tests > 1 else ""
    return (
        "\nPaired test on the same examples, errors clustered by image, level "
        f"{100 * LEVEL:.0f} %{adjusted}. It compares these two trained models; other seeds of the "
        "same methods may differ."
    )


def _print_example(example: "DifferingExample", *, is_graded: bool) -> None:
    if is_graded:
        marks = [" (right)", " (wrong)"]
        if example.scores[0] < example.scores[1]:
            marks.reverse()
    else:
        marks = [f" ({score:.1f})" for score in example.scores]
    prompt = f"  {example.prompt}" if example.prompt else ""
    _print(f"\n  {example.id}{prompt}")
    if example.answers:
        _print(f"    truth: {' · '.join(example.answers)}")
    for name, prediction, mark in zip("AB", example.predictions, marks, strict=True):
        _print(f"    {name}: {prediction or '(empty)'}{mark}")


def _document(
    runs: "tuple[Run, Run]",
    settings: dict[str, tuple[str | None, str | None]],
    found: "list[TaskComparison]",
) -> dict[str, Any]:
    import json
    from dataclasses import asdict

    from eval.statistics.paired import LEVEL

    return {
        "schema_version": 1,
        "level": LEVEL,
        "runs": [
            {"path": run.name, "method": run.record.method, "seed": run.record.seed} for run in runs
        ],
        "settings": {
            name: [None if value is None else json.loads(value) for value in values]
            for name, values in settings.items()
        },
        "tasks": [asdict(each) for each in found],
    }
