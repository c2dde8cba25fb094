"""Submissions of several tasks in one archive, as gluebenchmark.com takes them.

The archive holds one file for each test split of each task of the suite, without folders. The
server refuses it if a file is missing, so that of a task without predictions is filled with a
placeholder, the same answer to every example.
"""

import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval.archives import extract_members, file_names, write_zip
from eval.errors import FileFormatError, InputError
from eval.regular_files import require_regular
from eval.submissions import require_same_ids
from tasks import SUITES, get_task, task_names
from tasks._submission import (
    SubmissionCheck,
    check_part,
    expected_ids,
    submission_of,
)
from tasks._suites import splits_of
from tasks._task import SubmissionForm, Task

__all__ = [
    "SuitePart",
    "WrittenSuite",
    "check_suite_submission",
    "splits_to_submit",
    "suite_parts",
    "write_suite_submission",
]


@dataclass(frozen=True, slots=True)
class SuitePart:
    """One file of an archive.

    Args:
        task: The task.
        split: The split that the file answers.
        file: Name of the file.
        form: Format of the file.
    """

    task: Task
    split: str
    file: str
    form: SubmissionForm


@dataclass(frozen=True, slots=True)
class WrittenSuite:
    """A written archive.

    Args:
        path: The archive.
        placeholders: Names of files without predictions.
        check: The result of checking the archive, with remarks about changed answers.
    """

    path: Path
    placeholders: Sequence[str]
    check: SubmissionCheck


def suite_parts(suite: str) -> list[SuitePart]:
    """Return the files of a suite's archive.

    Raises:
        InputError: No server takes an archive of this suite.
    """
    parts = []
    for task in map(get_task, task_names()):
        submission = task.submission
        if submission is None or submission.suite != suite or submission.form is None:
            continue
        parts += [
            SuitePart(task, split, submission.file_of(split, suite), submission.form)
            for split in submission.splits
        ]
    if not parts:
        raise InputError(f"no public test server takes an archive of the suite {suite!r:.60}")
    return parts


def splits_to_submit(suite: str, split: str) -> dict[str, list[str]]:
    """Return the splits that an archive answers, by task: first the tasks of the suite.

    Args:
        suite: Name of the suite ("glue").
        split: Split of the suite, such as `test`; see `tasks._suites.splits_of`.

    Raises:
        InputError: The server does not accept this split of a task.
    """
    accepted: dict[str, list[str]] = {}
    for part in suite_parts(suite):
        accepted.setdefault(part.task.name, []).append(part.split)
    for name in SUITES[suite]:
        chosen = splits_of(get_task(name), split)
        if unknown := [each for each in chosen if each not in accepted[name]]:
            raise InputError(
                f"the server of {suite} does not accept {name} {', '.join(unknown)}: expected "
                f"{', '.join(accepted[name])} (--split test)"
            )
    return {name: accepted[name] for name in (*SUITES[suite], *accepted)}


def write_suite_submission(
    suite: str,
    predictions: Mapping[str, Mapping[str, Mapping[str, str]]],
    data_root: Path | None,
    folder: Path,
) -> WrittenSuite:
    """Write the archive of a suite, and check it.

    Args:
        suite: Name of the suite ("glue").
        predictions: {task: {split: {example ID: answer}}}. Tasks and splits may be missing.
        data_root: Folder with the annotations. The published number of answers is expected for test
            files that it lacks.
        folder: Output folder; the archive is named after the suite.

    Raises:
        InputError: There is no such suite, or it has no such task or split.
        PredictionError: Predictions are missing or extra.
        OutputError: A file cannot be written.
    """
    parts = suite_parts(suite)
    _require_parts(suite, parts, predictions)
    archive = folder / f"{suite}.zip"
    placeholders, notes = [], []
    with tempfile.TemporaryDirectory() as temporary:
        files = {part.file: Path(temporary) / part.file for part in parts}
        for part in parts:
            ids = _expected_ids(part, data_root)
            given = predictions.get(part.task.name, {}).get(part.split)
            if given is None:
                placeholders.append(part.file)
                given = dict.fromkeys(ids, part.form.placeholder)
            require_same_ids(ids, given)
            changes = part.form.write(given, files[part.file])
            notes += [f"{part.file}: {change}" for change in changes]
        write_zip(archive, files)
    check = check_suite_submission(suite, archive, data_root)
    return WrittenSuite(archive, placeholders, replace(check, notes=(*notes, *check.notes)))


def check_suite_submission(suite: str, path: Path, data_root: Path | None) -> SubmissionCheck:
    """Check an archive: the names of its files, and the format and number of answers of each.

    Args:
        suite: Name of the suite ("glue").
        path: The archive.
        data_root: See `write_suite_submission`.

    Returns:
        The result, with the number of answers of each file.

    Raises:
        InputError: There is no such suite or file.
        FileFormatError: The server would not accept the archive.
        PredictionError: Answers are missing, extra or repeated.
    """
    parts = suite_parts(suite)
    require_regular(path, expected=f"a submission of {suite}, a zip archive")
    wanted = [part.file for part in parts]
    if not zipfile.is_zipfile(path):
        raise FileFormatError(
            f"{path} is not a complete zip archive; expected {suite}.zip with {', '.join(wanted)}. "
            "Check a single file with its own --task."
        )
    names = file_names(path)
    missing = [name for name in wanted if name not in names]
    unknown = [name for name in names if name not in wanted]
    if missing or unknown:
        found = [
            *([f"lacks {', '.join(missing)}"] if missing else []),
            *([f"has {', '.join(unknown[:10])}"] if unknown else []),
        ]
        raise FileFormatError(
            f"{path} {' and '.join(found)}; expected exactly {', '.join(wanted)}, without folders"
        )
    answers, notes = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            file = Path(folder) / part.file
            extract_members(path, {part.file: file})
            try:
                answers[part.file], more = check_part(
                    part.task, file, _root_of(part, data_root), part.split
                )
            except InputError as error:
                # The file is in the archive, and not in the folder it was unpacked to.
                name = f"{path}: {part.file}"
                message = str(error).replace(str(file), name)
                message = message if name in message else f"{name}: {message}"
                raise type(error)(message) from None
            notes += [f"{part.file}: {note}" for note in more]
            if data_root is not None and _root_of(part, data_root) is None:
                notes.append(
                    f"{part.file}: the test file is not in {data_root}, so the published number of "
                    "examples was expected"
                )
            file.unlink()
    return SubmissionCheck(answers, submission_of(parts[0].task).server, notes)


def _require_parts(
    suite: str,
    parts: Sequence[SuitePart],
    predictions: Mapping[str, Mapping[str, Mapping[str, str]]],
) -> None:
    known = {(part.task.name, part.split) for part in parts}
    for task, by_split in predictions.items():
        for split in by_split:
            if (task, split) not in known:
                expected = ", ".join(f"{part.task.name} {part.split}" for part in parts)
                raise InputError(
                    f"a submission of {suite} has no file for {task} {split}: expected "
                    f"predictions of {expected}"
                )


def _expected_ids(part: SuitePart, data_root: Path | None) -> list[str]:
    return expected_ids(part.task, _root_of(part, data_root), part.split)


def _root_of(part: SuitePart, data_root: Path | None) -> Path | None:
    """Return the data root; `None` if it lacks the test file."""
    if data_root is None:
        return None
    files = [file for file in part.task.files if part.split in file.splits and not file.optional]
    return data_root if all(file.find(data_root) for file in files) else None
