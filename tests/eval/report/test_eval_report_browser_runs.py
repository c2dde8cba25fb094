"""Runs and comparisons in a headless browser: all examples, filters, deep links, a site."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from board_runs import METRICS, write_run
from open_page import OpenPage

from eval.leaderboard.board import Board, build_board
from eval.leaderboard.runs import find_runs
from eval.report.example_data import ExampleData, RunAnswers, SplitExamples
from eval.report.examples import ExampleCard, ExampleSheet
from eval.report.page import render_page
from eval.report.run_data import RunData, run_blocks
from eval.report.site import Site
from eval.statistics.estimates import estimate_score
from eval.statistics.samples import sample_of

expect = pytest.importorskip("playwright.sync_api").expect

COUNT = 60
ATTACK = '</script><script>alert(1)</script><img src="https://example.org/x.png" onerror=alert(2)>'
HOSTILE = f"{'ü' * 5} ?#%2F&\"'<b>"
PICTURE = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
PHONE = {"width": 400, "height": 800}


def split_of(task: str) -> SplitExamples:
    numbers = range(COUNT)
    return SplitExamples(
        task=task,
        split={"vqa": "val2014", "caption": "val2014"}[task],
        ids=[f"{task}-{n}" for n in numbers],
        prompts=[f"{ATTACK} {n}?" for n in numbers],
        references=[["yes" if n % 2 else "no"] for n in numbers],
        image_ids=[[f"image-{n // 2}"] for n in numbers],
        is_graded=task != "caption",
    )


# Scores of each run in percent, by example.
SCORES = {
    "lst": [0.0 if n % 3 == 0 else 30.0 if n % 3 == 1 else 100.0 for n in range(COUNT)],
    HOSTILE: [100.0 if n % 6 == 0 else 0.0 for n in range(COUNT)],
}


def board_in(folder: Path) -> Board:
    for seed, name in enumerate([*SCORES, "bare"]):
        scores = {"vqa": 50.0, "caption": 1.0}
        write_run(folder, name, seed=seed, scores=scores, recipe__data__root=f"data {seed}")
    # Other annotations do not make another table, so that all runs are in one.
    return build_board(find_runs(folder), METRICS)


def data_of(board: Board) -> RunData:
    data, estimates = ExampleData(), {}
    for _, _, run in board.placed_runs:
        if run.name not in SCORES:
            continue
        for task in ("vqa", "caption"):
            split = split_of(task)
            answers = RunAnswers([f"{run.name} says {n}" for n in range(COUNT)], SCORES[run.name])
            data.add(run, split, split.pack(), answers)
        values = dict(zip(split_of("vqa").ids, SCORES[run.name], strict=True))
        sample = sample_of(sum(values.values()) / COUNT, values, {id_: id_ for id_ in values})
        assert sample is not None
        estimate = estimate_score([sample])
        assert estimate is not None
        estimates[run.name] = {"vqa": estimate}
    return RunData(data, estimates, ["Something was left out."])


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page as one file and as a published site."""
    folder = tmp_path_factory.mktemp("runs")
    board = board_in(folder / "runs")
    data = data_of(board)
    pictures = {f"image-{n}": PICTURE for n in range(COUNT // 2 - 1)}
    card = ExampleCard("vqa-0", "what?", "static answer", ["yes"], True, ["image-0"])
    left_out = ExampleCard("rte-0", "why?", "sampled answer", ["no"], False, [])
    sheets = {
        run.name: [
            ExampleSheet("vqa", "val2014", COUNT, [card]),
            ExampleSheet("rte", "dev", COUNT, [left_out]),
        ]
        for *_, run in board.placed_runs
    }
    arguments: dict[str, Any] = {"title": "Leaderboard", "sheets": sheets, "data": data}
    page = folder / "leaderboard.html"
    page.write_text(render_page(board, **arguments, pictures=pictures), encoding="utf-8")
    site = Site(folder / "site")
    address = site.add_picture("0" * 24, lambda: b"")
    pictures = dict.fromkeys(pictures, address)
    blocks = run_blocks(board, data, pictures)
    files = {key: site.add_block(key, block) for key, block in blocks.items()}
    site.finish(render_page(board, **arguments, pictures=pictures, files=files).encode())
    return {"page": page, "site": folder / "site" / "index.html"}


@pytest.fixture(params=["page", "site"])
def opened(
    request: pytest.FixtureRequest, browser: Any, pages: dict[str, Path]
) -> Iterator[OpenPage]:
    found = OpenPage(browser, pages[request.param], "#/run/lst")
    yield found
    # The site's picture is an empty file, which is no problem of the page.
    assert found.problems == []
    assert [url for url in found.requests if not url.startswith(("file:", "data:"))] == []
    found.context.close()


def test_all_examples_of_a_run_are_filtered_sorted_and_paged_in_the_address(
    opened: OpenPage,
) -> None:
    run = opened.page.locator(".run.open")
    listed = run.locator("[data-role=list]")
    cards, output = listed.locator(".card"), listed.locator("output")
    expect(output).to_have_text(f"1–24 of {COUNT}")
    # Those without scripts are replaced; the text of examples is not markup.
    expect(run.get_by_text("static answer")).to_be_hidden()
    assert cards.first.locator(".prompt").inner_text() == f"{ATTACK} 0?"
    listed.get_by_role("button", name="Next examples").click()
    expect(output).to_have_text(f"25–48 of {COUNT}")
    opened.wait_for_address("#/run/lst?task=vqa&page=2")
    listed.get_by_role("button", name="partly 20").click()
    expect(cards).to_have_count(20)
    expect(cards.first.locator(".answer")).to_contain_text("(30)")
    listed.get_by_role("button", name="right 20").click()
    listed.get_by_label("Search").fill(" 14?")
    expect(cards).to_have_count(1)
    opened.wait_for_address("#/run/lst?task=vqa&show=right&text=+14%3F")
    listed.get_by_label("Search").fill("")
    listed.get_by_role("button", name="all 60").click()
    listed.get_by_label("Score from").fill("1")
    listed.get_by_label("to", exact=True).fill("99.5")
    expect(output).to_have_text("1–20 of 20")
    listed.get_by_label("Sort by").select_option(label="highest score first")
    opened.wait_for_address("#/run/lst?task=vqa&score=1-99.5&sort=high")
    listed.get_by_role("button", name="caption", exact=True).click()
    expect(listed.get_by_role("button", name="caption", exact=True)).to_be_focused()
    expect(cards.first.locator(".answer")).to_contain_text("prediction: lst says")
    expect(run.get_by_text("Something was left out.")).to_be_visible()


def test_a_task_without_data_shows_its_sheet_in_the_same_list(opened: OpenPage) -> None:
    run = opened.page.locator(".run.open")
    listed = run.locator("[data-role=list]")
    expect(listed.locator("output")).to_have_text(f"1–24 of {COUNT}")
    expect(run.get_by_text("sampled answer")).to_be_hidden()
    listed.get_by_role("button", name="rte", exact=True).click()
    expect(listed.get_by_text("sampled answer")).to_be_visible()
    expect(run.locator(".card:visible")).to_have_count(1)
    expect(listed.get_by_text(f"rte dev: 1 of {COUNT}")).to_be_visible()
    opened.wait_for_address("#/run/lst?task=rte")
    listed.get_by_role("button", name="right 0").click()
    expect(listed.locator("output")).to_have_text("none")
    listed.get_by_role("button", name="caption", exact=True).click()
    expect(listed.locator("output")).to_have_text(f"1–24 of {COUNT}")


def test_a_link_leads_to_one_example_among_all(opened: OpenPage) -> None:
    run = opened.page.locator(".run.open")
    listed = run.locator("[data-role=list]")
    listed.get_by_role("button", name="wrong 40").click()
    link = run.get_by_role("link", name="vqa-4", exact=True)
    link.click()
    chosen = run.locator(".card.chosen")
    expect(chosen).to_contain_text("lst says 4")
    opened.wait_for_address("#/run/lst?task=vqa&example=vqa-4")
    opened.page.goto(f"{opened.page.url.partition('#')[0]}#/run/lst?task=vqa&example=vqa-59")
    expect(chosen).to_contain_text("lst says 59")
    expect(listed.locator("output")).to_have_text("49–60 of 60")
    # Its image has no thumbnail; that of another has.
    expect(chosen.locator(".no-picture")).to_have_text("image: image-29")
    expect(run.locator(".card img").first).to_have_attribute("alt", "image-24")
    opened.page.go_back()
    expect(chosen).to_contain_text("lst says 4")


def test_two_runs_are_compared_by_settings_scores_and_answers(opened: OpenPage) -> None:
    opened.page.get_by_label("Compare with").select_option(value=HOSTILE)
    opened.page.get_by_role("button", name="Compare", exact=True).click()
    address = f"#/compare/lst/{quote(HOSTILE, safe='!*()')}".replace("%27", "'")
    opened.wait_for_address(address)
    view = opened.page.locator(".view.compare")
    expect(view.get_by_role("heading", level=2)).to_have_text(f"lst vs {HOSTILE}")
    settings = view.locator("[data-role=settings]")
    expect(settings.get_by_role("row", name="data.root")).to_contain_text("data 0data 1")
    vqa, caption = view.locator("[data-role=scores] tr").all()
    # 43.33 against 16.67 percent of 60 examples.
    expect(vqa).to_contain_text("+26.67")
    expect(vqa).to_contain_text("A is better")
    expect(caption).to_contain_text("no test: the scores of the examples were not kept")
    cards, output = view.locator(".card"), view.locator("output")
    # 20 are right in A, 10 in B, and none in both.
    expect(output).to_have_text("1–24 of 30")
    view.get_by_role("button", name="only B right 10").click()
    expect(cards).to_have_count(10)
    opened.wait_for_address(f"{address}?task=vqa&show=b")
    expect(cards.first.locator(".answer.wrong")).to_contain_text("lst says 0")
    expect(cards.first.locator(".answer.right")).to_contain_text(f"{HOSTILE} says 0")
    view.get_by_role("button", name="Swap A and B").click()
    expect(vqa).to_contain_text("-26.67")
    expect(vqa).to_contain_text("A is worse")
    view.get_by_label("Run B").select_option(value="bare")
    expect(view.get_by_text("This page has no examples that both runs answered.")).to_be_visible()
    opened.page.go_back()
    expect(view.get_by_role("heading", level=2)).to_have_text(f"{HOSTILE} vs lst")


@pytest.mark.parametrize(
    "address", ["#/run/lst", f"#/compare/lst/{quote(HOSTILE)}?task=vqa&show=a"]
)
def test_examples_and_comparisons_fit_a_phone(
    browser: Any, pages: dict[str, Path], address: str
) -> None:
    opened = OpenPage(browser, pages["page"], address, viewport=PHONE)
    expect(opened.page.locator(".view.open .card").first).to_be_visible()
    assert opened.width() == PHONE["width"]
    opened.context.close()


def test_an_unknown_run_or_comparison_leads_to_the_front(
    browser: Any, pages: dict[str, Path]
) -> None:
    for address in ("#/run/nowhere", "#/compare/lst/nowhere", "#/compare/lst/lst", "#/compare/lst"):
        opened = OpenPage(browser, pages["page"], address)
        expect(opened.page.get_by_text("This page has no such view")).to_be_visible()
        opened.context.close()


def test_examples_without_scripts_remain_if_the_data_cannot_be_read(
    browser: Any, pages: dict[str, Path], tmp_path: Path
) -> None:
    """As in a site that was copied without its data."""
    page = tmp_path / "index.html"
    page.write_bytes(pages["site"].read_bytes())
    opened = OpenPage(browser, page, "#/run/lst")
    run = opened.page.locator(".run.open")
    expect(run.get_by_role("alert")).to_contain_text("cannot be loaded")
    expect(run.get_by_text("static answer")).to_be_visible()
    opened.context.close()
