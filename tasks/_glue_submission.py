r"""Files of gluebenchmark.com, and predictions files of GLUE.

A submission has the header `index\tprediction` and one line for each test example, in the order of
its index. Its predictions are words of the data set, while models answer with digits.

Predictions files are JSON, which keeps any text that a model may write. Submissions are read too.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.errors import FileFormatError, InputError, PredictionError
from eval.files import BYTE_ORDER_MARK, MAX_TEXT_BYTES, open_text
from eval.outputs import atomic_path
from eval.regular_files import open_regular
from eval.submissions import first_five
from eval.text import counted
from tasks._glue_files import line_problem, read_lines
from tasks._glue_labels import Labels
from tasks._results import TEXT_RESULTS

__all__ = ["GlueForm", "is_submission"]

HEADER = "index\tprediction"
MAX_HEADER_BYTES = 1 << 10
EXPECTED = "a submission to gluebenchmark.com, lines of an index and a prediction"


@dataclass(frozen=True, slots=True)
class GlueForm:
    """The form of the submissions of one task.

    Args:
        labels: Labels of the task.
    """

    labels: Labels

    @property
    def placeholder(self) -> str:
        return self.labels.placeholder

    def read(self, path: Path) -> dict[str, str]:
        """Read a submission as {index: answer}.

        Raises:
            InputError: There is no such file.
            FileFormatError: The server would not accept the file; the message gives the line.
        """
        _require_unix_lines(path)
        answers: dict[str, str] = {}
        for number, index, word in _submitted_words(path):
            if index != str(len(answers)):
                raise line_problem(
                    path,
                    number,
                    f"has the index {index!r:.40}; expected {len(answers)}: one line for each test "
                    "example, in ascending order from 0",
                )
            answer = self.labels.read_submitted(word)
            if answer is None:
                raise line_problem(
                    path,
                    number,
                    f"has the prediction {word!r:.40}; expected {self.labels.described}",
                )
            answers[index] = answer
        return answers

    def write(self, predictions: Mapping[str, str], path: Path) -> Sequence[str]:
        """Write a submission, in which a valid answer replaces each invalid one.

        Returns:
            A remark if there are invalid answers.

        Raises:
            PredictionError: The IDs are not the indices of test examples.
            OutputError: The file cannot be written.
        """
        indices = [str(index) for index in range(len(predictions))]
        if others := set(predictions) - set(indices):
            raise PredictionError(
                f"{len(others):,} of {len(predictions):,} IDs are not indices of test examples "
                f"({first_five(sorted(others))}): expected 0 to {len(predictions) - 1}"
            )
        answers = [predictions[index] for index in indices]
        lines = [HEADER, *(f"{n}\t{self.labels.submitted(each)}" for n, each in enumerate(answers))]
        with atomic_path(path) as temporary:
            temporary.write_bytes("".join(f"{line}\n" for line in lines).encode())
        invalid = [answer for answer in answers if not self.labels.is_valid(answer)]
        if not invalid:
            return ()
        shown = first_five(list(dict.fromkeys(map(repr, invalid))))
        return (
            f"{len(invalid):,} of {len(answers):,} answers are not {self.labels.answers} ({shown}) "
            f"and were replaced, such as by {self.labels.submitted(invalid[0])!r}",
        )

    def read_predictions(self, path: Path) -> dict[str, str]:
        """Read a predictions file, or a submission as {index: answer}.

        Words that are not the task's are kept, since invalid answers are scored too.

        Raises:
            InputError: There is no such file.
            FileFormatError: The file has another format.
            PredictionError: An example has more than one answer.
        """
        if not is_submission(path):
            return TEXT_RESULTS.read(path)
        answers: dict[str, str] = {}
        for number, index, word in _submitted_words(path):
            if index in answers:
                raise PredictionError(
                    f"{path}: line {number} answers {index!r:.40} again; expected one prediction "
                    "for each example"
                )
            answer = self.labels.read_submitted(word)
            answers[index] = word if answer is None else answer
        return answers


def _submitted_words(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line number, index and word of each line after the header."""
    lines = read_lines(path, expected=EXPECTED)
    _, header = next(lines, (1, ""))
    if header != HEADER:
        raise line_problem(
            path, 1, f"is {header!r:.60}; expected the header {HEADER!r}, separated by a tab"
        )
    for number, line in lines:
        if not line:
            raise line_problem(
                path, number, "is empty; expected an index and a prediction. Remove it."
            )
        columns = line.split("\t")
        if len(columns) != 2:
            raise line_problem(
                path,
                number,
                f"has {counted(len(columns), 'column')}; expected 2, an index and a prediction",
            )
        index, word = columns
        yield number, index, word


def is_submission(path: Path) -> bool:
    """Return whether the first columns of a file are those of a submission.

    Further columns, or commas instead of tabs, are left to the reader of submissions, whose errors
    name them. A pipe, which can be read only once, is never a submission.
    """
    try:
        with open_regular(
            path, expected="predictions", max_bytes=MAX_TEXT_BYTES, read_again=True
        ) as file:
            first = file.readline(MAX_HEADER_BYTES).decode("utf-8", "replace")
    except InputError:  # The reader of predictions reports it.
        return False
    columns = re.split("[\t,]", first.lstrip(BYTE_ORDER_MARK).rstrip("\r\n"))
    return columns[:2] == HEADER.split("\t")


def _require_unix_lines(path: Path) -> None:
    """Refuse carriage returns, which servers read as part of the prediction."""
    with open_text(path, expected=EXPECTED, newline="\n") as file:
        if file.readline().endswith("\r\n"):
            raise FileFormatError(
                f"{path}: lines end with a carriage return and a line feed; expected a line feed. "
                "Save the file with Unix line ends."
            )
