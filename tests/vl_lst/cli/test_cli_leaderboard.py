"""The command `vl-lst leaderboard`."""

import json
import re
import shutil
from pathlib import Path

import pytest
from board_runs import write_run
from tiny_run import TinyWorld

from eval.leaderboard.runs import find_runs
from eval.run_files import RunRecord
from vl_lst.cli import main
from vl_lst.run import load_run
from vl_lst.training.session import train


@pytest.fixture(scope="module")
def trained(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        train(world.recipe(training__seed=seed), folder / f"seed-{seed}")
    load_run(folder / "seed-0").evaluate("val2014")
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "runs")


def cards_of(page: str) -> list[tuple[str, str, str]]:
    """Return (right or wrong, prompt, prediction) of all examples on a page."""
    return re.findall(
        r'<li class="card (\w+)">.*?class="prompt">(.*?)</p>.*?class="prediction">(.*?)</span>',
        page,
        re.DOTALL,
    )


def test_a_run_without_training_is_the_floor_of_trained_ones(
    world: TinyWorld, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its page has no curves, and its examples show the text without the prompt around it."""
    evaluate = ["evaluate", str(runs / "floor"), "--zero-shot", "--backbone", str(world.backbone)]
    evaluate += ["--task", "vqa", "--data-root", str(world.root), "--split", "val2014"]
    assert main([*evaluate, "--set", "training.device=cpu"]) == 0
    out, table = tmp_path / "board.html", tmp_path / "table.json"
    arguments = ["leaderboard", str(runs), "--out", str(out), "--json", str(table)]
    assert main([*arguments, "--include-dirty", "--images", str(world.root / "images")]) == 0
    (group,) = json.loads(table.read_text())["groups"]
    assert [row["method"] for row in group["rows"]] == ["lst"]
    (row,) = group["floors"]
    floor = row["costs"]
    assert floor.pop("trainable_percent")["mean"] == 0
    assert floor.pop("checkpoint_bytes")["mean"] == 0
    assert not any(floor.values()), "nothing was trained, and the batches have another size"
    page = out.read_text()
    assert "zero-shot" in page
    prompts = {prompt for _, prompt, _ in cards_of(page)}
    assert "what color is it?" in prompts
    assert not any("Short answer" in prompt for prompt in prompts)
    assert "Traceback" not in capsys.readouterr().err


def test_real_runs_become_a_page_and_tables(
    world: TinyWorld, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"table.{name}" for name in ("markdown", "latex", "csv", "json")}
    out = tmp_path / "board.html"
    arguments = [str(runs), "--out", str(out), "--include-dirty"]
    for name, path in files.items():
        arguments += [f"--{name}", str(path)]
    assert main(["leaderboard", *arguments, "--images", str(world.root / "images")]) == 0
    captured = capsys.readouterr()
    assert "vqa on val2014" in captured.out
    assert str(out) in captured.out
    assert "collecting examples: 2/2" in captured.err

    document = json.loads(files["json"].read_text())
    (row,) = document["groups"][0]["rows"]
    records = [json.loads((runs / f"seed-{n}" / "record.json").read_text()) for n in range(2)]
    scores = [record["scores"]["vqa"]["val2014"]["accuracy"] for record in records]
    assert row["scores"]["vqa"]["mean"] == pytest.approx(sum(scores) / 2)
    assert row["label"] == "lst"
    assert [run["seed"] for run in row["runs"]] == [0, 1]
    # Both runs kept the scores of each example.
    low, high = row["scores"]["vqa"]["interval"]
    assert low < row["scores"]["vqa"]["mean"] < high
    assert "| lst" in files["markdown"].read_text()
    assert r"\toprule" in files["latex"].read_text()
    assert files["csv"].read_text().startswith("group,kind,method")

    page = out.read_text(encoding="utf-8")
    assert page.count('<article class="view run"') == 2
    # Each of the six images is embedded once, however many examples show it.
    assert page.count("data:image/jpeg;base64,") == 6
    predictions = json.loads((runs / "seed-0/predictions/vqa-val2014.json").read_text())
    # Both runs have the predictions of their best step.
    assert len(cards_of(page)) == 2 * len(predictions) == 24
    cards = cards_of(page)[: len(predictions)]
    assert [said for _, _, said in cards] == [each["answer"] for each in predictions]
    assert {prompt for _, prompt, _ in cards} == {"what color is it?", "is it red?"}
    share = 100 * [verdict for verdict, *_ in cards].count("right") / len(cards)
    assert share == pytest.approx(scores[0], abs=10)


def test_real_records_have_the_fields_that_the_leaderboard_reads(runs: Path) -> None:
    """A field that only the reader knows would silently read as missing."""
    run = find_runs(runs, include_dirty=True).runs[0]
    written = json.loads((run.folder / "record.json").read_text())
    assert RunRecord.model_fields.keys() <= written.keys()
    assert run.record.memory_bytes is not None
    assert run.record.memory_bytes.model_fields_set == written["memory_bytes"].keys()
    assert run.record.parameters is not None
    assert run.record.parameters.model_fields_set == written["parameters"].keys()
    assert run.train_digests.keys() == {"vqa"}


def test_a_run_without_predictions_says_how_to_make_them(runs: Path, tmp_path: Path) -> None:
    (runs / "seed-1" / "predictions" / "vqa-val2014.json").unlink()
    out = tmp_path / "board.html"
    assert main(["leaderboard", str(runs), "--out", str(out), "--include-dirty", "--quiet"]) == 0
    page = out.read_text(encoding="utf-8")
    assert "seed-1 has no predictions of vqa val2014: run `vl-lst evaluate" in page
    assert "The examples cannot be shown" not in page


def test_half_of_the_examples_are_wrong_if_possible(runs: Path, tmp_path: Path) -> None:
    path = runs / "seed-0" / "predictions" / "vqa-val2014.json"
    predictions = json.loads(path.read_text())
    for number, each in enumerate(predictions):
        each["answer"] = "no" if number % 2 else "nonsense"
    path.write_text(json.dumps(predictions))
    out = tmp_path / "board.html"
    arguments = [str(runs), "--out", str(out), "--include-dirty", "--quiet"]
    assert main(["leaderboard", *arguments, "--examples", "4"]) == 0
    # The cards of the first run only.
    verdicts = [verdict for verdict, *_ in cards_of(out.read_text(encoding="utf-8"))][:4]
    assert sorted(verdicts) == ["right", "right", "wrong", "wrong"]
    assert "data:image" not in out.read_text(encoding="utf-8")


def test_the_page_says_that_annotations_are_missing(runs: Path, tmp_path: Path) -> None:
    for number in range(2):
        path = runs / f"seed-{number}" / "record.json"
        record = json.loads(path.read_text())
        record["recipe"]["data"]["root"] = str(tmp_path / "nowhere")
        path.write_text(json.dumps(record))
    out = tmp_path / "board.html"
    arguments = [str(runs), "--out", str(out), "--include-dirty", "--quiet"]
    assert main(["leaderboard", *arguments]) == 0
    page = out.read_text(encoding="utf-8")
    assert "The examples cannot be shown: no file" in page
    assert not cards_of(page)


@pytest.mark.parametrize("damage", ["[", '[{"question_id": 1, "answer": "x"}]', '"\\ud800"'])
def test_damaged_predictions_are_reported(runs: Path, tmp_path: Path, damage: str) -> None:
    (runs / "seed-0" / "predictions" / "vqa-val2014.json").write_text(damage)
    out = tmp_path / "board.html"
    arguments = [str(runs), "--out", str(out), "--include-dirty", "--quiet"]
    assert main(["leaderboard", *arguments]) == 0
    assert "The examples cannot be shown" in out.read_text(encoding="utf-8")


def test_a_broken_image_is_reported_and_the_page_still_written(
    world: TinyWorld, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = shutil.copytree(world.root / "images" / "val2014", tmp_path / "images")
    broken, gone, *_ = sorted(images.iterdir())
    broken.write_bytes(b"not an image")
    gone.unlink()
    out = tmp_path / "board.html"
    arguments = [str(runs), "--out", str(out), "--include-dirty", "--images", str(images)]
    assert main(["leaderboard", *arguments]) == 0
    stderr = capsys.readouterr().err
    assert f"no thumbnail of {broken.stem}: it is not an image" in stderr
    assert f"no thumbnail of {gone.stem}: found no file" in stderr
    assert out.read_text(encoding="utf-8").count("data:image/jpeg;base64,") == 4


def test_left_out_runs_are_listed_with_the_reason_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs", "good")
    write_run(tmp_path / "runs", "bad", status="failed", error="[red]boom[/]")
    out = tmp_path / "board.html"
    assert main(["leaderboard", str(tmp_path / "runs"), "--out", str(out)]) == 0
    assert "left out bad: failed: [red]boom[/]" in capsys.readouterr().err
    assert "NeurIPS" in out.read_text(encoding="utf-8")
    arguments = ["leaderboard", str(tmp_path / "runs"), "--out", str(out)]
    assert main([*arguments, "--no-reported", "--quiet"]) == 0
    assert "left out" not in capsys.readouterr().err
    assert "NeurIPS" not in out.read_text(encoding="utf-8")


def test_no_usable_run_is_an_error_and_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "board.html"
    assert main(["leaderboard", str(tmp_path / "nowhere"), "--out", str(out)]) == 1
    assert "does not exist; expected a folder with runs" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["leaderboard", str(tmp_path / "empty"), "--out", str(out)]) == 1
    assert "holds no run" in capsys.readouterr().err
    write_run(tmp_path / "runs", "bad", status="cancelled")
    assert main(["leaderboard", str(tmp_path / "runs"), "--out", str(out)]) == 1
    assert "none of the 1 run(s)" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("split", ["vqa", "dance=val", "vqa="])
def test_an_invalid_split_option_is_refused(tmp_path: Path, split: str) -> None:
    write_run(tmp_path, "a")
    assert main(["leaderboard", str(tmp_path), "--split", split]) == 2


def test_the_same_runs_give_the_same_page(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / "runs", f"s{seed}", seed=seed)
    pages = [tmp_path / "one.html", tmp_path / "two.html"]
    for page in pages:
        assert main(["leaderboard", str(tmp_path / "runs"), "--out", str(page), "--quiet"]) == 0
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_help_ends_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", "--help"]) == 0
    assert "Example: vl-lst leaderboard runs" in capsys.readouterr().out


def test_an_unknown_reference_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs", "run", method="lora")
    out = tmp_path / "board.html"
    arguments = ["leaderboard", str(tmp_path / "runs"), "--out", str(out), "--reference"]
    assert main([*arguments, "full"]) == 1
    assert "--reference 'full': found no such row" in capsys.readouterr().err
    assert not out.exists()
    assert main([*arguments, "lora"]) == 0
