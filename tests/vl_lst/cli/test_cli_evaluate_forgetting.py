"""`vl-lst evaluate --forgetting`: printed, recorded, compared, and refused with one message."""

import json
from pathlib import Path

import pytest
from tiny_texts import TextWorld

from vl_lst.cli import main


@pytest.fixture(scope="module")
def runs(shared_text_world: TextWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ladder and a method that changes the backbone, on the bundled backbone."""
    folder = tmp_path_factory.mktemp("forgetting")
    for method in ("lst", "bitfit"):
        arguments = ["train", "--task", "rte", "--data-root", str(shared_text_world.root)]
        arguments += ["--out", str(folder / method), "--backbone", "demo", "--method", method]
        for setting in ("training.epochs=2", "training.batch_size=8", "training.device=cpu"):
            arguments += ["--set", setting]
        assert main([*arguments, "--set", "optimizer.lr=0.01", "--quiet"]) == 0
    return folder


def record(run: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((run / "record.json").read_text())
    return content


def test_it_is_printed_recorded_and_compared(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.json"
    for method in ("lst", "bitfit"):
        before = record(runs / method)
        assert (
            main(["evaluate", str(runs / method), "--forgetting", "demo", "--json", str(out)]) == 0
        )
        report = json.loads(out.read_text())["forgetting"]
        increase = report.pop("increase")
        assert record(runs / method) == {**before, "forgetting": report}
        assert (increase == 0) == report["is_by_construction"] == (method == "lst")
    printed = capsys.readouterr().out
    assert "forgetting: 0 nats per token by construction: the backbone is frozen" in printed
    assert "nats per token from " in printed
    # Adding scores keeps it.
    evaluate = ["evaluate", str(runs / "bitfit"), "--split", "dev", "--quiet"]
    assert main(evaluate) == 0
    assert record(runs / "bitfit")["forgetting"] == report
    board = ["leaderboard", str(runs), "--include-dirty", "--out", str(tmp_path / "board.html")]
    table = tmp_path / "table.md"
    assert main([*board, "--no-reported", "--markdown", str(table)]) == 0
    heading, _, *rows = [line for line in table.read_text().splitlines() if line.startswith("|")]
    names = [name.strip() for name in heading.split("|")]
    for row in rows:
        cells = dict(zip(names, map(str.strip, row.split("|")), strict=True))
        assert (cells["Forgetting"] == "0") == cells["method"].startswith("lst")
        assert cells["Time/answer"].endswith(" s")
        assert cells["Checkpoint"].endswith("KiB") or cells["Checkpoint"].endswith("MiB")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--forgetting", "nothing.txt"], "no file nothing.txt"),
        (["--forgetting", "demo", "--zero-shot"], "--forgetting cannot be given with --zero-shot"),
        (["--forgetting", "demo", "--submission"], "--submission requires --split"),
        ([], "found none of --split, --file and --forgetting"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    runs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["evaluate", str(runs / "lst"), *arguments]) != 0
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "dve"], "rte has no split 'dve'"),
        (["--task", "vqq", "--split", "dev"], "no task 'vqq'"),
        (["--file", "own.jsonl", "--submission"], "test servers accept answers to official"),
        (["--split", "own.jsonl", "--submission"], "test servers accept answers to official"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_forgetting_is_measured(
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "own.jsonl").write_text(
        '{"id": "1", "text": "a", "text2": "b", "answers": ["0"]}\n'
    )
    monkeypatch.chdir(tmp_path)
    before = record(runs / "lst")
    command = ["evaluate", str(runs / "lst"), "--forgetting", "demo", "--json", "report.json"]
    assert main([*command, *arguments]) == 1
    printed = capsys.readouterr()
    assert message in " ".join(printed.err.split())
    assert "forgetting: " not in printed.out
    assert record(runs / "lst") == before
    assert not (tmp_path / "report.json").exists()


def test_a_tokenizer_without_sentinels_is_refused(
    text_world: TextWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(text_world.train_arguments(tmp_path / "run")) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--forgetting", "demo"]) == 1
    assert "the tokenizer lacks <extra_id_0>" in " ".join(capsys.readouterr().err.split())
