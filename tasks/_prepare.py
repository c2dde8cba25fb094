"""Files made of the official ones: Karpathy's splits of VQA, and lists of answers."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from eval.errors import FileFormatError, InputError
from eval.files import read_json
from eval.outputs import write_json
from tasks._answers import (
    answer_coverage,
    build_answer_list,
    coverage_text,
    load_answer_list,
)
from tasks._files import KARPATHY, VQA_SIZES
from tasks._records import read_records
from tasks._task import Prepared, Task

__all__ = ["answer_list", "karpathy_splits"]

# How Karpathy marks images -> the split that VL-T5 made of their questions.
SPLIT_OF_MARK = {
    "train": "karpathy_train",
    "restval": "karpathy_train",
    "val": "karpathy_val",
    "test": "karpathy_test",
}


def answer_list(
    task: Task,
    data_root: Path,
    *,
    splits: Sequence[str],
    min_count: int,
    standard_size: int,
    overwrite: bool,
) -> Prepared:
    """Make the answers to choose from (`label2ans`) and its inverse (`ans2label`), or check them.

    Args:
        task: A task with an `answer_list`.
        data_root: Folder with the annotations.
        splits: Whose answers are counted.
        min_count: How many examples must have an answer.
        standard_size: How many answers the list most people use has.
        overwrite: Replace what is there.

    Raises:
        InputError: Annotations are missing, or no answer is frequent enough.
        FileFormatError: The list that is there is none, or its inverse is another's.
    """
    path = data_root / str(task.answer_list)
    inverse = path.with_name(path.name.replace("label2ans", "ans2label"))
    written = overwrite or not path.exists()
    if written:
        tables = [task.load(data_root, split) for split in splits]
        answers = build_answer_list(chain.from_iterable(tables), min_count)
        coverage = answer_coverage(chain.from_iterable(tables), answers)
        assert coverage is not None, "there are answers on the list"
        counted = (
            f", each of at least {min_count} examples of {' and '.join(splits)}, "
            f"{coverage_text(coverage)} of whose answers are on the list"
        )
        write_json(inverse, {answer: label for label, answer in enumerate(answers)}, indent=None)
        write_json(path, answers, indent=None)
    else:
        counted = ""
        answers = load_answer_list(path)
        _require_inverse(inverse, path, answers)
    is_standard = "as many as" if len(answers) == standard_size else f"not the {standard_size:,} of"
    note = f"{len(answers):,} answers{counted}; {is_standard} the usual list"
    return Prepared(path, written, note)


def _require_inverse(inverse: Path, path: Path, answers: Sequence[str]) -> None:
    if not inverse.exists():
        return
    labels = read_json(inverse, expected="the labels of answers (ans2label)")
    if labels != {answer: label for label, answer in enumerate(answers)}:
        raise FileFormatError(
            f"{inverse} is not the inverse of {path}: labels would stand for other answers. Get "
            "both from one source, or delete both and make them anew."
        )


def karpathy_splits(
    data_root: Path, asked: Callable[[], Iterable[Mapping[str, Any]]], *, overwrite: bool
) -> Iterator[Prepared]:
    """Divide the questions of VQA as Karpathy divided the images of COCO, as VL-T5 does.

    Args:
        data_root: Folder with `coco/dataset_coco.json`; the splits go into `vqa/`.
        asked: Gives all questions with answers, in VL-T5's format. Called only where needed.
        overwrite: Replace what is there.

    Raises:
        InputError: `dataset_coco.json` is missing, or lists no image of any question.
        FileFormatError: It is something else.
    """
    paths = {name: data_root / "vqa" / f"{name}.json" for name in SPLIT_OF_MARK.values()}
    if not overwrite and all(path.exists() for path in paths.values()):
        for name, path in paths.items():
            yield _prepared(name, path, len(read_records(path, expected="questions")), False)
        return
    split_of = _splits_of_images(data_root / "coco" / "dataset_coco.json")
    questions: dict[str, list[Mapping[str, Any]]] = {name: [] for name in paths}
    strays = 0
    for question in asked():
        split = split_of.get(question["img_id"])
        strays += split is None
        if split is not None:
            questions[split].append(question)
    if not any(questions.values()):
        raise InputError(
            f"none of the {strays:,} VQA questions is about an image that dataset_coco.json lists; "
            f"get the official file from {KARPATHY.url}"
        )
    for name, path in paths.items():
        write_json(path, questions[name], indent=None)
        yield _prepared(name, path, len(questions[name]), True, strays)


def _splits_of_images(path: Path) -> dict[str, str]:
    if not path.exists():
        raise InputError(
            f"no file {path}: Karpathy's splits of COCO are needed for those of VQA. It is in "
            f"{KARPATHY.url}; `vl-lst data download --task vqa` fetches it."
        )
    records = read_records(path, expected="Karpathy's splits of COCO", key="images")
    split_of: dict[str, str] = {}
    for position in range(len(records)):
        mark = records.field(position, "split", str)
        if mark not in SPLIT_OF_MARK:
            raise records.problem(
                position, f"has split {mark!r:.40}; expected one of {', '.join(SPLIT_OF_MARK)}"
            )
        image = PurePosixPath(records.field(position, "filename", str)).stem
        split_of[image] = SPLIT_OF_MARK[mark]
    return split_of


def _prepared(name: str, path: Path, count: int, written: bool, strays: int = 0) -> Prepared:
    published = VQA_SIZES[name].examples
    note = f"{count:,} questions" + ("" if count == published else f"; published: {published:,}")
    if strays:
        note += f"; {strays:,} left out, whose images dataset_coco.json does not list"
    return Prepared(path, written, note)
