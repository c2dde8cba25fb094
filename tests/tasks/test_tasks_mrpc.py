"""The two layouts of MRPC: the files of GLUE, and the corpus that they are made from."""

import shutil
from pathlib import Path

import pytest

from eval.errors import FileFormatError, InputError
from tasks import Task, get_task

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"


@pytest.fixture
def corpus_root(tmp_path: Path) -> Path:
    """The fixture of MRPC as the corpus that its files are made from."""
    source = FIXTURES / "mrpc/glue/MRPC"
    folder = tmp_path / "corpus/glue/MRPC"
    folder.mkdir(parents=True)
    train, dev, test = (
        (source / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
        for split in ("train", "dev", "test")
    )
    mixed = [train[0], dev[1], train[1], train[2], dev[2], dev[3], train[3], dev[4]]
    (folder / "msr_paraphrase_train.txt").write_text(
        "".join(f"{line}\n" for line in mixed), encoding="utf-8"
    )
    labelled = ["\ufeff" + "\t".join(["Quality", *test[0].split("\t")[1:]])]
    labelled += ["\t".join(["1", *line.split("\t")[1:]]) for line in test[1:]]
    (folder / "msr_paraphrase_test.txt").write_text(
        "".join(f"{line}\n" for line in labelled), encoding="utf-8"
    )
    pairs = ["\t".join(line.split("\t")[1:3]) for line in dev[1:]]
    (folder / "dev_ids.tsv").write_text("".join(f"{pair}\n" for pair in pairs), encoding="utf-8")
    return tmp_path / "corpus"


def contents(task: Task, root: Path) -> dict[str, list[object]]:
    return {
        split: [(each.id, each.prompt, each.targets) for each in task.load(root, split)]
        for split in task.splits
    }


def test_the_corpus_of_mrpc_replaces_the_files_made_from_it(corpus_root: Path) -> None:
    task = get_task("mrpc")
    assert contents(task, corpus_root) == contents(task, FIXTURES / "mrpc")


def test_the_files_made_from_the_corpus_are_those_of_the_download_script(
    corpus_root: Path,
) -> None:
    task = get_task("mrpc")
    assert task.prepare is not None
    made = list(task.prepare(corpus_root, min_count=None, overwrite=False))
    assert all(each.written for each in made)
    assert "4 examples; not the 408 of GLUE" in made[1].note
    for split in ("train", "dev", "test"):
        name = f"glue/MRPC/{split}.tsv"
        assert (corpus_root / name).read_bytes() == (FIXTURES / "mrpc" / name).read_bytes()
    again = list(task.prepare(corpus_root, min_count=None, overwrite=False))
    assert not any(each.written for each in again)


def test_real_files_of_mrpc_are_made_byte_for_byte(shared_data: Path, tmp_path: Path) -> None:
    real, folder = shared_data / "data/glue/MRPC", tmp_path / "glue/MRPC"
    folder.mkdir(parents=True)
    for name in ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt", "dev_ids.tsv"):
        shutil.copyfile(real / name, folder / name)
    task = get_task("mrpc")
    assert task.prepare is not None
    notes = [each.note for each in task.prepare(tmp_path, min_count=None, overwrite=False)]
    assert all("as many as the" in note for note in notes)
    for split in ("train", "dev", "test"):
        assert (folder / f"{split}.tsv").read_bytes() == (real / f"{split}.tsv").read_bytes()


def test_missing_and_wrong_ids_of_dev_are_explained(corpus_root: Path) -> None:
    ids = corpus_root / "glue/MRPC/dev_ids.tsv"
    task = get_task("mrpc")
    with ids.open("a") as file:
        file.write("1\t2\n")
    with pytest.raises(FileFormatError, match=r"dev_ids.tsv: 1 pair of IDs is not in .*\(1 2\)"):
        task.load(corpus_root, "dev")
    ids.write_text("201 202\n")
    with pytest.raises(FileFormatError, match=r"dev_ids.tsv: line 1 is '201 202'"):
        task.load(corpus_root, "train")
    ids.write_text("")
    with pytest.raises(FileFormatError, match=r"dev_ids.tsv is empty; expected the pairs of IDs"):
        task.load(corpus_root, "train")
    ids.unlink()
    with pytest.raises(InputError, match=r"no file .*dev_ids.tsv"):
        task.load(corpus_root, "train")


def test_no_file_without_examples_is_made_from_the_corpus(corpus_root: Path) -> None:
    """It would be kept when the corpus is complete."""
    folder = corpus_root / "glue/MRPC"
    lines = (folder / "msr_paraphrase_train.txt").read_text(encoding="utf-8").splitlines()[1:]
    pairs = ["\t".join(line.split("\t")[1:3]) for line in lines]
    (folder / "dev_ids.tsv").write_text("".join(f"{pair}\n" for pair in pairs), encoding="utf-8")
    task = get_task("mrpc")
    assert task.prepare is not None
    with pytest.raises(FileFormatError, match=r"msr_paraphrase_train.txt has no examples of train"):
        list(task.prepare(corpus_root, min_count=None, overwrite=False))
    assert not list(folder.glob("t*.tsv"))


def test_no_broken_file_is_made_from_the_corpus(corpus_root: Path) -> None:
    """It would be kept when the corpus is repaired."""
    old, new = "1\t205", "yes\t205"
    corpus = corpus_root / "glue/MRPC/msr_paraphrase_train.txt"
    text = corpus.read_text(encoding="utf-8-sig")
    line = text[: text.index(old)].count("\n") + 1
    task = get_task("mrpc")
    assert task.prepare is not None
    corpus.write_text(text.replace(old, new), encoding="utf-8-sig")
    with pytest.raises(FileFormatError, match=rf"msr_paraphrase_train.txt: line {line} has"):
        list(task.prepare(corpus_root, min_count=None, overwrite=False))
    assert not (corpus.parent / "dev.tsv").exists()
    corpus.write_text(text, encoding="utf-8-sig")
    assert len(list(task.prepare(corpus_root, min_count=None, overwrite=False))) == 3


def test_files_are_not_made_without_the_corpus(corpus_root: Path) -> None:
    (corpus_root / "glue/MRPC/msr_paraphrase_train.txt").unlink()
    task = get_task("mrpc")
    assert task.prepare is not None
    with pytest.raises(InputError, match=r"train.txt: .*`vl-lst data download --task mrpc` first"):
        list(task.prepare(corpus_root, min_count=None, overwrite=False))
