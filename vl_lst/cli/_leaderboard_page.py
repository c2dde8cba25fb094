"""The leaderboard of a folder of runs, its page, and its static site."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tasks import SUITES, get_task, task_names
from vl_lst.cli._console import progress, status

if TYPE_CHECKING:
    from eval.leaderboard.board import Board
    from eval.leaderboard.reported import ReportedResults
    from eval.report.examples import ExampleSheet
    from eval.report.run_data import RunData

__all__ = [
    "MAX_DATA_CHARS",
    "PageContent",
    "build_page",
    "find_board",
    "make_page",
    "publish_site",
    "quote_reported",
]

# A phone opens a page of this size. Examples come before thumbnails, which have the rest.
MAX_DATA_CHARS = 24 << 20
MAX_EXAMPLE_CHARS = 16 << 20
MAX_MISSING_SHOWN = 3

StorePicture = Callable[[str, Callable[[], bytes]], str]


@dataclass(frozen=True, slots=True)
class PageContent:
    """What a page shows besides the tables.

    Args:
        title: Heading.
        reported: Results that papers report.
        images: Folder of the images; `None` shows none.
        examples: Maximum number of examples per run and task without scripts; 0 shows none at all.
        quiet: Whether to show no progress.
    """

    title: str
    reported: "Sequence[ReportedResults]"
    images: Path | None
    examples: int
    quiet: bool


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
) -> "tuple[Board, bytes]":
    """Return the compared runs and their HTML page; see the options of `vl-lst leaderboard`.

    Raises:
        InputError: No run in the folder can be compared.
    """
    board = find_board(runs_dir, splits=splits, include_dirty=include_dirty, quiet=quiet)
    quoted = quote_reported(board) if reported else ()
    return board, make_page(board, PageContent(title, quoted, images, examples, quiet))


def find_board(
    runs_dir: Path,
    *,
    splits: Mapping[str, str],
    include_dirty: bool,
    quiet: bool,
    reference: str | None = None,
) -> "Board":
    """Return the leaderboard of a folder of runs; see the options of `vl-lst leaderboard`.

    Raises:
        InputError: No run in the folder can be compared, or there is no such reference.
    """
    from eval.leaderboard.board import build_board
    from eval.leaderboard.notes import incomplete_notes
    from eval.leaderboard.runs import find_runs
    from eval.text import escape_controls
    from vl_lst.cli._kept_answers import read_kept_scores

    metrics = {name: get_task(name).metric for name in task_names()}
    found = find_runs(runs_dir, include_dirty=include_dirty)
    board = build_board(
        found, metrics, splits, SUITES, read_scores=read_kept_scores, reference=reference
    )
    if not quiet:
        for each in board.left_out:
            status.print(f"left out {escape_controls(f'{each.name}: {each.reason}')}", markup=False)
        for note in incomplete_notes(board):
            status.print(escape_controls(note), markup=False)
    _require_runs(board, runs_dir)
    _require_reference(board, reference)
    return board


def quote_reported(board: "Board") -> "Sequence[ReportedResults]":
    """Return what papers report for any of the tasks of a leaderboard."""
    from eval.leaderboard.reported import reported_results

    return reported_results({task for group in board.groups for task in group.tasks})


def make_page(board: "Board", content: PageContent) -> bytes:
    """Return the self-contained page of a leaderboard.

    Args:
        board: Leaderboard.
        content: What the page shows.

    Raises:
        ImageError: The folder of images does not exist or has no image.
    """
    from eval.report.examples import jpeg_address

    sheets, data = _collect(board, content, MAX_EXAMPLE_CHARS)
    room = MAX_DATA_CHARS - data.examples.size
    data, pictures = _read_pictures(
        data, sheets, content, lambda _, make: jpeg_address(make()), room
    )
    return _render(board, content, sheets, data, pictures)


def publish_site(board: "Board", folder: Path, content: PageContent) -> int:
    """Write the static site of a leaderboard, or update it.

    Args:
        board: Leaderboard.
        folder: Folder of the site.
        content: What the page shows.

    Returns:
        The number of files that were written.

    Raises:
        ImageError: The folder of images does not exist or has no image.
        OutputError: The folder holds something else, or cannot be written.
    """
    from eval.report.run_data import run_blocks
    from eval.report.site import Site

    site = Site(folder)
    sheets, data = _collect(board, content, None)
    data, pictures = _read_pictures(data, sheets, content, site.add_picture, None)
    blocks = run_blocks(board, data, pictures)
    files = {key: site.add_block(key, block) for key, block in blocks.items()}
    site.finish(_render(board, content, sheets, data, pictures, files))
    return site.written


def _render(
    board: "Board",
    content: PageContent,
    sheets: "Mapping[str, Sequence[ExampleSheet]]",
    data: "RunData",
    pictures: Mapping[str, str],
    files: Mapping[str, str] | None = None,
) -> bytes:
    """Return the HTML of the page; see `render_page`."""
    from eval.report.page import render_page

    page = render_page(
        board,
        title=content.title,
        reported=content.reported,
        sheets=sheets,
        pictures=pictures,
        data=data,
        files=files,
    )
    # A prediction may hold a lone surrogate, which UTF-8 cannot encode.
    return page.encode("utf-8", "replace")


def _collect(
    board: "Board", content: PageContent, max_chars: int | None
) -> "tuple[Mapping[str, Sequence[ExampleSheet]], RunData]":
    from eval.report.run_data import RunData
    from eval.text import format_bytes
    from vl_lst.cli._example_sheets import collect_examples

    if not content.examples:
        return {}, RunData()
    with progress("collecting examples", quiet=content.quiet) as report:
        sheets, data = collect_examples(board, content.examples, max_chars, report)
    if max_chars is None or not data.examples.left_out:
        return sheets, data
    note = (
        f"This page has {format_bytes(max_chars, short=True)} of examples. The answers of "
        f"{data.examples.left_out:,} more, counted by run and task from the bottom of the tables, "
        "are left out; a site of `vl-lst leaderboard --publish` has them."
    )
    return sheets, replace(data, notes=(note,))


def _read_pictures(
    data: "RunData",
    sheets: "Mapping[str, Sequence[ExampleSheet]]",
    content: PageContent,
    store: StorePicture,
    max_chars: int | None,
) -> "tuple[RunData, Mapping[str, str]]":
    """Return the data with a note about thumbnails that were left out, and the thumbnails."""
    from eval.text import format_bytes
    from vl_lst.cli._example_sheets import THUMBNAIL_SIDE, read_thumbnails

    if content.images is None:
        return data, {}
    cards = [card for each in sheets.values() for sheet in each for card in sheet.cards]
    # Those of the static views first.
    wanted = [*(id_ for card in cards for id_ in card.image_ids), *data.examples.image_ids]
    with progress("reading images", quiet=content.quiet) as report:
        found = read_thumbnails(content.images, wanted, report, store, max_chars)
    for image_id in list(found.missing)[:MAX_MISSING_SHOWN]:
        status.print(f"no thumbnail of {image_id}: {found.missing[image_id]}", markup=False)
    if len(found.missing) > MAX_MISSING_SHOWN:
        status.print(f"no thumbnails of {len(found.missing) - MAX_MISSING_SHOWN:,} more images")
    notes = [*data.notes]
    if max_chars is not None:
        number = len(found.addresses) + found.left_out
        missing = f": {found.left_out:,} of {number:,} are left out" if found.left_out else ""
        notes.append(
            f"Thumbnails have up to {THUMBNAIL_SIDE} pixels, and together with the examples up to "
            f"{format_bytes(MAX_DATA_CHARS, short=True)}{missing}. A site of `vl-lst leaderboard "
            "--publish` has no such limit."
        )
    return replace(data, notes=notes), found.addresses


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
