"""The command `vl-lst data`."""

import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vl_lst.cli import main

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return shutil.copytree(FIXTURES / "vqa", tmp_path / "root")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A served folder and its address."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = partial(Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def data(command: str, root: Path, *more: str, task: str = "vqa") -> int:
    return main(["data", command, "--task", task, "--data-root", str(root), *more])


def test_check_lists_files_sizes_and_addresses(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "check.json"
    assert data("check", root, "--json", str(out)) == 0
    shown = capsys.readouterr()
    assert "v2_mscoco_val2014_annotations.json" in shown.out
    assert (
        "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa/v2_Annotations_Val_mscoco.zip" in shown.out
    )
    assert "443,757" in shown.out
    assert "train2014, val2014: all required files are present" in shown.out
    assert "vqa train2014 does not have the published size" in shown.err
    document = json.loads(out.read_text())
    assert document["complete"] is True
    assert [split["split"] for split in document["splits"]] == ["train2014", "val2014"]
    assert {file["found"] is None for file in document["files"]} == {True, False}


def test_check_reports_missing_files(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "vqa" / "v2_mscoco_train2014_annotations.json").unlink()
    out = tmp_path / "check.json"
    assert data("check", root, "--json", str(out)) == 1
    shown = capsys.readouterr()
    assert "error: train2014 needs vqa/v2_mscoco_train2014_annotations.json" in shown.err
    assert "missing" in shown.out
    assert json.loads(out.read_text())["complete"] is False
    assert data("check", root, "--split", "val2014") == 0


def test_check_reports_a_problem_of_two_splits_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "glue" / "MRPC"
    folder.mkdir(parents=True)
    corpus = FIXTURES / "mrpc" / "glue" / "MRPC" / "train.tsv"
    shutil.copyfile(corpus, folder / "msr_paraphrase_train.txt")
    (folder / "dev_ids.tsv").write_text("no IDs\n")
    assert data("check", tmp_path, task="mrpc") == 1
    assert capsys.readouterr().err.count("line 1 is 'no IDs") == 1


def test_check_of_an_empty_folder_lists_all_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data("check", tmp_path / "nowhere", "--split", "dev", task="nlvr2") == 1
    assert "lil-lab/nlvr/master/nlvr2/data/test2.json" in capsys.readouterr().out


def test_an_unknown_split_is_an_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data("check", root, "--split", "nope") == 1
    assert data("download", root, "--split", "nope") == 1
    assert capsys.readouterr().err.count("no split 'nope'") == 2


def test_prepare_lists_the_written_files(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "prepared.json"
    assert data("prepare", root, "--min-count", "1") == 1
    shown = capsys.readouterr()
    assert "written:" in shown.out
    assert "dataset_coco.json" in shown.err
    assert data("prepare", FIXTURES / "nlvr2", "--json", str(out), task="nlvr2") == 0
    assert json.loads(out.read_text()) == {"task": "nlvr2", "files": []}


def test_download_fills_the_data_root(
    served: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, address = served
    for kind, name in (
        ("Questions", "v2_OpenEnded_mscoco_val2014_questions.json"),
        ("Annotations", "v2_mscoco_val2014_annotations.json"),
    ):
        with zipfile.ZipFile(folder / f"v2_{kind}_Val_mscoco.zip", "w") as archive:
            archive.write(FIXTURES / "vqa" / "vqa" / name, name)
    root, out = tmp_path / "root", tmp_path / "written.json"
    arguments = ("--split", "val2014", "--mirror", address, "--json", str(out))
    assert data("download", root, *arguments) == 0
    assert capsys.readouterr().out.count("written:") == 2
    assert len(json.loads(out.read_text())["written"]) == 2
    assert data("check", root, "--split", "val2014") == 0
    assert data("download", root, *arguments) == 0
    assert "2 of 2 files already existed" in capsys.readouterr().err


def test_a_wrong_checksum_is_reported(
    served: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, address = served
    arguments = ("--split", "train", "--mirror", address)
    (folder / "train.json").write_text("{}\n")
    assert data("download", tmp_path / "root", *arguments, task="nlvr2") == 0
    (tmp_path / "root" / "nlvr2" / "train.json").unlink()
    (folder / "train.json").write_text("[]\n")
    capsys.readouterr()
    assert data("download", tmp_path / "root", *arguments, task="nlvr2") == 1
    shown = capsys.readouterr()
    assert "the checksum does not match" in shown.err
    assert "Traceback" not in shown.err
    assert not (tmp_path / "root" / "nlvr2" / "train.json").exists()


def test_missing_files_on_the_server_are_reported(
    served: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--split", "dev", "--mirror", served[1])
    assert data("download", tmp_path, *arguments, task="nlvr2") == 1
    assert capsys.readouterr().err.count("responds 404") == 3


def test_a_derived_split_downloads_its_input_files(
    served: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--split", "karpathy_test", "--mirror", served[1])
    assert data("download", tmp_path, *arguments) == 1
    errors = capsys.readouterr().err
    for name in ("v2_Annotations_Train", "v2_Questions_Val", "caption_datasets"):
        assert name in errors
    assert "minival" not in errors


def test_one_host_that_is_down_does_not_stop_the_others(
    served: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, address = served
    (folder / "balanced_dev.json").write_text("{}\n")
    arguments = ("--split", "dev", "--mirror", address)
    assert data("download", tmp_path / "root", *arguments, task="nlvr2") == 1
    assert "written:" in capsys.readouterr().out
    assert (tmp_path / "root" / "nlvr2" / "balanced" / "balanced_dev.json").exists()


def test_check_submission(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = root / "vqa" / "v2_OpenEnded_mscoco_test-dev2015_questions.json"
    ids = [each["question_id"] for each in json.loads(questions.read_text())["questions"]]
    file = tmp_path / "vqa_OpenEnded_mscoco_test-dev2015_lst_results.json"
    file.write_text(json.dumps([{"question_id": id_, "answer": "yes"} for id_ in ids]))
    out = tmp_path / "check.json"
    arguments = ["score", "--task", "vqa", "--data-root", str(root), "--split", "test-dev2015"]
    assert main([*arguments, "--check-submission", str(file), "--json", str(out)]) == 0
    shown = capsys.readouterr()
    assert f"is valid: {len(ids)} answers of test-dev2015, for EvalAI" in shown.out
    assert "107,394 officially" in shown.err
    assert json.loads(out.read_text())["answers"] == {"test-dev2015": len(ids)}

    file.write_text(json.dumps([{"question_id": id_, "answer": "yes"} for id_ in ids[1:]]))
    assert main([*arguments, "--check-submission", str(file)]) == 1
    assert "1 has no prediction" in capsys.readouterr().err
    assert main(arguments) == 2
    assert main([*arguments, "--check-submission", str(file), "--predictions", str(file)]) == 2
