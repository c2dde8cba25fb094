"""The front and the tables of the page in a headless browser: addresses, keyboard, many runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from board_runs import HOSTILE_NAMES, METRICS, write_many_runs, write_run
from open_page import OpenPage

from eval.leaderboard.board import build_board
from eval.leaderboard.runs import find_runs
from eval.report.page import render_page

expect = pytest.importorskip("playwright.sync_api").expect

MAX_CHARS_PER_RUN = 15_000


def write_page(folder: Path) -> Path:
    board = build_board(find_runs(folder), METRICS)
    path = folder / "leaderboard.html"
    path.write_text(render_page(board, title="Board"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page with two tables, the first of them with a floor and hostile names."""
    folder = tmp_path_factory.mktemp("front")
    write_many_runs(folder, 30)
    scores = {"vqa": 20.0, "gqa": 20.0, "nlvr2": 0.5, "caption": 0.1}
    write_run(folder, "blind", scores=scores, recipe__data__blind=True, options={"reduction": 2})
    write_run(folder, "other", scores={"gqa": 40.0})
    write_run(folder, "failed", status="failed", error="the loss is nan")
    return write_page(folder)


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[OpenPage]:
    found = OpenPage(browser, page_file, viewport={"width": 1300, "height": 700})
    yield found
    assert found.problems == []
    assert [url for url in found.requests if not url.startswith(("file:", "data:"))] == []
    found.context.close()


def expect_tables(opened: OpenPage, *addresses: str) -> None:
    tables = opened.page.locator(".table:visible")
    expect(tables).to_have_count(len(addresses))
    for number, address in enumerate(addresses):
        expect(tables.nth(number)).to_have_id(address)


def test_the_front_shows_the_first_table_and_what_the_others_say(opened: OpenPage) -> None:
    expect_tables(opened, "/table/1")
    others = opened.page.get_by_role("navigation", name="Other tables")
    assert "lst scores 40.0 in gqa." in others.inner_text()
    others.get_by_role("link", name="gqa on val").click()
    expect_tables(opened, "/table/2")
    opened.wait_for_address("#/table/2")
    expect(opened.page).to_have_title("gqa on val · Board")
    opened.page.get_by_role("link", name="All tables").click()
    expect_tables(opened, "/table/1")


def test_the_back_button_returns_to_the_same_place(opened: OpenPage) -> None:
    link = opened.page.get_by_role("navigation", name="Other tables").get_by_role("link")
    link.scroll_into_view_if_needed()
    before = opened.page.evaluate("window.scrollY")
    assert before > 0
    link.click()
    expect(opened.page.locator("[id='/table/2']")).to_be_visible()
    assert opened.page.evaluate("window.scrollY") == 0
    opened.page.go_back()
    expect(opened.page.locator("[id='/table/1']")).to_be_visible()
    assert opened.page.evaluate("window.scrollY") == pytest.approx(before, abs=2)
    opened.page.go_forward()
    expect(opened.page.locator("[id='/table/2']")).to_be_visible()


def test_every_name_has_an_address(opened: OpenPage) -> None:
    run = opened.page.locator(".run:visible")
    for name in HOSTILE_NAMES:
        folder = name.replace("/", "∕")
        opened.page.goto(f"{opened.page.url.partition('#')[0]}#/run/{quote(folder, safe='')}")
        expect(run.get_by_role("heading", level=2)).to_have_text(folder)
    opened.page.reload()
    expect(run).to_have_count(1)


def test_an_address_without_a_view_leads_to_the_front(opened: OpenPage) -> None:
    alert = opened.page.get_by_role("alert")
    for address in ("#/run/none", "#/table/9", "#/nothing", "#/run/%E0%A4%A"):
        opened.page.evaluate("(address) => { location.hash = address; }", address)
        expect(alert).to_contain_text("no such view")
        expect_tables(opened, "/table/1")
        opened.page.get_by_role("link", name="Board", exact=True).click()
        expect(alert).to_be_hidden()


def test_links_to_notes_lead_from_a_run_to_the_front(browser: Any, page_file: Path) -> None:
    opened = OpenPage(browser, page_file, "#/run/other")
    opened.page.get_by_role("link", name="left out").click()
    note = opened.page.get_by_text("failed: the loss is nan")
    expect(note).to_be_in_viewport()
    opened.context.close()


def test_the_keyboard_reaches_the_content_first(opened: OpenPage) -> None:
    opened.page.keyboard.press("Tab")
    skip = opened.page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    assert skip.bounding_box()["x"] >= 0, "visible while it has the focus"
    opened.page.keyboard.press("Enter")
    assert opened.page.evaluate("document.activeElement.id") == "main"
    opened.page.keyboard.press("Tab")
    # A table scrolls by keyboard, in its own box.
    assert opened.page.evaluate("document.activeElement.className").startswith("scroll")


def test_floors_are_marked_in_the_bars_and_drawn_into_the_plot(opened: OpenPage) -> None:
    first = opened.page.locator("[id='/table/1']")
    expect(first.locator(".headline tbody.floors .name")).to_have_text("lst (reduction=2), blind")
    marks = first.locator(".headline .bar .floor-mark").count()
    assert marks == first.locator(".headline .bar").count()
    line = first.locator(".chart .floors line").bounding_box()
    chart = first.locator(".chart").bounding_box()
    assert chart["y"] < line["y"] < chart["y"] + chart["height"]
    before = line["y"]
    first.locator("[data-role=y]").select_option(label="nlvr2")
    assert first.locator(".chart .floors line").bounding_box()["y"] != before


def test_all_tables_follow_each_other_without_scripts_and_links_work(
    browser: Any, page_file: Path
) -> None:
    opened = OpenPage(browser, page_file, java_script_enabled=False)
    expect_tables(opened, "/table/1", "/table/2")
    opened.page.locator(".headline").last.get_by_role("link", name="seed 0").click()
    expect(opened.page.get_by_role("heading", name="other", exact=True)).to_be_in_viewport()
    opened.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(browser: Any, page_file: Path, scheme: str) -> None:
    """WCAG 2.2, level AA: 4.5 for text, 3 for parts of graphics."""
    opened = OpenPage(browser, page_file, color_scheme=scheme)
    texts = ("ink", "quiet", "accent", "right", "wrong", "floor")
    grounds = ("paper", "raised", "faint", "hit")
    hues = [f"hue-{number}" for number in range(6)]
    style = opened.page.evaluate(
        """(names) => {
          const style = getComputedStyle(document.documentElement);
          return Object.fromEntries(
            names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]),
          );
        }""",
        [*texts, *grounds, *hues],
    )

    def luminance(name: str) -> float:
        parts = [int(style[name][start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [
            each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(first: str, second: str) -> float:
        low, high = sorted((luminance(first), luminance(second)))
        return (high + 0.05) / (low + 0.05)

    for text in texts:
        for ground in grounds:
            assert contrast(text, ground) >= 4.5, (text, ground)
    for hue in hues:
        assert contrast(hue, "paper") >= 3, hue
    opened.context.close()


def test_a_page_of_200_runs_stays_small_and_fits_the_screen(browser: Any, tmp_path: Path) -> None:
    write_many_runs(tmp_path, 200)
    path = write_page(tmp_path)
    assert path.stat().st_size < 200 * MAX_CHARS_PER_RUN
    opened = OpenPage(browser, path, viewport={"width": 400, "height": 800})
    assert opened.width() == 400
    table = opened.page.locator(".scroll").first
    assert table.bounding_box()["height"] <= 800, "many rows scroll in their own box"
    assert opened.page.locator(".headline [data-row]").count() > 50
    assert opened.problems == []
    opened.context.close()
