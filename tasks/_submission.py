"""Submission files for public test servers: written from predictions, and checked."""

import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from eval.archives import extract_members, file_names, write_zip
from eval.errors import FileFormatError, InputError
from eval.files import has_byte_order_mark
from eval.regular_files import require_regular
from eval.submissions import require_same_ids
from eval.text import counted
from tasks._records import begins_as_list
from tasks._task import Submission, Task

__all__ = [
    "SubmissionCheck",
    "WrittenSubmission",
    "check_part",
    "check_submission",
    "expected_ids",
    "split_of_submission",
    "submission_of",
    "write_submission",
]

FORBIDDEN_IN_NAMES = re.compile(r"[^A-Za-z0-9-]+")


@dataclass(frozen=True, slots=True)
class SubmissionCheck:
    """The result of checking a valid submission.

    Args:
        answers: Number of answers for each split.
        server: Name and address of the server.
        notes: Remarks that are not errors.
    """

    answers: Mapping[str, int]
    server: str
    notes: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class WrittenSubmission:
    """A written submission.

    Args:
        path: The file to submit, or the part for one split while other splits are missing.
        missing: Splits that must be predicted before the submission is complete.
        check: The result of checking the file.
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
    """Write a submission in the format of the task's server, and check it.

    If the server takes several splits in one archive, the part for this split is written, and the
    archive as soon as the folder contains all parts. For an archive of several tasks, see
    `tasks._suite_submission`.

    Args:
        task: The task.
        predictions: {example ID: answer} for the whole split.
        data_root: Folder with the annotations.
        split: Name of the predicted split.
        folder: Output folder.
        name: Name of the method. Characters other than letters, digits and hyphens become hyphens.

    Raises:
        InputError: The task has no server.
        PredictionError: Predictions are missing or extra.
        OutputError: A file cannot be written.
    """
    submission = submission_of(task)
    method = FORBIDDEN_IN_NAMES.sub("-", name).strip("-") or "results"
    part = folder / submission.file_of(split, method)
    changes: Sequence[str] = ()
    if submission.form is None:
        task.write_predictions(predictions, part)
    else:
        require_same_ids(task.load(data_root, split).ids(), predictions)
        changes = submission.form.write(predictions, part)
    check = check_submission(task, part, data_root, split)
    check = replace(check, notes=(*changes, *check.notes))
    if submission.archive_name is None or split not in submission.splits:
        return WrittenSubmission(part, (), check)
    names = {each: submission.file_of(each, method) for each in submission.splits}
    if missing := [each for each, file in names.items() if not (folder / file).exists()]:
        return WrittenSubmission(part, missing, check)
    archive = folder / submission.archive_name.format(name=method)
    write_zip(archive, {file: folder / file for file in names.values()})
    return WrittenSubmission(archive, (), check_submission(task, archive, data_root, split))


def check_submission(task: Task, path: Path, data_root: Path | None, split: str) -> SubmissionCheck:
    """Check the format of a submission, its IDs and the number of its answers.

    Args:
        task: The task.
        path: A file for one split, or the archive with the files of all splits.
        data_root: Folder with the annotations. `None` if there are none: then the number of answers
            is compared with the published one, for tasks whose IDs are the numbers from 0.
        split: The split of the file, or one of the splits of the archive.

    Raises:
        InputError: The task has no server, or there is no such file.
        FileFormatError: The file does not have the format of the server.
        PredictionError: Answers are missing, extra or repeated.
    """
    submission = submission_of(task)
    expected = f"a submission of {task.name} {split}"
    if path.is_dir():
        raise InputError(f"{path} is a folder: expected {expected}")
    require_regular(path, expected=expected)
    # An unknown split or a missing annotation file is reported first.
    expected_ids(task, data_root, split)
    if zipfile.is_zipfile(path) or path.suffix.lower() == ".zip":
        return _check_archive(task, submission, path, data_root, split)
    answers, notes = check_part(task, path, data_root, split)
    # Some of VQA's official files begin with the version of the data set.
    if not _name_pattern(submission, split).fullmatch(path.name.removeprefix("v2_")):
        official = submission.file_of(split, "<name>")
        notes.append(f"the official file name is {official}, not {path.name}")
    if split not in submission.splits:
        notes.append(f"the server accepts {' and '.join(submission.splits)}, not {split}")
    elif submission.archive_name is not None:
        notes.append(
            f"the server accepts one archive of {' and '.join(submission.splits)}; this is a part"
        )
    elif submission.suite is not None:
        notes.append(
            f"the server accepts one archive of all tasks of {submission.suite}; this is a part"
        )
    return SubmissionCheck({split: answers}, submission.server, notes)


def split_of_submission(task: Task, path: Path) -> str:
    """Return the split that the name of a submission stands for, or the only one of the server.

    Raises:
        InputError: The task has no server, or the name may stand for several splits.
    """
    submission = submission_of(task)
    found = [
        split
        for split in submission.splits
        if _name_pattern(submission, split).fullmatch(path.name)
    ]
    if len(found or submission.splits) != 1:
        raise InputError(
            f"{path.name} does not tell the split it answers: give one of "
            f"{', '.join(submission.splits)} with --split"
        )
    return (found or submission.splits)[0]


def submission_of(task: Task) -> Submission:
    """Return the submission format of a task.

    Raises:
        InputError: The task has no server.
    """
    if task.submission is None:
        raise InputError(f"no public test server of {task.name} is known")
    return task.submission


def _check_archive(
    task: Task, submission: Submission, path: Path, data_root: Path | None, split: str
) -> SubmissionCheck:
    names = file_names(path)
    if submission.suite is not None:
        raise FileFormatError(
            f"{path} is a zip archive; expected {submission.file_of(split, '<name>')}, the file of "
            f"{task.name} {split}. Check an archive of all tasks with --task {submission.suite}."
        )
    if submission.archive_name is None:
        raise FileFormatError(
            f"{path} is a zip archive; the server of {task.name} accepts only the file itself, "
            f"{submission.file_of(split, '<name>')}. Unpack it."
        )
    if split not in submission.splits:
        raise InputError(
            f"an archive for the server of {task.name} contains "
            f"{' and '.join(submission.splits)}, not {split}"
        )
    chosen = {
        each: [name for name in names if _name_pattern(submission, each).fullmatch(name)]
        for each in submission.splits
    }
    wanted = [submission.file_of(each, "<name>") for each in chosen]
    if len(names) != len(wanted) or any(len(found) != 1 for found in chosen.values()):
        raise FileFormatError(
            f"{path} contains {', '.join(names[:10]) or 'nothing'}; expected exactly "
            f"{' and '.join(wanted)}, without folders"
        )
    methods = {
        match["name"]
        for each, (name,) in chosen.items()
        if (match := _name_pattern(submission, each).fullmatch(name))
    }
    if len(methods) > 1:
        raise FileFormatError(
            f"{path}: the files name different methods, {' and '.join(sorted(methods))}; expected "
            "the same name in all files"
        )
    answers, notes = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for each, (name,) in chosen.items():
            part = Path(folder) / name
            extract_members(path, {name: part})
            answers[each], more = check_part(task, part, data_root, each)
            notes += more
    return SubmissionCheck(answers, submission.server, notes)


def check_part(task: Task, path: Path, data_root: Path | None, split: str) -> tuple[int, list[str]]:
    """Check the file of one split.

    Args:
        task: The task.
        path: The file.
        data_root: See `check_submission`.
        split: The split.

    Returns:
        The number of answers, and remarks that are not errors.

    Raises:
        InputError: See `check_submission`.
        FileFormatError: See `check_submission`.
        PredictionError: See `check_submission`.
    """
    expected = expected_ids(task, data_root, split)
    _require_official_form(task, path)
    form = submission_of(task).form
    answers = task.read_predictions(path) if form is None else form.read(path)
    require_same_ids(expected, answers)
    notes = []
    published = task.sizes.get(split)
    if published is not None and published.examples != len(expected):
        notes.append(
            f"{split} has {counted(len(expected), 'example')} in {data_root}, but "
            f"{published.examples:,} officially: the server requires all of them"
        )
    if empty := sum(not answer for answer in answers.values()):
        notes.append(counted(empty, f"answer of {split} is empty", f"answers of {split} are empty"))
    return len(answers), notes


def expected_ids(task: Task, data_root: Path | None, split: str) -> list[str]:
    """Return the IDs that a submission must contain.

    Args:
        task: The task.
        data_root: See `check_submission`.
        split: The split.

    Raises:
        InputError: There is no such split, a file is missing or malformed, or a data root is
            required and not given.
    """
    if data_root is not None:
        return task.load(data_root, split).ids()
    if split not in task.splits:
        raise task.unknown_split(split)
    published = task.sizes.get(split)
    if submission_of(task).form is None or published is None:
        raise InputError(
            f"the IDs of {task.name} {split} are in its official files: give their folder with "
            "--data-root"
        )
    return [str(index) for index in range(published.examples)]


def _require_official_form(task: Task, path: Path) -> None:
    """Refuse formats that `read_predictions` accepts but test servers do not."""
    if has_byte_order_mark(path, expected="a submission"):
        raise FileFormatError(
            f"{path} begins with a byte-order mark, which servers do not accept; expected plain "
            "UTF-8. Save the file without the mark."
        )
    is_json = submission_of(task).form is None and task.predictions_suffix == ".json"
    if is_json and not begins_as_list(path, expected="a submission"):
        raise FileFormatError(
            f"{path} is not a JSON list; expected one list of all answers. The server does not "
            "accept JSON Lines."
        )


def _name_pattern(submission: Submission, split: str) -> re.Pattern[str]:
    # A placeholder that survives escaping and occurs in no file name.
    escaped = re.escape(submission.file_of(split, "\x02"))
    return re.compile(escaped.replace(re.escape("\x02"), r"(?P<name>[^/]+)"))
