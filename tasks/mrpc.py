"""MRPC: whether two sentences from the news mean the same.

The files are `glue/MRPC/{train,dev,test}.tsv`, as GLUE's download script writes them, or the files
that it makes them from: `msr_paraphrase_train.txt`, whose rows listed in `dev_ids.tsv` are dev and
whose other rows are train, and `msr_paraphrase_test.txt`. The labels in the latter are not read,
because they are secret in GLUE.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eval.errors import FileFormatError, InputError
from eval.outputs import atomic_path
from eval.submissions import first_five
from eval.text import counted
from tasks._files import DataFile, Source, SplitSize
from tasks._glue import HOST, GlueFiles, glue_task, is_labelled, learned_text, readers_of
from tasks._glue_files import Columns, Row, read_columns, read_lines, read_rows
from tasks._glue_labels import BINARY, Classes
from tasks._glue_splits import HALVES_OF_DEV
from tasks._task import Prepared

__all__ = ["TASK"]

FOLDER = "glue/MRPC/"
TSV = FOLDER + "{}.tsv"
CORPUS = {
    "train": f"{FOLDER}msr_paraphrase_train.txt",
    "dev": f"{FOLDER}msr_paraphrase_train.txt",
    "test": f"{FOLDER}msr_paraphrase_test.txt",
}
DEV_IDS = f"{FOLDER}dev_ids.tsv"
CORPUS_HOST = "https://dl.fbaipublicfiles.com/senteval/senteval_data/"
SIZES = {"train": SplitSize(3_668), "dev": SplitSize(408), "test": SplitSize(1_725)}

TEXTS = ("#1 String", "#2 String")
LABELLED = Columns(texts=TEXTS, label="Quality")
LABELS = Classes(BINARY, placeholder="1", names=("not equivalent", "equivalent"))
IDS = ("#1 ID", "#2 ID")
CORPUS_COLUMNS = ("Quality", *IDS, *TEXTS)
TEST_COLUMNS = ("index", *IDS, *TEXTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _MrpcFiles(GlueFiles):
    """Files in either layout."""

    def sources(self, data_root: Path, split: str) -> list[Path]:
        official, corpus = data_root / TSV.format(split), data_root / CORPUS[split]
        if official.exists() or not corpus.exists():
            return [official]
        return [corpus, data_root / DEV_IDS] if is_labelled(split) else [corpus]

    def rows(self, data_root: Path, split: str) -> list[Row]:
        path, *dev_ids = self.sources(data_root, split)
        if path.suffix == ".tsv":
            return read_rows(path, self.labelled if is_labelled(split) else self.unlabelled)
        if not dev_ids:
            return read_rows(path, Columns(texts=TEXTS))
        lines = [line for line, _ in _corpus_rows(data_root, split)]
        position = {line: str(at) for at, line in enumerate(lines)}
        return [
            Row(position[row.line], row.texts, row.label, row.line)
            for row in read_rows(path, self.labelled)
            if row.line in position
        ]


def _corpus_rows(data_root: Path, split: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the five values of each row of a split.

    Raises:
        InputError: A file is missing or malformed.
    """
    path = data_root / CORPUS[split]
    rows = list(read_columns(path, Columns(texts=CORPUS_COLUMNS)))
    if not is_labelled(split):
        yield from rows
        return
    listed = _dev_ids(data_root / DEV_IDS)
    found = {(first, second) for _, (_, first, second, _, _) in rows}
    if missing := listed - found:
        raise FileFormatError(
            f"{data_root / DEV_IDS}: {counted(len(missing), 'pair of IDs is', 'pairs of IDs are')} "
            f"not in {path} ({first_five(sorted(map(' '.join, missing)))}); expected the official "
            "files"
        )
    for number, values in rows:
        if ((values[1], values[2]) in listed) == (split == "dev"):
            yield number, values


