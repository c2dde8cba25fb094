"""Karpathy's splits of COCO, and the splits of VQA v2 that VL-T5 derives from them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from eval.errors import InputError
from eval.outputs import write_json
from eval.text import counted
from tasks._files import Source, SplitSize
from tasks._records import read_records
from tasks._task import Prepared

__all__ = ["FILE", "MARKS", "SOURCE", "prepare_splits"]

FILE = "coco/dataset_coco.json"
SOURCE = Source("https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip")
# Split -> values of the field "split" of its images in the file.
MARKS = {
    "karpathy_train": ("train", "restval"),
    "karpathy_val": ("val",),
    "karpathy_test": ("test",),
}
SPLIT_OF_MARK = {mark: split for split, marks in MARKS.items() for mark in marks}


def prepare_splits(
    data_root: Path,
    read_questions: Callable[[], Iterable[Mapping[str, Any]]],
    sizes: Mapping[str, SplitSize],
    *,
    overwrite: bool,
) -> Iterator[Prepared]:
    """Split the questions of VQA v2 by Karpathy's splits of their images, as VL-T5 does.

    Args:
        data_root: Folder with `coco/dataset_coco.json`; the splits are written to `vqa/`.
        read_questions: Returns all questions with answers, in VL-T5's format. Called only if the
            splits are written.
        sizes: Published size of each split.
        overwrite: Whether to replace existing files.

    Raises:
        InputError: `dataset_coco.json` is missing, or lists no image of any question.
        FileFormatError: A file has another format.
    """
    paths = {name: data_root / "vqa" / f"{name}.json" for name in MARKS}
    if not overwrite and all(path.exists() for path in paths.values()):
        for name, path in paths.items():
            count = len(read_records(path, expected="questions"))
            yield Prepared(path, False, _note(count, sizes[name]))
        return
    split_of_image = _read_splits(data_root / FILE)
    questions: dict[str, list[Mapping[str, Any]]] = {name: [] for name in paths}
    num_unlisted = 0
    for question in read_questions():
        split = split_of_image.get(question["img_id"])
        if split is None:
            num_unlisted += 1
        else:
            questions[split].append(question)
    if not any(questions.values()):
        raise InputError(
            f"none of the images of {counted(num_unlisted, 'VQA question')} is listed in "
            f"dataset_coco.json; get the official file from {SOURCE.url}"
        )
    for name, path in paths.items():
        write_json(path, questions[name], indent=None)
        yield Prepared(path, True, _note(len(questions[name]), sizes[name], num_unlisted))


def _read_splits(path: Path) -> dict[str, str]:
    if not path.exists():
        raise InputError(
            f"no file {path}: Karpathy's splits of VQA are derived from his splits of COCO. Run "
            f"`vl-lst data download --task vqa`, or get the file from {SOURCE.url}."
        )
    records = read_records(path, expected="Karpathy's splits of COCO", key="images")
    split_of_image: dict[str, str] = {}
    for position in range(len(records)):
        mark = records.field(position, "split", str)
        if mark not in SPLIT_OF_MARK:
            raise records.problem(
                position, f"has split {mark!r:.40}; expected one of {', '.join(SPLIT_OF_MARK)}"
            )
        image = PurePosixPath(records.field(position, "filename", str)).stem
        split_of_image[image] = SPLIT_OF_MARK[mark]
    return split_of_image


def _note(count: int, published: SplitSize, num_unlisted: int = 0) -> str:
    note = counted(count, "question")
    if count != published.examples:
        note += f"; published: {published.examples:,}"
    if num_unlisted:
        note += f"; {num_unlisted:,} left out because dataset_coco.json does not list their images"
    return note
