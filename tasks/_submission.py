"""Files for public test servers: written from predictions, and checked wherever they were made."""

import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eval.archives import extract_members, file_names, write_zip
from eval.errors import FileFormatError, InputError
from eval.files import has_byte_order_mark, open_text
from eval.regular_files import require_regular
from eval.submissions import require_same_ids
from tasks._task import Submission, Task

__all__ = [
    "SubmissionCheck",
    "WrittenSubmission",
    "check_submission",
    "submission_of",
    "write_submission",
]

NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9-]+")


@dataclass(frozen=True, slots=True)
class SubmissionCheck:
    """What was found in a submission that is in order.

    Args:
        answers: How many answers each split in it has.
        server: Who takes it.
        notes: What is no mistake but worth knowing.
    """

    answers: Mapping[str, int]
    server: str
    notes: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class WrittenSubmission:
    """What was written.

    Args:
        path: The file to hand in, or, while other splits are missing, the part for this one.
        missing: Splits that must be predicted too before there is something to hand in.
        check: What it holds.
    """

    path: Path
    missing: Sequence[str]
    check: SubmissionCheck


def write_submission(
    task: Task,
    predictions: Mapping[str, str],
    data_root: Path,
    split: str,
    folder: Path,
    *,
    name: str,
) -> WrittenSubmission:
    """Write what the task's server takes, and check it.

    Where the server wants several splits in one archive, the part for this one is written, and the
    archive as soon as the parts for all are in the folder.

    Args:
        task: The task.
        predictions: {example id: answer}, of the whole split.
        data_root: Folder with the annotations.
        split: The split that was predicted.
        folder: Where the files go.
        name: What the method is called; other characters than letters, digits and hyphens become
            hyphens.

    Raises:
        InputError: The task has no server.
        PredictionError: Predictions are missing or extra.
    """
    submission = submission_of(task)
    called = NOT_IN_NAMES.sub("-", name).strip("-") or "results"
    part = folder / submission.file_name.format(split=split, name=called)
    task.write_predictions(predictions, part)
    check = check_submission(task, part, data_root, split)
    if submission.archive_name is None or split not in submission.splits:
        return WrittenSubmission(part, (), check)
    names = {
        each: submission.file_name.format(split=each, name=called) for each in submission.splits
    }
    if missing := [each for each, file in names.items() if not (folder / file).exists()]:
        return WrittenSubmission(part, missing, check)
    archive = folder / submission.archive_name.format(name=called)
    write_zip(archive, {file: folder / file for file in names.values()})
    return WrittenSubmission(archive, (), check_submission(task, archive, data_root, split))


def check_submission(task: Task, path: Path, data_root: Path, split: str) -> SubmissionCheck:
    """Check the form of a submission, its ids and the number of its answers.

    Args:
        task: The task it is for.
        path: A file of one split, or the archive with all the server takes.
        data_root: Folder with the annotations.
        split: The split it is for; of an archive, one of them.

    Raises:
        InputError: The task has no server, or there is no such file.
        FileFormatError: It is not what the server takes.
        PredictionError: Answers are missing, extra or repeated.
    """
    submission = submission_of(task)
    expected = f"a submission of {task.name} {split}"
    if path.is_dir():
        raise InputError(f"{path} is a folder: expected {expected}")
    require_regular(path, expected=expected)
    # The expected ids first: an unknown split, or one without its file, is the simplest mistake.
    task.load(data_root, split)
    if zipfile.is_zipfile(path) or path.suffix.lower() == ".zip":
        return _check_archive(task, submission, path, data_root, split)
    answers, notes = _check_part(task, path, data_root, split)
    # The organisers' own files of VQA carry a version in front now and then.
    if not _name_pattern(submission, split).fullmatch(path.name.removeprefix("v2_")):
        official = submission.file_name.format(split=split, name="<name>")
        notes.append(f"the organisers call such a file {official}, not {path.name}")
    if split not in submission.splits:
        notes.append(f"the server takes {' and '.join(submission.splits)}, not {split}")
    elif submission.archive_name is not None:
        notes.append(
            f"the server takes one archive of {' and '.join(submission.splits)}; this is a part"
        )
    return SubmissionCheck({split: answers}, submission.server, notes)


def submission_of(task: Task) -> Submission:
    """Return what the task's server takes.

    Raises:
        InputError: The task has none.
    """
    if task.submission is None:
        raise InputError(f"{task.name} has no public test server known here")
    return task.submission


def _check_archive(
    task: Task, submission: Submission, path: Path, data_root: Path, split: str
) -> SubmissionCheck:
    names = file_names(path)
    if submission.archive_name is None:
        raise FileFormatError(
            f"{path} is a zip archive; the server of {task.name} takes the file itself, "
            f"{submission.file_name.format(split=split, name='<name>')}. Unpack it."
        )
    if split not in submission.splits:
        raise InputError(
            f"an archive for the server of {task.name} is about {' and '.join(submission.splits)}, "
            f"not {split}"
        )
    chosen = {
        each: [name for name in names if _name_pattern(submission, each).fullmatch(name)]
        for each in submission.splits
    }
    wanted = [submission.file_name.format(split=each, name="<name>") for each in chosen]
    if len(names) != len(wanted) or any(len(found) != 1 for found in chosen.values()):
        raise FileFormatError(
            f"{path} holds {', '.join(names[:10]) or 'nothing'}; expected exactly "
            f"{' and '.join(wanted)}, in no folder"
        )
    called = {
        match["name"]
        for each, (name,) in chosen.items()
        if (match := _name_pattern(submission, each).fullmatch(name))
    }
    if len(called) > 1:
        raise FileFormatError(
            f"{path}: its files are of methods with different names, {' and '.join(sorted(called))}"
            "; expected the same in both"
        )
    answers, notes = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for each, (name,) in chosen.items():
            part = Path(folder) / name
            extract_members(path, {name: part})
            answers[each], more = _check_part(task, part, data_root, each)
            notes += more
    return SubmissionCheck(answers, submission.server, notes)


def _check_part(task: Task, path: Path, data_root: Path, split: str) -> tuple[int, list[str]]:
    expected = task.load(data_root, split).ids()
    _require_official_form(task, path)
    answers = task.read_predictions(path)
    require_same_ids(expected, answers)
    notes = []
    published = task.sizes.get(split)
    if published is not None and published.examples != len(expected):
        notes.append(
            f"{split} has {len(expected):,} examples in {data_root} and {published.examples:,} "
            "officially: a server wants them all"
        )
    if empty := sum(not answer for answer in answers.values()):
        notes.append(f"{empty:,} answers of {split} are empty")
    return len(answers), notes


def _require_official_form(task: Task, path: Path) -> None:
    """Refuse forms that are read here but not by test servers."""
    if has_byte_order_mark(path, expected="a submission"):
        raise FileFormatError(
            f"{path} begins with a byte-order mark, which servers do not read; expected plain "
            "UTF-8. Save the file without the mark."
        )
    with open_text(path, expected="a submission") as file:
        is_list = file.read(64).lstrip().startswith("[")
    if task.predictions_suffix == ".json" and not is_list:
        raise FileFormatError(
            f"{path} is not a list; expected one list of all answers, as the server takes it, not "
            "an object on each line"
        )


def _name_pattern(submission: Submission, split: str) -> re.Pattern[str]:
    # Two marks no file name of ours holds, so that the rest can be escaped.
    escaped = re.escape(submission.file_name.format(split="\x01", name="\x02"))
    pattern = escaped.replace(re.escape("\x01"), re.escape(split))
    return re.compile(pattern.replace(re.escape("\x02"), r"(?P<name>[^/]+)"))
