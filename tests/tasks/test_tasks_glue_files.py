"""GLUE's tab-separated files: quirks that are read, and errors that name file and line."""

import shutil
from pathlib import Path

import pytest

from eval.errors import FileFormatError, InputError
from tasks import get_task
from tasks._glue_files import Columns, read_rows

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
PAIRS = Columns(texts=("first", "second"), label="label", ids="index")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "train.tsv"


def write(file: Path, *lines: str, end: str = "\n") -> None:
    file.write_bytes("".join(line + end for line in lines).encode())


def texts(file: Path) -> list[tuple[str, ...]]:
    return [row.texts for row in read_rows(file, PAIRS)]


HEADER = "index\tfirst\tsecond\tlabel"


def test_quotation_marks_are_part_of_the_text(file: Path) -> None:
    write(file, HEADER, '0\t"a\tb"\t1', '1\tsay ""x""\t"c\t0')
    assert texts(file) == [('"a', 'b"'), ('say ""x""', '"c')]


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\v", "\f", "\x1e"])
def test_only_line_feeds_end_a_line(file: Path, separator: str) -> None:
    write(file, HEADER, f"0\ta{separator}b\t{separator}\t1")
    assert texts(file) == [(f"a{separator}b", separator)]


def test_carriage_returns_of_a_converted_copy_are_left_out(file: Path) -> None:
    write(file, HEADER, "0\ta\r\tb\t1", end="\r\n")
    (row,) = read_rows(file, PAIRS)
    assert (row.texts, row.label) == (("a\r", "b"), "1")


def test_a_byte_order_mark_is_not_part_of_the_header(file: Path) -> None:
    file.write_bytes(f"{HEADER}\n0\ta\tb\t1".encode("utf-8-sig"))
    assert texts(file) == [("a", "b")], "the last line has no line feed"


def test_columns_may_be_in_any_order_among_others(file: Path) -> None:
    write(file, "label\tgenre\tsecond\tindex\tfirst", "1\tx\tb\t7\ta")
    (row,) = read_rows(file, PAIRS)
    assert (row.id, row.texts, row.label, row.line) == ("7", ("a", "b"), "1", 2)


def test_repeated_ids_are_replaced_by_positions(file: Path) -> None:
    write(file, HEADER, "7\ta\tb\t1", "7\tc\td\t1", "9\te\tf\t1")
    assert [row.id for row in read_rows(file, PAIRS)] == ["0", "1", "2"]


def test_a_file_without_line_feeds_is_refused_before_it_fills_the_memory(file: Path) -> None:
    with file.open("wb") as sparse:
        sparse.write(f"{HEADER}\n0\ta".encode())
        sparse.write(b"b" * (1 << 20))
        sparse.truncate(1 << 30)
    with pytest.raises(FileFormatError, match="line 2 has more than 1,048,576 characters"):
        read_rows(file, PAIRS)


def test_spaces_are_kept(file: Path) -> None:
    write(file, HEADER, "0\t a  b \t \t1")
    assert texts(file) == [(" a  b ", " ")]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            (HEADER, "0\ta\tb\t1", "1\ta\tb"),
            r"train.tsv: line 3 has 3 columns; expected 4 columns \(ind",
        ),
        ((HEADER, "0\ta\tb\t1\tx"), "line 2 has 5 columns; expected 4"),
        ((HEADER, "0\ta\tb\t1", "", "1\ta\tb\t1"), "line 3 is empty; expected 4 .*Remove it"),
        ((HEADER, "0,a,b,1"), r"line 2 has 1 column; expected 4 columns \(index"),
        ((HEADER, "0\ta\tb\t1", "\ta\tb\t1"), "line 3 has an empty 'index'; expected an ID"),
        (("index,first,second,label",), "line 1 is 'index,first.*without 'first' and 'second'"),
        (("index\tfirst\tlabel",), "without 'second'; expected a header with the columns"),
        ((f"{HEADER}\tlabel", "0\ta\tb\t1\t0"), "has the column 'label' 2 times; expected it once"),
        ((HEADER, "0\ta\0\tb\t1"), "line 2 contains a null character; expected lines with the col"),
        ((HEADER, "0\ta\tb" + "b" * (1 << 20)), "line 2 has more than 1,048,576 characters; exp"),
        ((HEADER,), "has no examples; expected lines with the columns first, second"),
        ((), "train.tsv is empty; expected lines with the columns"),
    ],
)
def test_malformed_files_are_explained(file: Path, lines: tuple[str, ...], message: str) -> None:
    write(file, *lines)
    with pytest.raises(FileFormatError, match=message):
        read_rows(file, PAIRS)


