"""The leaderboard page: one self-contained HTML file.

The templates escape all text. In addition, the content security policy in the head of the page
allows only its own style sheet and scripts, by their digests, and embedded images, so that text
from data could not run or load anything even if it were not escaped.

The page has several views, of which its script shows one at a time: the front, each table, each
run, and comparisons of two runs. `routes.py` has their addresses. Without scripts, all of them
follow each other.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence

import jinja2
from markupsafe import Markup

from eval.leaderboard.board import Board
from eval.leaderboard.notes import (
    FLOOR_NOTE,
    SIGNIFICANCE_NOTE,
    SUITE_NOTE,
    answering_note,
    needed_note,
    recompute_note,
)
from eval.leaderboard.reported import ReportedResults
from eval.leaderboard.tables import group_title, recompute_text
from eval.leaderboard.units import number_text, score_text, setting_text, spread_text, unit_text
from eval.report.curves import Points
from eval.report.examples import ExampleSheet, Pictures
from eval.report.routes import FRONT, compare_route, run_route, table_route
from eval.report.run_data import RunData, run_blocks, run_index
from eval.report.run_views import run_views
from eval.report.table_views import table_views
from eval.text import escape_controls

__all__ = ["render_page"]

TEMPLATES = jinja2.PackageLoader("eval.report")
STYLES = (
    "page.css",
    "plot.css",
    "table.css",
    "run.css",
    "examples.css",
    # These override the others.
    "phone.css",
    "print.css",
)
# Each script registers its views; `shell.js` shows the one in the address when all have.
SCRIPTS = ("shell.js", "plot.js", "table.js", "data.js", "examples.js", "compare.js", "run.js")


def render_page(
    board: Board,
    *,
    title: str,
    reported: Sequence[ReportedResults] = (),
    sheets: Mapping[str, Sequence[ExampleSheet]] | None = None,
    pictures: Pictures | None = None,
    data: RunData | None = None,
    files: Mapping[str, str] | None = None,
) -> str:
    """Return the HTML of the leaderboard.

    Args:
        board: Leaderboard.
        title: Heading of the page.
        reported: Results that papers report.
        sheets: Examples of each run, by the name of the run.
        pictures: Address of the thumbnail of each image, by image ID.
        data: All examples, and what comparisons of runs show.
        files: Address of the script that holds each block of `run_blocks`, by its key, in a
            published site; `None` makes the blocks part of the page.
    """
    sheets, pictures, data = sheets or {}, pictures or {}, data or RunData()
    # Thumbnails of static views are elements of the page; all others are data.
    stored = [id_ for id_ in _images_of(sheets) if id_ in pictures]
    picture_anchors = {image_id: f"picture-{number}" for number, image_id in enumerate(stored)}
    others = {id_: address for id_, address in pictures.items() if id_ not in picture_anchors}
    blocks = run_blocks(board, data, others) if files is None else {}
    own = "" if files is None else " 'self' file:"
    style, early, script = _source(*STYLES), _source("early.js"), _source(*SCRIPTS)
    tables = table_views(board, reported, sheets)
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=title,
            board=board,
            tables=tables,
            plots=[table.plot for table in tables],
            reported=reported,
            beside_runs=[
                any(each.matching(group.splits) for group in board.groups) for each in reported
            ],
            runs=run_views(board, sheets),
            pictures={anchor: pictures[image_id] for image_id, anchor in picture_anchors.items()},
            picture_anchors=picture_anchors,
            run_index={**run_index(board, data), "files": files, "stored": picture_anchors},
            notes=data.notes,
            blocks=blocks,
            style=Markup(style),
            early=Markup(early),
            script=Markup(script),
            policy=(
                f"default-src 'none'; style-src '{_digest(style)}'; "
                f"script-src '{_digest(early)}' '{_digest(script)}'{own}; "
                f"img-src data:{own}; base-uri 'none'; form-action 'none'"
            ),
        )
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=TEMPLATES,
        autoescape=True,
        finalize=_escape_if_text,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Tasks keep their order.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.globals.update(
        FRONT=FRONT,
        compare_route=compare_route,
        run_route=run_route,
        table_route=table_route,
        floor_note=FLOOR_NOTE,
        number_text=number_text,
        needed_note=needed_note,
        score_text=score_text,
        significance_note=SIGNIFICANCE_NOTE,
        spread_text=spread_text,
        unit_text=unit_text,
        group_title=group_title,
        answering_note=answering_note,
        recompute_note=recompute_note,
        recompute_text=recompute_text,
        suite_note=SUITE_NOTE,
    )
    environment.filters.update(pretty=setting_text, percent=_percent, corners=_corners)
    return environment


def _escape_if_text(value: object) -> object:
    """Escape control characters in what a template prints, but not in its own markup."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return escape_controls(value)
    return value


def _percent(share: float) -> str:
    return f"{round(100 * share, 2)}%"


def _corners(points: Points) -> str:
    """Return positions as the points of an SVG line in a box of 1000 by 1000."""
    return " ".join(f"{round(1000 * x)},{round(1000 * (1 - y))}" for x, y in points)


def _images_of(sheets: Mapping[str, Sequence[ExampleSheet]]) -> dict[str, None]:
    cards = (card for of_run in sheets.values() for sheet in of_run for card in sheet.cards)
    return {image_id: None for card in cards for image_id in card.image_ids}


def _source(*names: str) -> str:
    environment = jinja2.Environment()
    return "".join(f"\n{TEMPLATES.get_source(environment, name)[0]}" for name in names)


def _digest(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
