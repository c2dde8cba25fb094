"""The archive of gluebenchmark.com: files of all tasks, placeholders, and what is refused."""

import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.errors import FileFormatError, InputError, PredictionError
from tasks import get_task
from tasks._submission import check_submission, split_of_submission, write_submission
from tasks._suite_submission import (
    check_suite_submission,
    suite_parts,
    write_suite_submission,
)

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
# Official names and published numbers of lines.
FILES = {
    "AX.tsv": 1_104,
    "CoLA.tsv": 1_063,
    "MNLI-m.tsv": 9_796,
    "MNLI-mm.tsv": 9_847,
    "MRPC.tsv": 1_725,
    "QNLI.tsv": 5_463,
    "QQP.tsv": 390_965,
    "RTE.tsv": 3_000,
    "SST-2.tsv": 1_821,
    "STS-B.tsv": 1_379,
    "WNLI.tsv": 146,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with the files of all tasks."""
    root = tmp_path / "data"
    for part in suite_parts("glue"):
        shutil.copytree(FIXTURES / part.task.name / "glue", root / "glue", dirs_exist_ok=True)
    return root


def answers(root: Path, answer: str = "1") -> dict[str, dict[str, dict[str, str]]]:
    predictions: dict[str, dict[str, dict[str, str]]] = {}
    for part in suite_parts("glue"):
        ids = part.task.load(root, part.split).ids()
        predictions.setdefault(part.task.name, {})[part.split] = dict.fromkeys(ids, answer)
    return predictions


def lines(archive: Path, name: str) -> list[str]:
    with zipfile.ZipFile(archive) as opened:
        return opened.read(name).decode().split("\n")


def test_the_files_have_their_official_names_and_sizes() -> None:
    parts = suite_parts("glue")
    sizes = {part.file: part.task.sizes[part.split].examples for part in parts}
    assert sizes == FILES
    with pytest.raises(InputError, match="archive of the suite 'superglue'"):
        suite_parts("superglue")


def test_an_archive_holds_words_of_the_data_set(root: Path, tmp_path: Path) -> None:
    written = write_suite_submission("glue", answers(root), root, tmp_path / "out")
    assert written.path == tmp_path / "out" / "glue.zip"
    assert not written.placeholders
    with zipfile.ZipFile(written.path) as archive:
        assert sorted(archive.namelist()) == sorted(FILES)
    assert lines(written.path, "CoLA.tsv") == ["index\tprediction", "0\t1", "1\t1", "2\t1", ""]
    assert lines(written.path, "QNLI.tsv")[1] == "0\tnot_entailment"
    assert lines(written.path, "MNLI-m.tsv")[1] == "0\tneutral"
    assert lines(written.path, "MNLI-mm.tsv")[1:] == ["0\tneutral", ""]
    assert lines(written.path, "AX.tsv")[1] == "0\tneutral"
    assert lines(written.path, "STS-B.tsv")[1] == "0\t1.000"
    assert written.check.answers["CoLA.tsv"] == 3
    assert any("3 examples in" in note and "1,063" in note for note in written.check.notes)


def test_tasks_without_predictions_are_filled(root: Path, tmp_path: Path) -> None:
    given = {"rte": {"test": {"0": "0", "1": "1"}}, "mnli": {"test_matched": {"0": "0", "1": "1"}}}
    written = write_suite_submission("glue", given, root, tmp_path)
    assert set(written.placeholders) == set(FILES) - {"RTE.tsv", "MNLI-m.tsv"}
    assert lines(written.path, "RTE.tsv")[1:3] == ["0\tentailment", "1\tnot_entailment"]
    # The most frequent class, and the middle of the range.
    assert lines(written.path, "CoLA.tsv")[1] == "0\t1"
    assert lines(written.path, "QQP.tsv")[1] == "0\t0"
    assert lines(written.path, "STS-B.tsv")[1] == "0\t2.500"
    assert not any("replaced" in note for note in written.check.notes)


def test_invalid_answers_are_replaced_and_counted(root: Path, tmp_path: Path) -> None:
    predictions = answers(root)
    predictions["rte"]["test"]["1"] = "maybe"
    predictions["stsb"]["test"] = {"0": "7.4", "1": "not a number"}
    written = write_suite_submission("glue", predictions, root, tmp_path)
    assert lines(written.path, "RTE.tsv")[2] == "1\tentailment"
    assert lines(written.path, "STS-B.tsv")[1:3] == ["0\t5.000", "1\t0.000"]
    notes = [note for note in written.check.notes if "replaced" in note]
    assert notes == [
        "RTE.tsv: 1 of 2 answers are not '0' or '1' ('maybe') and were replaced, such as by "
        "'entailment'",
        "STS-B.tsv: 2 of 2 answers are not numbers from 0 to 5 ('7.4', 'not a number') and were "
        "replaced, such as by '5.000'",
    ]


def test_missing_test_files_are_filled_in_their_published_size(tmp_path: Path) -> None:
    written = write_suite_submission("glue", {}, None, tmp_path)
    assert dict(written.check.answers) == FILES
    assert set(written.placeholders) == set(FILES)
    assert not written.check.notes
    again = write_suite_submission("glue", {}, tmp_path / "empty", tmp_path)
    assert sum("published number of examples was" in note for note in again.check.notes) == 11


def test_predictions_of_other_examples_and_tasks_are_refused(root: Path, tmp_path: Path) -> None:
    predictions = answers(root)
    del predictions["rte"]["test"]["1"]
    with pytest.raises(PredictionError, match="1 has no prediction"):
        write_suite_submission("glue", predictions, root, tmp_path)
    for given in ({"vqa": {"test2015": {}}}, {"rte": {"dev": {}}}):
        with pytest.raises(InputError, match="has no file for (vqa test2015|rte dev)"):
            write_suite_submission("glue", given, root, tmp_path)


@pytest.fixture
def archive(root: Path, tmp_path: Path) -> Path:
    return write_suite_submission("glue", answers(root), root, tmp_path / "out").path


def rewrite(archive: Path, change: Callable[[dict[str, bytes]], object]) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    change(members)
    with zipfile.ZipFile(archive, "w") as written:
        for name, content in members.items():
            written.writestr(name, content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.pop("AX.tsv"), "lacks AX.tsv; expected exactly AX.tsv, CoLA.tsv"),
        (lambda files: files.update({"readme.txt": b""}), "has readme.txt; expected exactly"),
        (
            lambda files: files.update({"out/RTE.tsv": files.pop("RTE.tsv")}),
            "lacks RTE.tsv and has out/RTE.tsv; .* without folders",
        ),
        (
            lambda files: files.update({"RTE.tsv": b"0\tentailment\n1\tentailment\n"}),
            "glue.zip: RTE.tsv: line 1 is '0.*expected the header",
        ),
        (
            lambda files: files.update({"RTE.tsv": b"index\tprediction\n0\t1\n1\t0\n"}),
            "glue.zip: RTE.tsv: line 2 has the prediction '1'; expected 'entailment' or",
        ),
        (
            lambda files: files.update({"CoLA.tsv": b"index\tprediction\n1\t1\n0\t1\n2\t1\n"}),
            "CoLA.tsv: line 2 has the index '1'; expected 0",
        ),
        (
            lambda files: files.update({"STS-B.tsv": b"index\tprediction\n0\t5.5\n1\t1.0\n"}),
            "STS-B.tsv: line 2 has the prediction '5.5'; expected a number from 0 to 5",
        ),
        (
            lambda files: files.update({"WNLI.tsv": b"index\tprediction\r\n0\t1\r\n"}),
            "WNLI.tsv: lines end with a carriage return",
        ),
        (
            lambda files: files.update({"WNLI.tsv": b"\xef\xbb\xbfindex\tprediction\n0\t1\n"}),
            "WNLI.tsv begins with a byte-order mark",
        ),
        (
            lambda files: files.update({"WNLI.tsv": b"index\tprediction\n0\t1\t1\n"}),
            "WNLI.tsv: line 2 has 3 columns",
        ),
    ],
)
def test_archives_that_the_server_refuses_are_explained(
    archive: Path, root: Path, change: Callable[[dict[str, bytes]], object], message: str
) -> None:
    rewrite(archive, change)
    with pytest.raises(FileFormatError, match=message):
        check_suite_submission("glue", archive, root)


def test_missing_and_doubled_answers_are_refused(archive: Path, root: Path) -> None:
    rewrite(archive, lambda files: files.update({"WNLI.tsv": b"index\tprediction\n"}))
    with pytest.raises(PredictionError, match="1 has no prediction"):
        check_suite_submission("glue", archive, root)
    rewrite(archive, lambda files: files.update({"WNLI.tsv": b"index\tprediction\n0\t1\n0\t1\n"}))
    with pytest.raises(FileFormatError, match="line 3 has the index '0'; expected 1"):
        check_suite_submission("glue", archive, root)
    rewrite(archive, lambda files: files.update({"WNLI.tsv": b"index\tprediction\n0\t1\n1\t1\n"}))
    with pytest.raises(PredictionError, match="1 prediction belongs to another example"):
        check_suite_submission("glue", archive, root)


def test_two_files_of_one_name_are_refused(archive: Path, root: Path) -> None:
    with zipfile.ZipFile(archive, "a") as opened, pytest.warns(UserWarning, match="Duplicate"):
        opened.writestr("RTE.tsv", "index\tprediction\n")
    with pytest.raises(FileFormatError, match="two files of the same name"):
        check_suite_submission("glue", archive, root)


def test_a_single_file_is_not_checked_as_an_archive(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "RTE.tsv"
    path.write_text("index\tprediction\n0\tentailment\n")
    message = r"RTE.tsv is not .*zip archive; expected glue.zip with AX.tsv, .* its own --task"
    with pytest.raises(FileFormatError, match=message):
        check_suite_submission("glue", path, root)


def test_an_archive_is_not_checked_as_the_file_of_one_task(archive: Path, root: Path) -> None:
    with pytest.raises(FileFormatError, match=r"expected RTE.tsv.*with --task glue"):
        check_submission(get_task("rte"), archive, root, "test")


# The file of a single task.


def test_a_single_task_has_a_file_of_its_own(tmp_path: Path) -> None:
    task, root = get_task("rte"), FIXTURES / "rte"
    predictions = {"0": "1", "1": "neither"}
    written = write_submission(task, predictions, root, "test", tmp_path, name="my run")
    assert written.path == tmp_path / "RTE.tsv"
    assert written.path.read_bytes() == b"index\tprediction\n0\tnot_entailment\n1\tentailment\n"
    assert written.check.notes[0].startswith("1 of 2 answers are not '0' or '1' ('neither')")
    assert any("one archive of all tasks of glue" in note for note in written.check.notes)
    assert check_submission(task, written.path, root, "test").answers == {"test": 2}


def test_both_splits_of_mnli_have_files_of_their_own(tmp_path: Path) -> None:
    task, root = get_task("mnli"), FIXTURES / "mnli"
    for split, name in (("test_matched", "MNLI-m.tsv"), ("test_mismatched", "MNLI-mm.tsv")):
        predictions = dict.fromkeys(task.load(root, split).ids(), "2")
        written = write_submission(task, predictions, root, split, tmp_path, name="x")
        assert (written.path.name, list(written.missing)) == (name, [])
        assert split_of_submission(task, written.path) == split
    with pytest.raises(InputError, match=r"mine.tsv does not tell the split .* --split"):
        split_of_submission(task, Path("mine.tsv"))


def test_a_submission_is_checked_without_annotations(tmp_path: Path) -> None:
    """The IDs of test examples are the numbers from 0, and their number is published."""
    path = tmp_path / "WNLI.tsv"
    path.write_text("index\tprediction\n" + "".join(f"{n}\t0\n" for n in range(146)))
    assert check_submission(get_task("wnli"), path, None, "test").answers == {"test": 146}
    with pytest.raises(InputError, match="IDs of vqa test2015 are in its official files"):
        check_submission(get_task("vqa"), path, None, "test2015")
    with pytest.raises(InputError, match="no split 'nope'"):
        check_submission(get_task("wnli"), path, None, "nope")


def test_ids_that_are_no_indices_are_not_submitted(tmp_path: Path) -> None:
    task, root = get_task("qqp"), FIXTURES / "qqp"
    predictions = dict.fromkeys(task.load(root, "dev").ids(), "0")
    with pytest.raises(PredictionError, match="3 of 4 IDs are not indices of test examples"):
        write_submission(task, predictions, root, "dev", tmp_path, name="x")


def test_real_files_are_submitted(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "data"
    names = ("cola", "mrpc", "rte", "sst2", "stsb")
    words = random.Random(0)
    predictions = {}
    for name in names:
        choices = ["0.4", "5.0", "x"] if name == "stsb" else ["0", "1", "x"]
        ids = get_task(name).load(root, "test").ids()
        predictions[name] = {"test": {id_: words.choice(choices) for id_ in ids}}
    written = write_suite_submission("glue", predictions, root, tmp_path)
    assert len(written.placeholders) == 6
    found = {name: FILES[name] for name in FILES if name != "QNLI.tsv"}
    assert {**written.check.answers, "QNLI.tsv": 200} == {**found, "QNLI.tsv": 200}
    again = write_suite_submission("glue", predictions, root, tmp_path / "again")
    assert again.path.read_bytes() == written.path.read_bytes()
