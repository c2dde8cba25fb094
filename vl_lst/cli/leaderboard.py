"""`vl-lst leaderboard`: compare finished runs on an HTML page and in tables."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eval.text import format_bytes
from tasks import SUITES, get_task, task_names
from tasks._suites import splits_of
from vl_lst.cli._choices import SUITE_NAMES
from vl_lst.cli._console import QuietOption, results
from vl_lst.cli._leaderboard_page import (
    MAX_DATA_CHARS,
    PageContent,
    find_board,
    make_page,
    publish_site,
    quote_reported,
)
from vl_lst.cli._outputs import (
    STANDARD_OUTPUT,
    JsonOption,
    binary_file,
    report_file,
    write_json_report,
    write_report,
)

if TYPE_CHECKING:
    from eval.leaderboard.board import Group

__all__ = ["leaderboard"]

COMPARISON, EXAMPLES = "Comparison", "Examples on the page"
PAGE = Path("leaderboard.html")
MIN_METHOD_WIDTH = 16
COSTS_SHOWN = ("trainable_percent", "saved_for_backward")
# A narrower terminal shows only the average of several tasks. Each task beyond the fourth needs
# more columns.
MIN_WIDTH_FOR_FOUR_TASKS, WIDTH_OF_SCORE = 120, 15
# A narrower terminal shows no intervals, and one comparison of rows.
MIN_WIDTH_FOR_INTERVALS = 100


def _page_file(
    context: typer.Context, parameter: typer.CallbackParam, path: Path | None
) -> Path | None:
    """Check the path of the page; the default is none if a site is written."""
    if path is None and context.params.get("publish") is None:
        path = PAGE
    return report_file(context, parameter, path)


def _site_folder(
    context: typer.Context, parameter: typer.CallbackParam, path: Path | None
) -> Path | None:
    """Check the folder of a site before any work."""
    from eval.report.site import check_site

    path = binary_file("a site", is_checked=False)(context, parameter, path)
    if path is not None and not context.resilient_parsing:
        check_site(path)
    return path


def leaderboard(
    runs_dir: Annotated[
        Path,
        typer.Argument(metavar="RUNS_DIR", help="Folder with run directories, at any depth."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help=f"HTML page to write. Default: {PAGE}, or none with --publish.",
            callback=_page_file,
        ),
    ] = None,
    publish: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write a static site into this folder: the page, with all examples and "
            "thumbnails in files of their own. Run again to update it; only what changed is "
            "written.",
            callback=_site_folder,
            is_eager=True,
        ),
    ] = None,
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
            help="Folder with the images of the examples, to show as thumbnails: as many as fit "
            f"into the page's {format_bytes(MAX_DATA_CHARS, short=True)} of examples and "
            "thumbnails, or all with --publish.",
            rich_help_panel=EXAMPLES,
        ),
    ] = None,
    examples: Annotated[
        int,
        typer.Option(
            min=0,
            max=10_000,
            help="Maximum number of examples per run and task that are shown without scripts, "
            "and fewer if there are many runs; the page's script shows the whole split. 0 leaves "
            "all examples out.",
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

    if publish is not None:
        _refuse_files_of_site(publish, (out, markdown, latex, csv, json_file))
    board = find_board(
        runs_dir,
        splits=_parse_splits(split or [], task_names()),
        include_dirty=include_dirty,
        quiet=quiet,
        reference=reference,
    )
    quoted = quote_reported(board) if reported else ()
    content = PageContent(title, quoted, images, examples, quiet)
    page = None if out is None else make_page(board, content)
    written = None if publish is None else publish_site(board, publish, content)
    for group in board.groups:
        _print_group(group)
    if any(group.contrasts for group in board.groups):
        results.print(SIGNIFICANCE_NOTE, markup=False)
    if out is not None and page is not None and write_report(out, page):
        results.print(f"page: {out}", markup=False)
    if written is not None:
        results.print(f"site: {publish} ({written:,} files written)", markup=False)
    for path, write in ((markdown, to_markdown), (latex, to_latex), (csv, to_csv)):
        if path is not None:
            write_report(path, write(board, quoted).encode("utf-8", "replace"))
    write_json_report(json_file, board_document(board, quoted))


def _refuse_files_of_site(site: Path, outputs: Iterable[Path | None]) -> None:
    """Refuse other outputs in the folder of a site, whose files they could replace."""
    for path in outputs:
        if path not in (None, STANDARD_OUTPUT) and site.resolve() in path.resolve().parents:
            raise typer.BadParameter(
                f"{path} is in the folder of the site, {site}: expected another folder"
            )


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
