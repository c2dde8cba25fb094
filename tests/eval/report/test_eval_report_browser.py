"""The page in a headless browser: it works, loads nothing, and fits the screen."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from board_runs import METRICS, SPLITS, SUITE, write_run, write_suite
from open_page import OpenPage

from eval.leaderboard.board import build_board
from eval.leaderboard.reported import reported_results
from eval.leaderboard.runs import find_runs
from eval.report.examples import ExampleCard, ExampleSheet, jpeg_address
from eval.report.page import render_page

# Retries until the page is as expected, because the script responds to a click with a delay.
expect = pytest.importorskip("playwright.sync_api").expect

LONG_NAME = "x" * 40
PHONE = {"width": 360, "height": 740}
ATTACK = '</script><script>alert(1)</script><img src="https://example.org/x.png">'
# A grey square of one pixel.
JPEG = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb004300080606070605080707070909080a0c140d0c0b0b0c19"
    "12130f141d1a1f1e1d1a1c1c20242e2720222c231c1c2837292c30313434341f27393d38323c2e333432ffc0000b08"
    "000100010101110000ffc4001f0000010501010101010100000000000000000102030405060708090a0bffc400b510"
    "0002010303020403050504040000017d01020300041105122131410613516107227114328191a1082342b1c11552d1"
    "f02433627282090a161718191a25262728292a3435363738393a434445464748494a535455565758595a6364656667"
    "68696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2"
    "c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9faffda0008010100003f00"
    "fbd3ffd9"
)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    scores = {"vqa": 60.0, "gqa": 50.0, "nlvr2": 0.7, "caption": 1.2}
    for number, (method, saved) in enumerate((("lst", 10_000), ("lora", 800_000), ("full", 10**6))):
        for seed in range(2):
            better = {
                name: value * (1 + 0.05 * number + 0.01 * seed) for name, value in scores.items()
            }
            write_run(
                folder, f"{method}-{seed}", method=method, seed=seed, saved=saved, scores=better
            )
    write_run(folder, "a-long-name" * 12, method=LONG_NAME, saved=5, scores=scores)
    cards = [
        ExampleCard(str(n), f"{ATTACK} {n}", "yes", ["yes" if n % 3 else "no"], n % 3 > 0, ["a"])
        for n in range(20)
    ]
    texts = [
        ExampleCard(str(n), f"{'one ' * 20}\n{'two ' * 20}", "0", ["1"], False, [])
        for n in range(5)
    ]
    sheets = {
        "lst-0": [ExampleSheet("vqa", "val2014", 1000, cards)],
        "full-0": [ExampleSheet("vqa", "val2014", 1000, cards)],
        "lst-1": [ExampleSheet("rte", "dev", 277, texts)],
    }
    board = build_board(find_runs(folder), METRICS)
    reported = replace(reported_results()[0], splits=SPLITS)
    page = render_page(
        board,
        title="Leaderboard",
        reported=[reported],
        sheets=sheets,
        pictures={"a": jpeg_address(JPEG)},
    )
    path = folder / "leaderboard.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[OpenPage]:
    found = OpenPage(browser, page_file)
    yield found
    assert found.problems == []
    assert [url for url in found.requests if not url.startswith(("file:", "data:"))] == []
    found.context.close()


def test_every_row_has_a_mark(opened: OpenPage) -> None:
    assert opened.shown_points() == len(opened.methods()) == 4
    front = opened.page.locator(".headline tr.on-front").count()
    assert opened.page.locator(".point.on-front").count() == front


def test_tables_sort_in_both_directions_and_show_it(opened: OpenPage) -> None:
    by_score = opened.methods()
    header = opened.page.locator(".headline th", has_text="Saved bytes")
    header.get_by_role("button").click()
    assert opened.methods() == [LONG_NAME, "lst", "lora", "full"]
    assert header.get_attribute("aria-sort") == "ascending"
    header.get_by_role("button").click()
    assert opened.methods() == ["full", "lora", "lst", LONG_NAME]
    opened.page.locator(".headline th", has_text="average").get_by_role("button").click()
    assert opened.methods() == by_score


def test_axes_can_be_chosen_and_reported_rows_hidden(opened: OpenPage) -> None:
    mark = opened.page.locator('.point[aria-label^="lst: "]')
    opened.page.locator("[data-role=x]").select_option(label="Trainable")
    assert opened.shown_points() == 4 + len(reported_results()[0].rows)
    assert opened.page.locator(".point.reported.on-front").count() == 0
    opened.page.get_by_label("Show results reported by papers").uncheck()
    assert opened.shown_points() == 4
    expect(opened.page.locator(".headline tbody.reported")).to_be_hidden()
    opened.page.locator("[data-role=y]").select_option(label="nlvr2")
    opened.page.locator("[data-role=x]").select_option(label="Saved bytes")
    logarithmic = mark.get_attribute("x")
    opened.page.get_by_label("logarithmic").uncheck()
    assert mark.get_attribute("x") != logarithmic


@pytest.mark.parametrize("width", [360, 1200])
def test_marks_and_their_labels_are_inside_the_plot_at_any_width(
    opened: OpenPage, width: int
) -> None:
    opened.resize(width, 740)
    chart = opened.page.locator(".plot .chart").bounding_box()
    marks = opened.page.locator('.point[visibility="visible"] .mark')
    expect(marks).to_have_count(4)
    for mark in marks.all():
        box = mark.bounding_box()
        assert chart["x"] <= box["x"] + box["width"] / 2 <= chart["x"] + chart["width"]
        assert chart["y"] <= box["y"] + box["height"] / 2 <= chart["y"] + chart["height"]
    labels = opened.page.locator('.point[visibility="visible"] text[visibility="inherit"]')
    for label in labels.all():
        box = label.bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= width


def test_marks_show_their_values_and_highlight_their_row_by_keyboard(opened: OpenPage) -> None:
    mark = opened.page.locator('.point[aria-label^="lst: "]')
    mark.focus()
    tip = opened.page.locator("#tip")
    expect(tip).to_be_visible()
    assert "Saved bytes: 9.8 KiB" in tip.inner_text()
    opened.page.keyboard.press("Enter")
    assert opened.page.locator(".headline tr.chosen .name").inner_text() == "lst"
    opened.page.keyboard.press("Escape")
    expect(tip).to_be_hidden()


def test_the_plot_is_one_stop_of_the_tab_key(opened: OpenPage) -> None:
    assert opened.page.locator('.point[tabindex="0"]').count() == 1
    opened.page.locator('.point[tabindex="0"]').focus()
    names = [opened.page.locator(":focus").get_attribute("aria-label")]
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowRight"):
        opened.page.keyboard.press(key)
        names.append(opened.page.locator(":focus").get_attribute("aria-label"))
    assert [name.split(":")[0] for name in names] == [LONG_NAME, "lst", "lora", "lst", "lora"]
    assert opened.page.locator('.point[tabindex="0"]').count() == 1


def test_examples_that_are_not_data_can_be_filtered_sorted_and_searched(opened: OpenPage) -> None:
    row = opened.page.locator(".headline tr", has=opened.page.locator(".name", has_text="lst"))
    row.first.get_by_role("link", name="seed 0").click()
    opened.wait_for_address("#/run/lst-0")
    expect(opened.page.locator(".table")).to_be_hidden()
    run = opened.page.locator(".run.open")
    cards = run.locator(".card:visible")
    expect(cards).to_have_count(20)
    expect(run.locator("output")).to_have_text("1–20 of 20")
    description = run.locator("[data-role=list] > p")
    expect(description).to_have_text("vqa val2014: 20 of 1,000, half of them wrong if possible.")
    run.get_by_role("button", name="wrong 7").click()
    expect(cards).to_have_count(7)
    expect(run.locator(".card.right:visible")).to_have_count(0)
    opened.wait_for_address("#/run/lst-0?show=wrong")
    run.get_by_role("button", name="all 20").click()
    run.get_by_label("Sort by").select_option(label="prompt")
    run.get_by_role("link", name="17", exact=True).click()
    expect(run.locator(".card.chosen")).to_contain_text(" 17")
    for words in ("</SCRIPT> 13", "answers:"):  # the latter is a label of the page
        run.get_by_label("Search").fill(words)
        expect(cards).to_have_count(0)
    run.get_by_label("Search").fill('png"> 13')
    expect(cards).to_have_count(1)
    # The prompt is shown as text, not as markup.
    assert cards.first.locator(".prompt").inner_text() == f"{ATTACK} 13"
    assert cards.first.get_by_role("img", name="a").bounding_box()["width"] > 50
    expect(opened.page).to_have_title("lst-0 · Leaderboard")
    run.get_by_role("link", name="Leaderboard").click()
    opened.wait_for_address("#/")
    expect(opened.page.locator(".table")).to_be_visible()
    expect(opened.page).to_have_title("Leaderboard")


def test_the_gallery_shows_answers_and_leads_to_those_that_are_wrong(opened: OpenPage) -> None:
    gallery = opened.page.locator(".gallery:visible")
    cards = gallery.locator(".card")
    expect(cards).to_have_count(12)
    first = cards.first.inner_text()
    assert ATTACK in first
    assert "lst: yes" in first, "the answer of another row"
    assert gallery.locator(".answer .mark.right").count() == 6
    gallery.get_by_role("link", name="vqa, wrong ones").click()
    run = opened.page.locator(".run:visible")
    expect(run.get_by_role("heading", name="Examples")).to_be_in_viewport()
    opened.wait_for_address("#/run/full-0?task=vqa&show=wrong")
    expect(run.locator(".card:visible")).to_have_count(7)


@pytest.mark.parametrize(("width", "columns"), [(1300, 3), (PHONE["width"], 1)])
def test_examples_of_text_alone_are_wide_and_have_a_line_for_each_text(
    browser: Any, page_file: Path, width: int, columns: int
) -> None:
    opened = OpenPage(browser, page_file, "#/run/lst-1", viewport={"width": width, "height": 740})
    cards = opened.page.locator(".run.open .card:visible")
    expect(cards).to_have_count(5)
    assert len({card.bounding_box()["x"] for card in cards.all()}) == columns
    assert opened.page.locator(".run.open .pictures").count() == 0
    assert "\ntwo" in cards.first.locator(".prompt").inner_text()
    assert opened.width() == width
    opened.context.close()


@pytest.mark.parametrize("anchor", ["", "#/run/lst-0"])
def test_the_page_fits_a_phone(browser: Any, page_file: Path, anchor: str) -> None:
    opened = OpenPage(browser, page_file, anchor, viewport=PHONE)
    assert opened.width() == PHONE["width"]
    for details in opened.page.locator("details > summary").all():
        if details.is_visible():
            details.click()
    assert opened.width() == PHONE["width"]
    opened.context.close()


def test_dark_mode_and_print_have_their_own_colours(browser: Any, page_file: Path) -> None:
    def colours(**media: Any) -> tuple[str, str]:
        opened = OpenPage(browser, page_file)
        opened.page.emulate_media(**media)
        style = "getComputedStyle(document.body)"
        found = opened.page.evaluate(f"[{style}.backgroundColor, {style}.color]")
        opened.context.close()
        return tuple(found)

    light, dark = colours(color_scheme="light"), colours(color_scheme="dark")
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    assert colours(color_scheme="dark", media="print")[0] == "rgb(255, 255, 255)"


def test_the_page_can_be_read_without_scripts(browser: Any, page_file: Path) -> None:
    opened = OpenPage(browser, page_file, java_script_enabled=False)
    assert opened.page.locator(".point:not([visibility=hidden])").count() == 4
    assert opened.page.locator(".front").bounding_box()["width"] > 100
    expect(opened.page.locator(".controls").first).to_be_hidden()
    assert opened.page.locator("[id='/run/lst-0'] .card").count() == 20
    expect(opened.page.locator("[id='/run/lst-0']")).to_be_visible()
    opened.context.close()


@pytest.mark.parametrize("width", [360, 1300])
def test_the_runs_of_a_suite_are_shown_on_demand(browser: Any, tmp_path: Path, width: int) -> None:
    for seed in range(3):
        write_suite(tmp_path / f"s{seed}", {"cola": 1.0, "mnli": 2.0, "stsb": 3.0}, seed=seed)
    board = build_board(find_runs(tmp_path), METRICS, suites={"glue": SUITE})
    path = tmp_path / "leaderboard.html"
    path.write_text(render_page(board, title="Leaderboard"), encoding="utf-8")
    opened = OpenPage(browser, path, viewport={"width": width, "height": 740})
    first = opened.page.locator(".table").first
    link = first.get_by_role("link", name="mnli").first
    expect(link).not_to_be_visible()
    first.get_by_text("9 runs").click()
    expect(link).to_be_visible()
    assert opened.width() <= width
    link.click()
    expect(opened.page.locator("[id='/run/s0%2Fmnli']")).to_be_visible()
    assert opened.problems == []
    opened.context.close()
