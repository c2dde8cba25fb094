"""The page is complete and safe, and names what is missing."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from board_runs import METRICS, SPLITS, SUITE, write_run, write_suite

from eval.leaderboard.board import build_board
from eval.leaderboard.reported import reported_results
from eval.leaderboard.runs import find_runs
from eval.report.curves import training_curves
from eval.report.examples import ExampleCard, ExampleSheet, jpeg_address
from eval.report.page import render_page

ATTACK = '</script><script>alert(1)</script>"><img src=x onerror=alert(2)>'


class Elements(HTMLParser):
    """All elements of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def plots_of(page: str) -> Any:
    (found,) = re.findall(r'id="plots">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


def page_of(folder: Path, **arguments: object) -> str:
    board = build_board(find_runs(folder), METRICS)
    return render_page(board, title="Leaderboard", **arguments)  # type: ignore[arg-type]


def test_text_from_data_is_never_markup(tmp_path: Path) -> None:
    write_run(
        tmp_path,
        "a",
        method=ATTACK,
        backbone=ATTACK,
        device=ATTACK,
        packages={ATTACK: ATTACK},
        recipe__data__root=ATTACK,
    )
    write_run(tmp_path, "b", status="failed", error=ATTACK)
    card = ExampleCard(ATTACK, ATTACK, ATTACK, [ATTACK], False, [ATTACK])
    sheet = ExampleSheet("vqa", "val2014", 1, [card], ATTACK)
    page = page_of(tmp_path, sheets={"a": [sheet]}, pictures={ATTACK: jpeg_address(b"\xff\xd8")})
    elements = Elements(page)
    assert "alert(1)" in page
    assert [attributes.get("type") for tag, attributes in elements.found if tag == "script"] == [
        None,
        *("application/json", "application/json"),
        # Blocks of data, in base64.
        *("text/plain", "text/plain", "text/plain"),
        None,
    ]
    assert not any(tag == "img" for tag, _ in elements.found)
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)
    labels = [
        attributes["data-value"] for tag, attributes in elements.found if "data-value" in attributes
    ]
    assert f"{ATTACK[:39]}…" in labels


