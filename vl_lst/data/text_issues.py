"""Counts of texts that a model cannot read or generate as they are.

Lengths are in tokens and include special tokens and, for prompts, the prefix.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tasks import ExampleTable, Task
from vl_lst.backbones.tokenizer import CachingTokenizer

__all__ = [
    "TextIssues",
    "answer_issues",
    "answer_list_issues",
    "correct_answers",
    "count_text_issues",
    "prompt_issues",
]

# Maximum number of distinct texts to count, and to tokenise, at once. Tokens need more memory than
# texts, above all those of long ones.
CHUNK_SIZE = 2**17
MAX_TOKENISED = 2**12
MAX_QUOTED_LENGTH = 60


@dataclass(slots=True)
class TextIssues:
    """Number of texts with each issue, and a text that has it.

    Args:
        limit: Maximum number of tokens.
        texts: Number of texts.
        longest: Number of tokens of the longest text.
        too_long: Texts with more tokens than `limit`.
        unknown: Texts with characters that the tokenizer does not know.
        unknown_text: One of them.
        blank: Texts without their own tokens.
        altered: Texts that a model can only generate with another spelling.
        altered_text: One of them.
        ambiguous: Distinct texts with the same tokens as an earlier one.
        ambiguous_text: One of them.
    """

    limit: int
    texts: int = 0
    longest: int = 0
    too_long: int = 0
    unknown: int = 0
    unknown_text: str | None = None
    blank: int = 0
    altered: int = 0
    altered_text: str | None = None
    ambiguous: int = 0
    ambiguous_text: str | None = None

    def describe(self, noun: str, *, consequence: str) -> str | None:
        """Describe the issues; return `None` if there are none.

        Args:
            noun: What the texts are, such as "prompts".
            consequence: What happens to texts that are too long, such as "are truncated".
        """
        too_long = (
            f"exceed {self.limit:,} tokens and {consequence} (the longest has {self.longest:,})"
        )
        parts = (
            (self.too_long, too_long),
            (self.unknown, f"contain unknown characters{_such_as(self.unknown_text)}"),
            (self.blank, "contain nothing that the tokenizer knows"),
            (self.altered, f"are generated with another spelling{_such_as(self.altered_text)}"),
            (self.ambiguous, f"have the same tokens as another{_such_as(self.ambiguous_text)}"),
        )
        found = [f"{count:,} of {self.texts:,} {noun} {what}" for count, what in parts if count]
        return "; ".join(found) or None


def count_text_issues(
    texts: Iterable[str],
    tokenizer: CachingTokenizer,
    *,
    limit: int,
    prefix: str | None = None,
    is_verbatim: bool = False,
    num_specials: int | None = None,
) -> TextIssues:
    """Count the texts that the token limit and the vocabulary change.

    Args:
        texts: The texts, with their prefix; repeated texts count each time.
        tokenizer: Tokenizer of the backbone.
        limit: Maximum number of tokens.
        prefix: What all texts have in common, prefix and suffix. A text without other tokens is
            blank; with `None`, no text is blank.
        is_verbatim: Whether to count texts that their tokens do not spell exactly.
        num_specials: Number of special tokens in each text. Default: that of prompts.
    """
    issues = TextIssues(limit)
    if num_specials is None:
        num_specials = tokenizer.num_prompt_specials
    prefix_ids = None if prefix is None else tokenizer.tokenise_all([prefix])[0]
    for counts in _count_distinct(texts):
        for text, ids in _tokenise(counts, tokenizer):
            count = counts[text]
            length = len(ids) + num_specials
            issues.texts += count
            issues.longest = max(issues.longest, length)
            if length > limit:
                issues.too_long += count
            is_blank = prefix is not None and (ids == prefix_ids or text.strip() == prefix.strip())
            if text and is_blank:
                issues.blank += count
            elif tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
                issues.unknown += count
                issues.unknown_text = issues.unknown_text or text
            elif is_verbatim and tokenizer.decode(ids) != text:
                issues.altered += count
                issues.altered_text = issues.altered_text or text
    return issues


def prompt_issues(prompts: Iterable[str], task: Task, tokenizer: CachingTokenizer) -> TextIssues:
    """Count the issues of a task's prompts.

    Args:
        prompts: Prompts, with the task's prefix and suffix.
        task: Task of the prompts.
        tokenizer: Tokenizer of the backbone.
    """
    prefix = task.prompt_prefix + task.prompt_suffix if task.takes_text else None
    return count_text_issues(prompts, tokenizer, limit=task.max_prompt_tokens, prefix=prefix)


def answer_issues(
    answers: Iterable[str], task: Task, tokenizer: CachingTokenizer, *, limit: int
) -> TextIssues:
    """Count the issues of answers that a model should generate.

    Args:
        answers: The answers.
        task: Task of the answers.
        tokenizer: Tokenizer of the backbone.
        limit: Maximum number of generated tokens (`generation.max_length`).
    """
    is_verbatim = task.answers_are == "label"
    return count_text_issues(
        answers,
        tokenizer,
        limit=limit,
        prefix="",
        is_verbatim=is_verbatim,
        num_specials=tokenizer.num_answer_specials,
    )


def correct_answers(examples: ExampleTable) -> Iterator[str]:
    """Yield each answer of a split with a weight above zero."""
    return (answer for each in examples for answer, weight in each.targets if weight > 0)


def answer_list_issues(
    answers: Sequence[str], task: Task, tokenizer: CachingTokenizer, *, limit: int
) -> TextIssues:
    """Count the issues of an answer list, answers with equal tokens included.

    Args:
        answers: Answer list of the task.
        task: The task.
        tokenizer: Tokenizer of the backbone.
        limit: Maximum number of generated tokens (`generation.max_length`).
    """
    issues = answer_issues(answers, task, tokenizer, limit=limit)
    seen: set[tuple[int, ...]] = set()
    for answer, ids in zip(answers, tokenizer.tokenise_all(answers), strict=True):
        if tuple(ids) in seen:
            issues.ambiguous += 1
            issues.ambiguous_text = issues.ambiguous_text or answer
        seen.add(tuple(ids))
    return issues


def _count_distinct(texts: Iterable[str]) -> Iterator[Counter[str]]:
    """Yield distinct texts with their counts, in chunks that fit into memory."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts[text] += 1
        if len(counts) == CHUNK_SIZE:
            yield counts
            counts = Counter()
    if counts:
        yield counts


def _tokenise(texts: Iterable[str], tokenizer: CachingTokenizer) -> Iterator[tuple[str, list[int]]]:
    """Yield each text with its token ids."""
    remaining = iter(texts)
    while some := list(islice(remaining, MAX_TOKENISED)):
        yield from zip(some, tokenizer.tokenise_all(some), strict=True)


def _such_as(text: str | None) -> str:
    if text is None:
        return ""
    shown = text if len(text) <= MAX_QUOTED_LENGTH else f"{text[:MAX_QUOTED_LENGTH]}..."
    return f", such as {shown!r}"
