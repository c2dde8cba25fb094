"""`vl-lst leaderboard`: compare finished runs on an HTML page and in tables."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks import SUITES, get_task, task_names
from tasks._suites import splits_of
from vl_lst.cli._choices import SUITE_NAMES
from vl_lst.cli._console import QuietOption, progress, results, status
from vl_lst.cli._outputs import JsonOption, report_file, write_json_report, write_report

if TYPE_CHECKING:
    from eval.leaderboard.board import Board, Group
    from eval.leaderboard.reported import ReportedResults

__all__ = ["build_page", "leaderboard"]

COMPARISON, EXAMPLES = "Comparison", "Examples on the page"
MAX_MISSING_SHOWN = 3
MIN_METHOD_WIDTH = 16
COSTS_SHOWN = ("trainable_percent", "saved_for_backward")
# A narrower terminal shows only the average of several tasks. Each task beyond the fourth needs
# more columns.
MIN_WIDTH_FOR_FOUR_TASKS, WIDTH_OF_SCORE = 120, 15
# A narrower terminal shows no intervals, and one comparison of rows.
MIN_WIDTH_FOR_INTERVALS = 100


def leaderboard(
    runs_dir: Annotated[
        Path,
        typer.Argument(metavar="RUNS_DIR", help="Folder with run directories, at any depth."),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="FILE.html", help="HTML page to write.", callback=report_file),
    ] = Path("leaderboard.html"),
    title: Annotated[
        str, typer.Option(metavar="TEXT", help="Heading of the page.")
    ] = "Leaderboard",
    markdown: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write the tables as Markdown.", callback=report_file
        ),
    ] = None,
    latex: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write the tables as LaTeX (requires the package booktabs).",
            callback=report_file,
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write all groups as one CSV table.", callback=report_file
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=SPLIT",
            help="Split to compare for a task, such as vqa=karpathy_test, or for all tasks of a "
            f"suite ({SUITE_NAMES}); may be repeated. "
            "Default: the split that chose the best checkpoint.",
            rich_help_panel=COMPARISON,
        ),
    ] = None,
    include_dirty: Annotated[
        bool,
        typer.Option(
            "--include-dirty",
            help="Also include runs trained with uncommitted or changing code.",
            rich_help_panel=COMPARISON,
        ),
    ] = False,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="Method, or label of a row, that all rows are tested against, such as `full`, "
            "besides the best row.",
            rich_help_panel=COMPARISON,
        ),
    ] = None,
    reported: Annotated[
        bool,
        typer.Option(
            "--reported/--no-reported",
            help="Include results reported by papers, marked as such.",
            rich_help_panel=COMPARISON,
        ),
    ] = True,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with the images of the examples, to show as thumbnails.",
            rich_help_panel=EXAMPLES,
        ),
    ] = None,
    examples: Annotated[
        int,
        typer.Option(
            min=0,
            max=10_000,
            help="Maximum number of examples per run and task.",
            rich_help_panel=EXAMPLES,
        ),
    ] = 24,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Compare finished runs: scores over seeds, memory, parameters and speed.

    Writes one self-contained HTML page that opens offline, and prints a table per group of
    comparable runs. Runs are comparable if they differ in nothing but the method and the seed.
    Runs that failed, were cancelled, lack scores or were trained with uncommitted code are left
    out and listed with the reason.

    Example: vl-lst leaderboard runs --out leaderboard.html --images coco --markdown table.md
    """
    from eval.leaderboard.document import board_document
    from eval.leaderboard.notes import SIGNIFICANCE_NOTE
    from eval.leaderboard.tables import to_csv, to_latex, to_markdown

    board, page = build_page(
        runs_dir,
        splits=_parse_splits(split or [], task_names()),
        images=images,
        examples=examples,
        title=title,
        reported=reported,
        include_dirty=include_dirty,
        quiet=quiet,
        reference=reference,
    )
    for group in board.groups:
        _print_group(group)
    if any(group.contrasts for group in board.groups):
        results.print(SIGNIFICANCE_NOTE, markup=False)
    if write_report(out, page):
        results.print(f"page: {out}", markup=False)
    quoted = _quoted(board) if reported else ()
    for path, write in ((markdown, to_markdown), (latex, to_latex), (csv, to_csv)):
        if path is not None:
            write_report(path, write(board, quoted).encode("utf-8", "replace"))
    write_json_report(json_file, board_document(board, quoted))


