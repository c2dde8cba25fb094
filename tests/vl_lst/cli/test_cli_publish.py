"""`vl-lst leaderboard --publish`, and what a page leaves out that a site has."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from board_runs import write_run
from PIL import Image

from vl_lst.cli import _example_sheets, _leaderboard_page, main

COUNT = 12
# Names of files that are no paths of a site.
HOSTILE = ["up..%2f..%2fup", '"><img src=x onerror=alert(1)>', "a b#c?d", "ü" * 40]


class KilledError(BaseException):
    """The process is killed here."""


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments that compare three runs on own data with images of hostile names."""
    monkeypatch.setenv("VL_LST_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    names = [HOSTILE[n] if n < len(HOSTILE) else f"image-{n}" for n in range(COUNT)]
    (tmp_path / "images").mkdir()
    for number, name in enumerate(names):
        name = name.replace("/", "_")
        Image.new("RGB", (40, 30), (20 * number, 0, 0)).save(tmp_path / "images" / f"{name}.png")
    lines = [
        {"id": f"q{n}", "images": [f"{name}.png"], "prompt": f"what is {n}?", "answers": ["a"]}
        for n, name in enumerate(names)
    ]
    files = {name: tmp_path / f"{name}.jsonl" for name in ("train", "val")}
    for path in files.values():
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for seed in range(3):
        run = write_run(
            tmp_path / "runs",
            f"run-{seed}",
            seed=seed,
            recipe__data__root=None,
            recipe__data__train_file={"vqa": str(files["train"])},
            recipe__data__validation_file={"vqa": str(files["val"])},
            recipe__data__validation_split={"vqa": "val"},
            scores={"vqa": 50.0},
        )
        record = json.loads((run / "record.json").read_text())
        record["scores"] = {"vqa": {"val": {"accuracy": 50.0}}}
        (run / "record.json").write_text(json.dumps(record))
        (run / "predictions").mkdir()
        answers = [{"id": f"q{n}", "answer": "a" if (n + seed) % 3 else "b"} for n in range(COUNT)]
        (run / "predictions" / "vqa-val.json").write_text(json.dumps(answers))
    return ["leaderboard", "runs", "--images", "images", "--no-reported", "--quiet"]


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_site_is_complete_and_a_second_call_writes_nothing(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--publish", "site"]) == 0
    assert not (tmp_path / "leaderboard.html").exists()
    files = content_of(tmp_path / "site")
    names = {re.sub("[0-9a-f]{22,}", "*", name) for name in files}
    assert names == {
        *("index.html", "vl-lst-site.json"),
        *(f"data/{kind}-*.js" for kind in ("examples", "answers", "pictures", "settings", "tests")),
        *(f"pictures/{name.split('/')[1]}/*.jpg" for name in files if name.endswith(".jpg")),
    }
    assert sum(name.endswith(".jpg") for name in files) == COUNT
    assert sum(name.startswith("data/answers") for name in files) == 3
    page = files["index.html"].decode()
    addresses = set(re.findall(r'(?:src|href)="([^"#][^"]*)"', page))
    assert addresses <= files.keys(), "every address is a file of the site"
    capsys.readouterr()
    assert main([*arguments, "--publish", "site", "--out", "page.html"]) == 0
    assert "site: site (0 files written)" in capsys.readouterr().out
    assert content_of(tmp_path / "site") == files
    assert (tmp_path / "page.html").exists()


def test_a_killed_call_is_continued_and_decodes_no_image_twice(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, decoded = _example_sheets.decode_image, []

    def killed_at(limit: int) -> Any:
        def decode_some(path: Path, side: int) -> Any:
            if len(decoded) == limit:
                raise KilledError
            decoded.append(path)
            return decode(path, side)

        return decode_some

    monkeypatch.setattr(_example_sheets, "decode_image", killed_at(5))
    with pytest.raises(KilledError):
        main([*arguments, "--publish", "site"])
    assert not (tmp_path / "site" / "index.html").exists()
    monkeypatch.setattr(_example_sheets, "decode_image", killed_at(COUNT))
    assert main([*arguments, "--publish", "site"]) == 0
    assert len(set(decoded)) == len(decoded) == COUNT
    monkeypatch.setattr(_example_sheets, "decode_image", decode)
    assert main([*arguments, "--publish", "whole"]) == 0
    assert content_of(tmp_path / "site") == content_of(tmp_path / "whole")


def test_a_folder_with_something_else_is_refused_before_any_work(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--publish", "images"]) == 1
    assert "images holds something else" in capsys.readouterr().err
    assert len(list((tmp_path / "images").iterdir())) == COUNT
    assert main(["leaderboard", "nowhere", "--publish", "runs"]) == 1
    assert "runs holds something else" in capsys.readouterr().err
    assert main([*arguments, "--publish", "-"]) == 1
    assert "a site cannot go to standard output" in capsys.readouterr().err


def notes_of(page: Path) -> list[str]:
    found = re.findall(r'id="run-index">(.*?)</script>', page.read_text(), re.DOTALL)
    notes: list[str] = json.loads(found[0])["notes"]
    return notes


def test_a_page_says_which_thumbnails_and_answers_it_leaves_out(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    monkeypatch.setattr(_leaderboard_page, "MAX_DATA_CHARS", 2500)
    assert main([*arguments, "--out", str(page)]) == 0
    (note,) = notes_of(page)
    shown = page.read_text().count("data:image/jpeg;base64,")
    assert 0 < shown < COUNT
    assert f"{COUNT - shown} of {COUNT} are left out" in note
    assert page.read_text().count(note.replace("'", "&#39;")) >= 3, "each run says so"
    # Examples have priority; of these, the answers of the last run are left out first.
    blocks = re.findall(r'id="block-(?:examples|answers)[^>]*>([^<]*)<', page.read_text())
    assert len(blocks) == 1 + 3
    monkeypatch.setattr(_leaderboard_page, "MAX_EXAMPLE_CHARS", sum(map(len, blocks)) - 1)
    assert main([*arguments, "--out", str(page)]) == 0
    first, _ = notes_of(page)
    assert "The answers of 1 more, counted by run and task from the bottom" in first
    # Without scripts, all runs still have examples.
    assert page.read_text().count('class="sheet"') == 3


def test_many_runs_have_fewer_examples_without_scripts(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_example_sheets, "MAX_CARDS", 6)
    page = tmp_path / "page.html"
    assert main([*arguments, "--out", str(page)]) == 0
    sheets = re.findall(r'<section class="sheet".*?</section>', page.read_text(), re.DOTALL)
    assert [sheet.count('<li class="card') for sheet in sheets] == [2, 2, 2]
    assert f"2 of {COUNT}" in page.read_text()
    assert main([*arguments, "--out", str(page), "--examples", "0"]) == 0
    assert '<li class="card' not in page.read_text()
    assert "block-examples" not in page.read_text()


@pytest.mark.parametrize("option", ["--out", "--markdown", "--json"])
def test_other_outputs_cannot_replace_files_of_the_site(
    arguments: list[str], tmp_path: Path, option: str
) -> None:
    site = ["--publish", str(tmp_path / "site")]
    assert main([*arguments, *site, option, str(tmp_path / "." / "site" / "index.html")]) == 2
    assert not (tmp_path / "site").exists()
