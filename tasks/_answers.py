"""The answer list of a classification head: read from a file, or counted from the examples."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from eval.errors import FileFormatError, InputError
from eval.files import read_json
from eval.outputs import write_json
from eval.text import counted
from tasks._examples import Example
from tasks._task import Prepared, Task

__all__ = [
    "MIN_ANSWER_COUNT",
    "answer_coverage",
    "build_answer_list",
    "format_coverage",
    "load_answer_list",
    "prepare_answer_list",
]

# The minimum count behind LXMERT's list of 3,129 VQA answers.
MIN_ANSWER_COUNT = 9


def build_answer_list(examples: Iterable[Example], min_count: int = MIN_ANSWER_COUNT) -> list[str]:
    """Return the frequent answers, ordered by descending count, then alphabetically.

    An example counts towards the first of its targets with the highest weight, as LXMERT's VQA
    list counts the most common human answer.

    Args:
        examples: Training examples.
        min_count: Minimum number of examples with the answer. Default: that of LXMERT's VQA list;
            `Task.min_answer_count` holds the default of each task.

    Raises:
        InputError: No answer is that frequent.
    """
    counts = Counter(
        max(example.targets, key=lambda target: target[1])[0]
        for example in examples
        if example.targets
    )
    frequent = [answer for answer, count in counts.items() if count >= min_count]
    if not frequent:
        raise InputError(
            f"no answer occurs at least {counted(min_count, 'time')} among "
            f"{counted(counts.total(), 'answered example')}, so there is no answer list; lower the "
            "minimum count (data.min_answer_count of a recipe, --min-count of `vl-lst data "
            "prepare`), or generate answers (--head generate)"
        )
    return sorted(frequent, key=lambda answer: (-counts[answer], answer))


def answer_coverage(examples: Iterable[Example], answers: Iterable[str]) -> float | None:
    """Return the percentage of answered examples with a highest-weight target on a list.

    Returns:
        The percentage; `None` if no example has an answer.
    """
    listed = set(answers)
    answered = covered = 0
    for example in examples:
        if not example.targets:
            continue
        highest = max(weight for _, weight in example.targets)
        answered += 1
        covered += any(answer in listed for answer, weight in example.targets if weight == highest)
    return 100 * covered / answered if answered else None


def format_coverage(percent: float) -> str:
    """Format a percentage, rounded down so that 100.0 means all."""
    return f"{math.floor(10 * percent) / 10:.1f} %"


def load_answer_list(path: str | Path) -> list[str]:
    """Read a `label2ans` file: a JSON list of distinct strings, one of which may be empty.

    Raises:
        InputError: There is no such file.
        FileFormatError: The file contains something else.
    """
    expected = "the list of answers (label2ans)"
    answers = read_json(Path(path), expected=expected)
    if (
        not isinstance(answers, list)
        or not answers
        or not all(isinstance(answer, str) for answer in answers)
    ):
        raise FileFormatError(f"{path}: not a list of strings; expected {expected}")
    repeated = [answer for answer, count in Counter(answers).items() if count > 1]
    if repeated:
        raise FileFormatError(
            f"{path}: {counted(len(repeated), 'answer occurs', 'answers occur')} more than once, "
            f"such as {repeated[0]!r}; expected a different answer for each label"
        )
    return answers


def prepare_answer_list(
    task: Task,
    data_root: Path,
    *,
    splits: Sequence[str],
    min_count: int | None,
    standard_size: int,
    overwrite: bool,
) -> Prepared:
    """Write the answer list (`label2ans`) and its inverse (`ans2label`), or check existing ones.

    Args:
        task: A task with an `answer_list`.
        data_root: Folder with the annotations.
        splits: Splits whose answers are counted.
        min_count: Minimum number of examples with an answer; `None` for the task's default.
        standard_size: Number of answers on the list that most programs use.
        overwrite: Whether to replace existing files.

    Raises:
        InputError: Annotations are missing, or no answer is frequent enough.
        FileFormatError: An existing list has another format, or its inverse does not match it.
    """
    path = data_root / str(task.answer_list)
    inverse = path.with_name(path.name.replace("label2ans", "ans2label"))
    min_count = task.min_answer_count if min_count is None else min_count
    written = overwrite or not path.exists()
    if written:
        tables = [task.load(data_root, split) for split in splits]
        answers = build_answer_list(chain.from_iterable(tables), min_count)
        coverage = answer_coverage(chain.from_iterable(tables), answers)
        assert coverage is not None, "there are answers on the list"
        details = (
            f", each of at least {counted(min_count, 'example')} of {' and '.join(splits)}, "
            f"covering {format_coverage(coverage)} of their answers"
        )
        write_json(inverse, {answer: label for label, answer in enumerate(answers)}, indent=None)
        write_json(path, answers, indent=None)
    else:
        details = ""
        answers = load_answer_list(path)
        _require_inverse(inverse, path, answers)
    is_standard = "as many as" if len(answers) == standard_size else f"not the {standard_size:,} of"
    note = f"{counted(len(answers), 'answer')}{details}; {is_standard} the standard list"
    return Prepared(path, written, note)


def _require_inverse(inverse: Path, path: Path, answers: Sequence[str]) -> None:
    if not inverse.exists():
        return
    labels = read_json(inverse, expected="the labels of answers (ans2label)")
    if labels != {answer: label for label, answer in enumerate(answers)}:
        raise FileFormatError(
            f"{inverse} is not the inverse of {path}: expected the same label for each answer. "
            "Get both files from one source, or delete both and run the command again."
        )