def test_empty_texts_are_kept(file: Path) -> None:
    write(file, HEADER, "0\ta\t\t1", "1\t\tb\t0")
    assert [row.texts for row in read_rows(file, PAIRS)] == [("a", ""), ("", "b")]


def test_invalid_unicode_is_located(file: Path) -> None:
    file.write_bytes(HEADER.encode() + b"\n0\ta\tb\t1\n1\t\xff\tb\t1\n")
    with pytest.raises(FileFormatError, match=r"train.tsv: line 3 \(byte .* is not UTF-8"):
        read_rows(file, PAIRS)


# In each task's own files.


def with_change(tmp_path: Path, task: str, file: str, line: int, old: str, new: str) -> Path:
    """A copy of a task's fixture with a change in one line."""
    root = tmp_path / "root"
    shutil.copytree(FIXTURES / task, root)
    path = root / "glue" / file
    lines = path.read_bytes().decode().split("\n")
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new)
    path.write_bytes("\n".join(lines).encode())
    return root


@pytest.mark.parametrize(
    ("task", "file", "line", "old", "new", "message"),
    [
        ("cola", "CoLA/dev.tsv", 2, "\t0\t", "\t2\t", "line 2 has the label '2'; expected '0' or"),
        ("cola", "CoLA/dev.tsv", 5, "\t\t", "\t", "line 5 has 3 columns; expected 4"),
        ("rte", "RTE/dev.tsv", 3, "not_entailment", "1", "line 3 has the label '1'; expected 'ent"),
        ("mnli", "MNLI/dev_matched.tsv", 2, "entailment", "-", "line 2 has the label '-'"),
        ("stsb", "STS-B/dev.tsv", 3, "\t0", "\t5.2", "line 3 has the label '5.2'; expected a num"),
        ("stsb", "STS-B/dev.tsv", 4, "3.4", "x", "line 4 has the label 'x'"),
        ("sst2", "SST-2/dev.tsv", 1, "sentence", "phrase", "line 1 is 'phrase"),
        ("mrpc", "MRPC/dev.tsv", 4, "1\t", "yes\t", "line 4 has the label 'yes'"),
    ],
)
def test_errors_in_files_of_a_task_name_file_and_line(
    tmp_path: Path, task: str, file: str, line: int, old: str, new: str, message: str
) -> None:
    root = with_change(tmp_path, task, file, line, old, new)
    split = Path(file).stem
    with pytest.raises(FileFormatError, match=f"{Path(file).name}: {message}"):
        get_task(task).load(root, split)


def test_a_csv_library_would_merge_rows_that_are_read_apart() -> None:
    assert len(get_task("cola").load(FIXTURES / "cola", "dev")) == 5
    assert len(get_task("mnli").load(FIXTURES / "mnli", "dev_matched")) == 3


def test_incomplete_rows_of_qqp_are_skipped(caplog: pytest.LogCaptureFixture) -> None:
    task, root = get_task("qqp"), FIXTURES / "qqp"
    assert task.load(root, "train").ids() == ["10", "11", "12", "13"]
    assert "skipped 2 rows" in caplog.text
    test = task.load(root, "test")
    assert test.ids() == ["0", "1"], "every test example needs an answer"
    assert test[1].prompt == "qqp question1: Who wrote this? question2: "


def test_a_file_whose_rows_are_all_skipped_is_explained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    shutil.copytree(FIXTURES / "qqp", root)
    path = root / "glue/QQP/dev.tsv"
    header = path.read_text().splitlines()[0]
    write(path, header, header.replace("question2", "").replace("is_duplicate", ""))
    message = "dev.tsv has no examples: found only 1 row without a text or the label; expected"
    with pytest.raises(FileFormatError, match=message):
        get_task("qqp").load(root, "dev")
    assert "skipped 1 row without" in caplog.text


def test_other_tasks_do_not_skip_incomplete_rows(tmp_path: Path) -> None:
    root = with_change(tmp_path, "rte", "RTE/dev.tsv", 2, "\tentailment", "")
    with pytest.raises(FileFormatError, match="line 2 has 3 columns"):
        get_task("rte").load(root, "dev")


@pytest.mark.parametrize("name", ["AX/test.tsv", "diagnostic/diagnostic.tsv"])
def test_the_diagnostic_file_has_several_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / "glue" / name
    path.parent.mkdir(parents=True)
    shutil.copyfile(FIXTURES / "ax/glue/AX/AX.tsv", path)
    assert len(get_task("ax").load(tmp_path, "test")) == 2
    path.unlink()
    with pytest.raises(InputError, match=r"glue/AX/AX.tsv"):
        get_task("ax").load(tmp_path, "test")