def build_page(
    runs_dir: Path,
    *,
    splits: Mapping[str, str],
    images: Path | None,
    examples: int,
    title: str,
    reported: bool,
    include_dirty: bool,
    quiet: bool,
    reference: str | None = None,
) -> "tuple[Board, bytes]":
    """Return the compared runs and their HTML page; see the options of the command.

    Raises:
        InputError: No run in the folder can be compared.
    """
    from eval.leaderboard.board import build_board
    from eval.leaderboard.notes import incomplete_notes
    from eval.leaderboard.runs import find_runs
    from eval.report.page import render_page
    from eval.text import escape_controls
    from vl_lst.cli._example_sheets import example_sheets, kept_scores, thumbnails

    metrics = {name: get_task(name).metric for name in task_names()}
    found = find_runs(runs_dir, include_dirty=include_dirty)
    board = build_board(
        found, metrics, splits, SUITES, read_scores=kept_scores, reference=reference
    )
    if not quiet:
        for each in board.left_out:
            status.print(f"left out {escape_controls(f'{each.name}: {each.reason}')}", markup=False)
        for note in incomplete_notes(board):
            status.print(escape_controls(note), markup=False)
    _require_runs(board, runs_dir)
    _require_reference(board, reference)
    sheets = {}
    with progress("collecting examples", quiet=quiet) as report:
        placed = board.placed_runs
        for done, (index, _, run) in enumerate(placed, start=1):
            if examples:
                sheets[run.name] = example_sheets(run, board.groups[index].splits, examples)
            report(done, len(placed), escape_controls(run.name))
    pictures: dict[str, bytes] = {}
    if images is not None:
        with progress("reading images", quiet=quiet) as report:
            all_sheets = [sheet for of_run in sheets.values() for sheet in of_run]
            pictures, missing = thumbnails(images, all_sheets, report)
        for image_id in list(missing)[:MAX_MISSING_SHOWN]:
            status.print(f"no thumbnail of {image_id}: {missing[image_id]}", markup=False)
        if len(missing) > MAX_MISSING_SHOWN:
            status.print(f"no thumbnails of {len(missing) - MAX_MISSING_SHOWN:,} more images")
    page = render_page(
        board,
        title=title,
        reported=_quoted(board) if reported else (),
        sheets=sheets,
        pictures=pictures,
    )
    # A prediction may hold a lone surrogate, which UTF-8 cannot encode.
    return board, page.encode("utf-8", "replace")


def _quoted(board: "Board") -> "Sequence[ReportedResults]":
    """Return what papers report for any of the tasks of a leaderboard."""
    from eval.leaderboard.reported import reported_results

    return reported_results({task for group in board.groups for task in group.tasks})


def _parse_splits(given: Iterable[str], tasks: Sequence[str]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for text in given:
        task, equals, split = text.partition("=")
        if task in SUITES and split:
            # Of a task with several parts, the first is compared, as in papers.
            splits |= {name: splits_of(get_task(name), split)[0] for name in SUITES[task]}
            continue
        if task not in tasks or not equals or not split:
            raise typer.BadParameter(
                f"--split {text:.80}: expected TASK=SPLIT, such as vqa=karpathy_test; tasks are "
                f"{', '.join(tasks)}, and {SUITE_NAMES} for all tasks of the suite"
            )
        splits[task] = split
    return splits


def _require_runs(board: "Board", runs_dir: Path) -> None:
    from eval.errors import InputError

    if not board.groups:
        shown = "; ".join(f"{each.name}: {each.reason}" for each in board.left_out[:3])
        raise InputError(
            f"none of the {len(board.left_out):,} run(s) in {runs_dir} can be compared ({shown}); "
            "expected at least one successful run, from committed code, with scores"
        )


def _require_reference(board: "Board", reference: str | None) -> None:
    from eval.errors import InputError

    if reference is not None and all(group.reference is None for group in board.groups):
        labels = dict.fromkeys(row.label for group in board.groups for row in group.rows_and_floors)
        raise InputError(
            f"--reference {reference!r:.60}: found no such row; expected a method or one of: "
            f"{', '.join(labels)}"
        )


def _print_group(group: "Group") -> None:
    from rich.table import Table
    from rich.text import Text

    from eval.leaderboard.notes import cost_note, needed_note, recompute_note
    from eval.leaderboard.tables import group_title
    from eval.leaderboard.units import score_text, unit_text
    from eval.text import escape_controls

    has_front = any(row.is_on_front for row in group.rows)
    caption = "* on the Pareto front" if has_front else None
    table = Table(title=Text(escape_controls(group_title(group))), caption=caption)
    table.add_column("method", overflow="fold", min_width=MIN_METHOD_WIDTH)
    # There is no room for more; the page shows all.
    costs = [cost for cost in group.costs if cost.key in COSTS_SHOWN]
    is_wide = results.width >= MIN_WIDTH_FOR_INTERVALS
    contrasts = group.contrasts if is_wide else group.contrasts[-1:]
    num_others = max(len(group.tasks) - 4, 0) + len(contrasts)
    needed = MIN_WIDTH_FOR_FOUR_TASKS + WIDTH_OF_SCORE * num_others
    columns = group.columns if results.width >= needed else group.columns[:1]
    headings = [each.heading for each in contrasts]
    for name in ("n", *columns, *headings, *(cost.label for cost in costs)):
        table.add_column(Text(name), justify="right", no_wrap=name not in headings)
    for index, row in enumerate(group.rows_and_floors):
        if index == len(group.rows):
            table.add_section()
        table.add_row(
            Text(
                f"{escape_controls(row.label)}{' *' if row.is_on_front else ''}"
                f"{' (floor)' if row.floor else ''}"
            ),
            str(len(row.seeds)),
            *(
                # Several tasks leave no room for intervals.
                score_text(row.scores[name], has_interval=is_wide and len(columns) == 1)
                for name in columns
            ),
            *(Text(each.text(index)) for each in contrasts),
            *(unit_text(row.costs[cost.key], cost.unit) for cost in costs),
        )
    results.print(table)
    for note in (needed_note(group), cost_note(group, costs), recompute_note(group)):
        if note is not None:
            results.print(escape_controls(note), markup=False)