def test_the_page_allows_only_its_own_style_and_scripts_and_loads_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    page = page_of(tmp_path, reported=reported_results(), pictures={"x": jpeg_address(b"\xff\xd8")})
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    policy = policy.replace("&#39;", "'")
    for tag, count in (("style", 1), ("script", 2)):
        sources = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()) for each in sources]
        assert len(digests) == count
        allowed = " ".join(f"'sha256-{digest.decode()}'" for digest in digests)
        assert f"{tag}-src {allowed};" in policy
    assert "default-src 'none'" in policy
    elements = Elements(page)
    for tag, attributes in elements.found:
        assert "style" not in attributes, "the policy forbids it"
        for name in ("src", "href", "action", "xlink:href"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:image/jpeg;base64,")), (tag, address)
    assert "@import" not in page
    assert "url(" not in page


def test_reported_rows_are_marked_and_optional(tmp_path: Path) -> None:
    write_run(tmp_path, "a", scores={"vqa": 1.0, "gqa": 1.0, "nlvr2": 0.5, "caption": 1.0})
    other_splits, _ = reported_results(["vqa"])
    page = page_of(tmp_path, reported=[other_splits])
    assert page.count('<span class="badge">reported</span>') == 1 + len(other_splits.rows)
    assert page.index('<tbody class="reported">') > page.index('id="reported"')
    reported = replace(other_splits, splits=SPLITS)
    page = page_of(tmp_path, reported=[reported])
    assert page.index('<tbody class="reported">') < page.index('id="reported"')
    table = page.partition('<tbody class="reported">')[2].partition("</tbody>")[0]
    assert table.count('<span class="badge">reported</span>') == len(reported.rows)
    plots = plots_of(page)
    assert plots[0]["num_measured"] == 1
    fronts = [front for of_x in plots[0]["fronts"].values() for front in of_x.values()]
    assert all(front == [0] for front in fronts)
    assert "VL-PET" not in page_of(tmp_path)


def test_reported_rows_without_deviations_and_of_another_setting(tmp_path: Path) -> None:
    write_run(tmp_path, "text", scores={"rte": 60.0})
    images, text, other = reported_results()
    board = build_board(find_runs(tmp_path), METRICS)
    page = render_page(board, title="Leaderboard", reported=[images, text, other])
    beside, _, after = page.partition('id="reported"')
    headline, _, costs = beside.partition("<h3>Costs</h3>")
    assert headline.count('<span class="badge">reported</span>') == len(text.rows)
    assert after.count('<tbody class="reported">') == 2
    assert '<td data-value="71.9" class="main"><span class="number">71.90</span>' in headline
    assert "CUDA peak</button>" in costs
    assert "against Trainable only; never on the front" in beside
    assert "<td>75.53</td><td>–</td>" in after
    for note in (*images.notes, *text.notes, *other.notes):
        assert f"<p>{note}</p>" in after.replace("&#39;", "'")


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    write_run(tmp_path, "a", device="\x1b[31mred \u202edevice", backbone="nul\x00")
    page = page_of(tmp_path)
    assert r"\x1b[31mred \u202edevice" in page
    assert not set("\x00\x1b\u202e") & set(page)


def test_runs_without_costs_have_a_table_but_no_plot(tmp_path: Path) -> None:
    write_run(
        tmp_path, "a", parameters=None, memory_bytes=None, train_seconds=None, git=None, device=None
    )
    page = page_of(tmp_path)
    assert '<figure class="plot"' not in page
    assert "installed package" in page


def test_addresses_of_runs_are_unique_and_keep_their_names(tmp_path: Path) -> None:
    names = ["a/b", "a b", "a_b", "é", "50%", "a?b#c&d"]
    for seed, name in enumerate(names):
        write_run(tmp_path, name, seed=seed)
    addresses = [
        attributes["id"] or ""
        for tag, attributes in Elements(page_of(tmp_path)).found
        if tag == "article"
    ]
    assert sorted(unquote(each.removeprefix("/run/")) for each in addresses) == sorted(names)
    assert all("/" not in each.removeprefix("/run/") for each in addresses)


def test_left_out_runs_are_listed_with_the_reason(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    write_run(tmp_path, "b", status="failed", error="the loss is nan")
    page = page_of(tmp_path)
    assert "1 left out" in page
    assert "failed: the loss is nan" in page


def test_curves_show_losses_and_scores_in_percent(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", scores={"vqa": 1.0, "nlvr2": 0.5})
    panels, note = training_curves(run, METRICS)
    # One point is no curve.
    assert [panel.title for panel in panels] == ["Training loss"]
    assert note == (
        "Validated once: vqa at step 20: accuracy 0.50 percent; nlvr2 at step 20: accuracy 50.00 "
        "percent."
    )
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "task": "nlvr2", "accuracy": 0.75}\n')
    panels, note = training_curves(run, METRICS)
    assert [panel.title for panel in panels] == ["Training loss", "nlvr2, accuracy, percent"]
    assert len(panels[0].points) == 4
    assert list(panels[1].tooltips) == ["nlvr2, step 20: 50.00", "nlvr2, step 40: 75.00"]
    assert "nlvr2" not in note


@pytest.mark.parametrize("damage", ['{"step": 25, "lo', "[]", "null", '{"loss": 1}', "[" * 99_999])
def test_curves_end_before_a_damaged_line(tmp_path: Path, damage: str) -> None:
    run = write_run(tmp_path, "a")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(f"{damage}\n")
    panels, note = training_curves(run, METRICS)
    assert len(panels) == 1
    assert "Line 6 of metrics.jsonl is damaged" in note


def test_missing_and_unusable_values_give_no_curves(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n{"step": true, "loss": 1}\n')
    assert training_curves(run, METRICS) == ([], "metrics.jsonl has no values.")
    (run / "metrics.jsonl").unlink()
    assert training_curves(run, METRICS) == ([], "The run has no metrics.jsonl.")


def test_long_curves_are_thinned_out(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a")
    lines = "".join(f'{{"step": {step}, "loss": {step % 2}}}\n' for step in range(10_000))
    (run / "metrics.jsonl").write_text(lines)
    (panel,), _ = training_curves(run, METRICS)
    assert len(panel.points) <= 300


def test_a_suite_links_to_the_runs_of_its_tasks_and_names_incomplete_ones(tmp_path: Path) -> None:
    for seed in range(2):
        write_suite(tmp_path / f"s{seed}", {"cola": 1.0, "mnli": 2.0, "stsb": 3.0}, seed=seed)
    write_suite(tmp_path / "s2", {"cola": 1.0, "stsb": 3.0}, seed=2, method=ATTACK)
    board = build_board(find_runs(tmp_path), METRICS, suites={"glue": SUITE})
    page = render_page(board, title="Leaderboard")
    assert page.count('<article class="view run"') == 8, "no run is shown twice"
    suite = page[page.index('id="/table/1"') : page.index('id="/table/2"')]
    assert "glue on dev (mnli on dev_matched)" in suite
    assert re.findall(r'<a href="#(/run/[^"]+)">(\w+)</a>', suite) == [
        (f"/run/s{seed}%2F{task}", task) for seed in range(2) for task in SUITE
    ]
    assert "8 runs" in page
    incomplete = page[page.index('id="incomplete"') :]
    assert "no run of mnli" in incomplete
    assert "<script>alert" not in page
    assert suite.index(">average</button>") < suite.index(">cola</button>")


def test_losses_are_drawn_per_task_and_smoothed_on_the_steps_of_the_scores(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", scores={"vqa": 1.0, "nlvr2": 0.5})
    lines = [
        {"step": step, "loss": 9.0, "loss_vqa": 4.0 + (-1) ** step, "loss_nlvr2": 2.0}
        for step in range(1, 101)
    ]
    lines += [{"step": step, "task": "vqa", "accuracy": step} for step in (40, 80, 200)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (loss, score, other), _ = training_curves(run, METRICS)
    assert [each.title.partition(" (")[0] for each in (loss, score, other)] == [
        *("vqa, training loss", "vqa, accuracy, percent", "nlvr2, training loss")
    ]
    assert len(loss.raw) == len(loss.points) == 100
    raw, smooth = ({round(y, 3) for _, y in each[10:-10]} for each in (loss.raw, loss.points))
    assert len(raw) == 2
    assert max(smooth) - min(smooth) < 0.2 * (max(raw) - min(raw))
    assert len(score.points) == 3
    # Half of the steps have losses.
    assert loss.x_ticks == score.x_ticks
    assert loss.points[-1][0] == pytest.approx(score.points[-1][0] / 2)
