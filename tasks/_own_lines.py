"""The lines of a user's own file of examples, each field checked."""

import re
from pathlib import Path, PurePosixPath

from eval.errors import FileFormatError
from eval.image_suffixes import IMAGE_SUFFIXES
from eval.submissions import first_five
from eval.text import counted
from tasks._glue_labels import is_decimal
from tasks._records import Records, read_json_lines
from tasks._results import text_id
from tasks._task import Task

__all__ = ["OwnLines", "describe_answers", "describe_lines", "normalise_answer"]

FIELDS = ("id", "images", "prompt", "answers")


class OwnLines:
    """The lines of one file. Each field is checked when it is read.

    Args:
        path: The file.
        task: The task whose format the examples have.
    """

    def __init__(self, path: Path, task: Task) -> None:
        self._task = task
        self._expected = describe_lines(task)
        self._records = read_json_lines(path, expected=self._expected)
        if not len(self._records):
            raise FileFormatError(f"{path} contains no examples; expected at least one line")
        self._problem = self._records.problem
        self.ids = _text_ids(self._records)
        self._has_answers = "answers" in self._records.rows[0]

    def image_ids(self, position: int) -> tuple[str, ...]:
        if not self._task.images_per_example:
            # Exporters of a table write a column that other tasks need for all rows.
            if self._records.rows[position].get("images") not in (None, []):
                raise self._problem(
                    position, f"has images; {self._task.name} takes none: leave the field out"
                )
            return ()
        images = self._texts(position, "images")
        if len(images) != self._task.images_per_example:
            raise self._problem(
                position,
                f"has {counted(len(images), 'image')}; {self._task.name} takes "
                f"{self._task.images_per_example} per example",
            )
        ids = tuple(map(_image_id, images))
        if "" in ids:
            raise self._problem(
                position, f"has the image {images[ids.index('')]!r:.60}; expected a file name"
            )
        return ids

    def prompt(self, position: int) -> str:
        if self._task.answers_are == "references":
            if self._records.rows[position].get("prompt") is not None:
                raise self._problem(
                    position,
                    f"has a prompt; {self._task.name} takes none: leave the field out",
                )
            return ""
        self._require(position, "prompt")
        if isinstance(self._records.rows[position]["prompt"], list):
            texts = self._texts(position, "prompt")
            if len(texts) != self._task.texts_per_example:
                raise self._problem(
                    position,
                    f"has a prompt of {counted(len(texts), 'text')}; {self._task.name} takes "
                    f"{self._task.texts_per_example}",
                )
            return self._task.text_format.format(*texts)
        number = self._task.texts_per_example
        expected = None if number == 1 else f"a list of {number} texts"
        prompt = self._records.field(position, "prompt", str, expected=expected)
        if not prompt.strip():
            raise self._problem(position, "has an empty prompt; expected a question or statement")
        return self._with_format(position, prompt)

    def _with_format(self, position: int, prompt: str) -> str:
        """Return a prompt in the format of the task, without the task's prefix.

        A text may begin with a word that is the prefix of a prompt, such as "cola": it is removed
        only before texts in the format of the task.
        """
        form = self._task.text_format
        pattern = re.compile(".*".join(map(re.escape, form.split("{}"))), re.DOTALL)
        for text in (prompt.removeprefix(self._task.prompt_prefix), prompt):
            if pattern.fullmatch(text):
                return text
        if self._task.texts_per_example == 1:
            return form.format(prompt)
        raise self._problem(
            position,
            f"has the prompt {prompt!r:.60}; expected a list of {self._task.texts_per_example} "
            f"texts, or one string with their names, {form.replace('{}', '...')!r}",
        )

    def answers(self, position: int) -> list[str]:
        given = "answers" in self._records.rows[position]
        if not self._has_answers and not given:
            self._require_no_other(position, "answers")
            return []
        if given != self._has_answers:
            raise self._problem(
                position,
                f"has {'' if given else 'no '}answers, unlike line 1; expected answers on all "
                "lines or on none",
            )
        answers = self._texts(position, "answers")
        if not answers:
            raise self._problem(position, "has no answer in 'answers'; expected at least one")
        if self._task.answers_are == "label" and len(answers) > 1:
            raise self._problem(
                position, f"has {len(answers)} answers; {self._task.name} takes one correct answer"
            )
        return [self._allowed(position, answer) for answer in answers]

    def _allowed(self, position: int, answer: str) -> str:
        if (normalised := normalise_answer(answer, self._task)) is None:
            raise self._problem(
                position, f"has the answer {answer!r:.40}; expected {describe_answers(self._task)}"
            )
        return normalised

    def _texts(self, position: int, name: str) -> list[str]:
        self._require(position, name)
        values = self._records.field(position, name, list)
        for value in values:
            if not isinstance(value, str) or not value.strip():
                raise self._problem(
                    position, f"has {value!r:.40} in {name!r}; expected non-empty strings"
                )
        return values

    def _require(self, position: int, name: str) -> None:
        if name not in self._records.rows[position]:
            self._require_no_other(position, name)
            raise self._problem(position, f"has no {name!r}; expected {self._expected}")

    def _require_no_other(self, position: int, absent: str) -> None:
        """Refuse unknown fields if a known one is absent: most likely one is misspelled."""
        if others := [name for name in self._records.rows[position] if name not in FIELDS]:
            raise self._problem(
                position, f"has no {absent!r}, but {first_five(others)}; expected {self._expected}"
            )


def normalise_answer(answer: str, task: Task) -> str | None:
    """Return the form in which answers are compared, for labels and predictions alike.

    Returns:
        The answer; `None` if it is not one of the task's answer words, or not a number in its
        range.
    """
    text = answer.strip()
    words = task.answer_words
    if task.value_range is not None:
        return text if is_decimal(text, *task.value_range) else None
    if words is None:
        return text
    # The official files have "True".
    return text.lower() if text in (*words, *map(str.capitalize, words)) else None


def describe_answers(task: Task) -> str:
    """Return the answers that a file may contain, for messages."""
    if task.value_range is not None:
        low, high = task.value_range
        return f"a number from {low:g} to {high:g}"
    return " or ".join(map(repr, task.answer_words or ()))


def describe_lines(task: Task) -> str:
    """Return a description of the lines of a task's file, for messages."""
    images = '"images": [...], ' if task.images_per_example else ""
    prompt = "[...]" if task.texts_per_example > 1 else "..."
    return f'examples, {{"id": ..., {images}"prompt": {prompt}, "answers": [...]}}'


def _text_ids(records: Records) -> list[str]:
    ids = [text_id(records, position) for position in range(len(records))]
    first_line: dict[str, int] = {}
    for position, id_ in enumerate(ids):
        if first_line.setdefault(id_, position) != position:
            raise records.problem(
                position,
                f"has the ID {id_!r:.60} of line {first_line[id_] + 1}; expected a different ID",
            )
        if not id_.strip():
            raise records.problem(position, "has an empty ID; expected a string or an integer")
    return ids


def _image_id(name: str) -> str:
    # Windows separates folders by backslashes.
    file = PurePosixPath(name.replace("\\", "/"))
    # Other suffixes ("v1.2") are part of the name.
    return file.stem if file.suffix.lower() in IMAGE_SUFFIXES else file.name
