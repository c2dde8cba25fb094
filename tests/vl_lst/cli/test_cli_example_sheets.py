"""Examples on the leaderboard page, from official files and from own data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from board_runs import write_run
from PIL import Image

from eval.errors import InputError
from eval.leaderboard.runs import Run, find_runs
from eval.report.example_data import RunAnswers, SplitExamples
from eval.report.examples import ExampleSheet
from vl_lst.cli._answered_splits import AnsweredSplit, SplitReader
from vl_lst.cli._example_sheets import make_sheet, read_thumbnails
from vl_lst.progress import silent

pytestmark = pytest.mark.usefixtures("cache")


def run_with(folder: Path, name: str, predictions: object, **fields: Any) -> Run:
    run = write_run(folder, "run", **fields)
    (run / "predictions").mkdir()
    (run / "predictions" / name).write_text(json.dumps(predictions))
    (found,) = find_runs(folder).runs
    return found


def sheet_of(run: Run, task: str, split: str, count: int) -> ExampleSheet:
    return make_sheet(SplitReader().read(run, task, split), count)


def in_memory(key: str, make: Callable[[], bytes]) -> str:
    """Store a thumbnail as its own address."""
    return make().decode("latin-1")


def test_captions_are_shown_with_their_references_and_not_graded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is Java needed."""
    monkeypatch.setenv("PATH", "")
    annotations = tmp_path / "data" / "coco" / "annotations"
    annotations.mkdir(parents=True)
    captions = {
        "images": [{"id": 7, "file_name": "COCO_val2014_000000000007.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 7, "caption": "a dog"},
            {"id": 2, "image_id": 7, "caption": "a wet dog"},
        ],
    }
    (annotations / "captions_val2014.json").write_text(json.dumps(captions))
    run = run_with(
        tmp_path / "runs",
        "caption-val2014.json",
        [{"image_id": 7, "caption": "a cat"}],
        scores={"caption": 1.0},
        recipe__data__root=str(tmp_path / "data"),
    )
    sheet = sheet_of(run, "caption", "val2014", 5)
    (card,) = sheet.cards
    assert (card.prompt, card.prediction, card.is_right) == ("", "a cat", None)
    assert list(card.references) == ["a dog", "a wet dog"]


def test_examples_of_own_data(tmp_path: Path) -> None:
    lines = [
        {"id": f"q{n}", "images": [f"p{n}.jpg"], "prompt": f"what is {n}?", "answers": ["a"]}
        for n in range(30)
    ]
    files = {name: tmp_path / f"{name}.jsonl" for name in ("train", "val")}
    for path in files.values():
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = run_with(
        tmp_path / "runs",
        "vqa-val.json",
        [{"id": f"q{n}", "answer": "a" if n >= 3 else "b"} for n in range(30)],
        recipe__data__root=None,
        recipe__data__train_file={"vqa": str(files["train"])},
        recipe__data__validation_file={"vqa": str(files["val"])},
    )
    sheet = sheet_of(run, "vqa", "val", 10)
    assert sheet.total == 30
    # All three wrong ones, in the order of the split.
    assert [card.id for card in sheet.cards if not card.is_right] == ["q0", "q1", "q2"]
    right = [card.id for card in sheet.cards if card.is_right]
    assert len(right) == 7
    assert right == sorted(right, key=lambda id_: int(id_[1:]))
    assert sheet.cards[0].prompt == "what is 0?"
    assert list(sheet.cards[0].image_ids) == ["p0"]


def test_runs_show_the_same_examples_as_far_as_possible() -> None:
    ids = [str(number) for number in range(1000)]
    examples = SplitExamples("vqa", "val", ids, ids, [["a"]] * 1000, [[]] * 1000, is_graded=True)

    def shown(wrong_every: int) -> set[str]:
        percents = [0.0 if number % wrong_every == 0 else 100.0 for number in range(1000)]
        answers = RunAnswers(["a"] * 1000, percents)
        sheet = make_sheet(AnsweredSplit(examples, "", answers, None), 24)
        assert [card.is_right for card in sheet.cards].count(False) == 12
        return {card.id for card in sheet.cards}

    # Independent choices would have one in common.
    assert len(shown(2) & shown(3)) >= 12


@pytest.mark.parametrize("root", [None, 3, "", "nowhere"])
def test_an_unusable_data_root_is_reported(tmp_path: Path, root: object) -> None:
    run = run_with(tmp_path, "vqa-val2014.json", [], recipe__data__root=root)
    with pytest.raises(InputError, match="^The examples cannot be shown: "):
        SplitReader().read(run, "vqa", "val2014")


def test_thumbnails_are_small_and_stop_at_the_limit(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        Image.effect_noise((900, 600), 50).save(tmp_path / f"{name}.png")
    found = read_thumbnails(tmp_path, ["c", "a", "c", "b"], silent, in_memory, 100)
    assert not found.missing
    assert list(found.addresses) == ["c"], "the most important comes first, and fills the room"
    assert found.left_out == 2
    jpeg = found.addresses["c"]
    assert len(jpeg) < 30_000
    assert jpeg.startswith("\xff\xd8")


def test_a_missing_image_names_the_suffixes_that_were_left_out(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "p1.png")
    (tmp_path / "p2.jxl").write_bytes(b"x")
    found = read_thumbnails(tmp_path, ["p2"], silent, in_memory)
    assert found.missing["p2"].endswith("; left out: 1 .jxl.")
