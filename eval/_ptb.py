"""The tokenizer of the COCO caption metrics: Stanford's PTBTokenizer, with punctuation removed."""

import re
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from eval._java import JavaError, library_folder, run_java
from eval.errors import InputError
from eval.text import counted

__all__ = ["SHIFTING_SEPARATOR", "remembered_tokens", "tokenize"]

NAME = "the Stanford tokenizer"
JAR = "stanford-corenlp-3.4.1.jar"
# Dropped from the tokens. Brackets come out in lower case ("-lrb-") and therefore stay.
PUNCTUATION = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())
# Characters other than "\n" that end a line for the tokenizer. The official code does not replace
# them, so each shifts all later captions to the preceding image.
SHIFTING_SEPARATOR = re.compile("[\r\x0b\x0c\u2028\u2029]")
CAPTIONS_PER_SECOND = 1_000  # A twentieth of the usual speed.
START_SECONDS = 120.0


def tokenize(
    captions: Sequence[str],
    *,
    time_limit: float | None = None,
    strict_official: bool = False,
    remember: bool = False,
) -> Sequence[str]:
    """Return each caption as lower-case tokens joined by spaces.

    The tokenizer looks ahead to the next caption, so the order matters if a caption ends in an
    abbreviation. The caller must pass captions in the order of the official code.

    Args:
        captions: The captions. Line separators in them count as spaces.
        time_limit: Time limit in seconds of the Java program; `None` for a generous limit.
        strict_official: Whether line separators shift captions, as in the official code.
        remember: Whether the result is needed again, as for the references that every validation
            of a run uses. Only the latest such result is remembered.

    Raises:
        JavaError: There is no Java, or the program failed.
        InputError: A caption is not valid Unicode.
    """
    run = remembered_tokens if remember else _tokenize
    return run(tuple(captions), time_limit, strict_official)


def _tokenize(
    captions: Sequence[str], time_limit: float | None, strict_official: bool
) -> Sequence[str]:
    lines = [caption.replace("\n", " ") for caption in captions]
    if not strict_official:
        lines = [SHIFTING_SEPARATOR.sub(" ", line) for line in lines]
    if time_limit is None:
        time_limit = START_SECONDS + len(lines) / CAPTIONS_PER_SECOND
    with tempfile.TemporaryDirectory(prefix="vl-lst-") as folder:
        file = Path(folder, "captions.txt")
        try:
            file.write_bytes("\n".join(lines).encode())
        except UnicodeEncodeError as error:
            wrong = next(line for line in lines if error.object[error.start] in line)
            raise InputError(
                f"the caption {wrong!a:.200} is not valid Unicode; fix the file that contains it"
            ) from None
        jar = library_folder("tokenizer") / JAR
        program = ["-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
        output = run_java(
            NAME,
            [*program, "-preserveLines", "-lowerCase", file.name],
            folder=Path(folder),
            time_limit=time_limit,
        )
    tokenized = output.decode(errors="replace").split("\n")
    if strict_official:
        del tokenized[len(lines) :]
    if len(tokenized) != len(lines):
        raise JavaError(
            f"{NAME} returned {counted(len(tokenized), 'line')} for "
            f"{counted(len(lines), 'caption')}; the first is "
            f"{tokenized[0]!r:.200}"
        )
    return [_without_punctuation(line) for line in tokenized]


remembered_tokens = lru_cache(maxsize=1)(_tokenize)


def _without_punctuation(line: str) -> str:
    return " ".join(word for word in line.rstrip().split(" ") if word not in PUNCTUATION)