def _dev_ids(path: Path) -> set[tuple[str, str]]:
    """Read the pairs of IDs of dev.

    Raises:
        InputError: There is no such file.
        FileFormatError: It is malformed or empty.
    """
    expected = "the pairs of IDs of dev, separated by a tab"
    pairs = set()
    for number, line in read_lines(path, expected=expected):
        first, tab, second = line.partition("\t")
        if not (tab and first.isdecimal() and second.isdecimal()):
            raise FileFormatError(f"{path}: line {number} is {line!r:.60}; expected {expected}")
        pairs.add((first, second))
    if not pairs:
        raise FileFormatError(f"{path} is empty; expected {expected}")
    return pairs


def _prepare(data_root: Path, *, min_count: int | None, overwrite: bool) -> Iterator[Prepared]:
    """Write the files of the splits by the rule of GLUE's download script."""
    for split, published in SIZES.items():
        path = data_root / TSV.format(split)
        written = overwrite or not path.exists()
        if written:
            _write_split(data_root, split, path)
        count = len(TASK.load(data_root, split))
        is_published = "as many as" if count == published.examples else "not"
        yield Prepared(
            path,
            written,
            f"{counted(count, 'example')}; {is_published} the {published.examples:,} of GLUE",
        )


def _write_split(data_root: Path, split: str, path: Path) -> None:
    corpus = data_root / CORPUS[split]
    for source in (corpus, data_root / DEV_IDS) if is_labelled(split) else (corpus,):
        if not source.exists():
            raise InputError(
                f"no file {source}: expected the official file, to make {split}.tsv. Run "
                "`vl-lst data download --task mrpc` first."
            )
    by_line = dict(_corpus_rows(data_root, split))
    if not by_line:
        raise FileFormatError(f"{corpus} has no examples of {split}; expected the official file")
    rows = list(by_line.values())
    if is_labelled(split):
        # A file with an error would be kept when the corpus is repaired.
        for row in read_rows(corpus, LABELLED):
            if row.line in by_line:
                learned_text(LABELS, corpus, row)
        # As in the corpus, which begins with a byte-order mark.
        lines = ["\ufeff" + "\t".join(CORPUS_COLUMNS), *map("\t".join, rows)]
    else:
        lines = ["\t".join(TEST_COLUMNS)]
        lines += ["\t".join([str(at), *values[1:]]) for at, values in enumerate(rows)]
    with atomic_path(path) as temporary:
        temporary.write_bytes("".join(f"{line}\n" for line in lines).encode())


TASK = glue_task(
    name="mrpc",
    files=_MrpcFiles(
        files={
            split: DataFile(
                path=TSV.format(split),
                splits=readers_of(split, HALVES_OF_DEV),
                alternatives=(corpus,),
                derived_from=(corpus, DEV_IDS) if is_labelled(split) else (corpus,),
            )
            for split, corpus in CORPUS.items()
        },
        labelled=LABELLED,
        unlabelled=Columns(texts=TEXTS, ids="index"),
    ),
    sizes=SIZES,
    paper=HALVES_OF_DEV,
    text_format="sentence1: {} sentence2: {}",
    labels=LABELS,
    submission={"test": "MRPC"},
    other_files=(
        DataFile(
            path=CORPUS["train"],
            splits=("train", "dev", *HALVES_OF_DEV),
            source=Source(
                f"{CORPUS_HOST}msr_paraphrase_train.txt",
                "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89",
            ),
            optional="to make train.tsv and dev.tsv, or in their place",
        ),
        DataFile(
            path=CORPUS["test"],
            splits=("test",),
            source=Source(
                f"{CORPUS_HOST}msr_paraphrase_test.txt",
                "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784",
            ),
            optional="to make test.tsv, or in its place",
        ),
        DataFile(
            path=DEV_IDS,
            splits=("train", "dev", *HALVES_OF_DEV),
            source=Source(
                f"{HOST}mrpc_dev_ids.tsv",
                "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7",
            ),
            optional="to tell dev from train in msr_paraphrase_train.txt",
        ),
    ),
    prepare=_prepare,
)
