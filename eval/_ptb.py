"""The tokeniser of the COCO caption metrics: Stanford's PTBTokenizer, then without punctuation."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from eval._java import JavaError, library_folder, run_java
from eval.errors import InputError

__all__ = ["SHIFTING_SEPARATOR", "tokenise"]

NAME = "the Stanford tokeniser"
JAR = "stanford-corenlp-3.4.1.jar"
# Dropped from the tokens. Brackets come out in lower case ("-lrb-") and therefore stay.
PUNCTUATION = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())
# What the tokeniser takes for the end of a line besides "\n", the one that is replaced officially:
# each moves all later captions to the image before their own.
SHIFTING_SEPARATOR = re.compile("[\r\x0b\x0c\u2028\u2029]")
CAPTIONS_PER_SECOND = 1_000  # A twentieth of what is usual.
START_SECONDS = 120.0


def tokenise(
    captions: Sequence[str], *, time_limit: float | None = None, strict_official: bool = False
) -> list[str]:
    """Return each caption as lower-case tokens joined by spaces.

    The end of a caption is tokenised in view of the beginning of the next, so the order matters
    where a caption ends in an abbreviation; it is for the caller to give them as the official
    code does.

    Args:
        captions: Any texts; line separators in them count as spaces.
        time_limit: Seconds the Java program may take; `None` for a generous limit.
        strict_official: Let line separators shift captions, as they officially do.

    Raises:
        JavaError: There is no Java, or the program did not do its work.
        InputError: A caption is not valid Unicode.
    """
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
                f"the caption {wrong!a:.200} is not valid Unicode; mend the file it comes from"
            ) from None
        jar = library_folder("tokenizer") / JAR
        program = ["-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
        output = run_java(
            NAME,
            [*program, "-preserveLines", "-lowerCase", file.name],
            folder=Path(folder),
            time_limit=time_limit,
        )
    tokenised = output.decode(errors="replace").split("\n")
    if strict_official:
        del tokenised[len(lines) :]
    if len(tokenised) != len(lines):
        raise JavaError(
            f"{NAME} gave {len(tokenised):,} lines for {len(lines):,} captions, so it cannot be "
            f"known which belongs to which; the first is {tokenised[0]!r:.200}"
        )
    return [_without_punctuation(line) for line in tokenised]


def _without_punctuation(line: str) -> str:
    return " ".join(word for word in line.rstrip().split(" ") if word not in PUNCTUATION)
