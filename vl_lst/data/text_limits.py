"""What a model cannot read or write as it stands: how many texts are cut, unknown or not listed.

Lengths are in tokens, end-of-sequence included, those of prompts with their prefix.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tasks import ExampleTable, Task
from tasks._answers import answer_coverage, coverage_text
from vl_lst.backbones.tokenizer import CachingTokenizer as Texts
from vl_lst.data.examples import answer_list_file
from vl_lst.data.task_data import TaskExamples
from vl_lst.recipes import Recipe

__all__ = [
    "TextLosses",
    "answer_losses",
    "count_losses",
    "list_losses",
    "log_texts",
    "prompt_losses",
    "question_notes",
    "split_notes",
]

log = logging.getLogger(__name__)

# Distinct texts tokenised at once.
CHUNK = 2**17
MAX_QUOTED = 60
NEVER_WHOLE = "can never be generated whole"
# Below this percentage an answer list is most likely another data set's, or too short.
LOW_COVERAGE = 90.0


@dataclass(slots=True)
class TextLosses:
    """How many of several texts are lost in part, and to what.

    Args:
        limit: Tokens a text may have.
        texts: Number of texts.
        longest: Tokens of the longest.
        cut: Texts with more tokens than `limit`.
        unknown: Texts with characters that the tokenizer does not know.
        unknown_text: One of them.
        blank: Texts without any token of their own.
        altered: Texts that a model could only generate with another spelling.
        altered_text: One of them.
        shared: Distinct texts with the tokens of another.
        shared_text: One of them.
    """

    limit: int
    texts: int = 0
    longest: int = 0
    cut: int = 0
    unknown: int = 0
    unknown_text: str | None = None
    blank: int = 0
    altered: int = 0
    altered_text: str | None = None
    shared: int = 0
    shared_text: str | None = None

    def describe(self, noun: str, *, cut: str) -> str | None:
        """Say what is lost, `None` where nothing is.

        Args:
            noun: What the texts are ("prompts").
            cut: What becomes of those that are too long ("are cut").
        """
        too_long = f"exceed {self.limit:,} tokens and {cut} (the longest has {self.longest:,})"
        parts = (
            (self.cut, too_long),
            (self.unknown, f"contain unknown characters{_such_as(self.unknown_text)}"),
            (self.blank, "contain nothing that the tokenizer knows"),
            (self.altered, f"are generated with another spelling{_such_as(self.altered_text)}"),
            (self.shared, f"have the same tokens as another{_such_as(self.shared_text)}"),
        )
        found = [f"{count:,} of {self.texts:,} {noun} {what}" for count, what in parts if count]
        return "; ".join(found) or None


def count_losses(
    given: Iterable[str],
    texts: Texts,
    *,
    limit: int,
    prefix: str | None = None,
    verbatim: bool = False,
) -> TextLosses:
    """Count what the limit and the vocabulary take from texts.

    Args:
        given: The texts, prefix included; repeated ones count each time.
        texts: Tokenises them.
        limit: Tokens a text may have.
        prefix: What the texts begin with, if anything; `None` where nothing need follow it.
        verbatim: Also count texts that their tokens do not spell letter by letter.
    """
    losses = TextLosses(limit)
    bare = None if prefix is None else texts.tokenise_all([prefix])[0]
    for counts in _distinct(given):
        for (text, count), ids in zip(
            counts.items(), texts.tokenise_all(list(counts)), strict=True
        ):
            tokens = len(ids) + 1
            losses.texts += count
            losses.longest = max(losses.longest, tokens)
            if tokens > limit:
                losses.cut += count
            if text and prefix is not None and (ids == bare or _is_space(text, prefix)):
                losses.blank += count
            elif texts.unk_token_id is not None and texts.unk_token_id in ids:
                losses.unknown += count
                losses.unknown_text = losses.unknown_text or text
            elif verbatim and texts.decode(ids) != text:
                losses.altered += count
                losses.altered_text = losses.altered_text or text
    return losses


def prompt_losses(examples: ExampleTable, task: Task, texts: Texts) -> TextLosses:
    """Count what the limit of a task takes from the prompts of a split."""
    return count_losses(
        (example.prompt for example in examples),
        texts,
        limit=task.max_prompt_tokens,
        prefix=task.prompt_prefix if task.takes_text else None,
    )


def answer_losses(examples: ExampleTable, task: Task, texts: Texts, *, limit: int) -> TextLosses:
    """Count what the limit of generated answers takes from the right ones of a split.

    Args:
        examples: The split; each answer with a weight above zero counts.
        task: The task the split is of.
        texts: Tokenises answers.
        limit: `generation.max_length`.
    """
    answers = (answer for example in examples for answer, weight in example.targets if weight > 0)
    verbatim = task.answers_are == "label"
    return count_losses(answers, texts, limit=limit, prefix="", verbatim=verbatim)


def list_losses(answers: Sequence[str], task: Task, texts: Texts, *, limit: int) -> TextLosses:
    """Count what the limit of generated answers takes from a task's closed list of them."""
    verbatim = task.answers_are == "label"
    losses = count_losses(answers, texts, limit=limit, prefix="", verbatim=verbatim)
    seen: set[tuple[int, ...]] = set()
    for answer, ids in zip(answers, texts.tokenise_all(answers), strict=True):
        if tuple(ids) in seen:
            losses.shared += 1
            losses.shared_text = losses.shared_text or answer
        seen.add(tuple(ids))
    return losses


def log_texts(
    recipe: Recipe, examples: Mapping[str, TaskExamples], texts: Texts
) -> dict[str, float]:
    """Log what each task's prompts and answers lose, and what its answer list covers.

    Returns:
        The percentage of the training answers on each task's answer list, see `answer_coverage`;
        no entry where a task has no list.
    """
    coverage: dict[str, float] = {}
    for name, each in examples.items():
        _log_prompts(recipe, each, texts)
        if recipe.head[name] == "generate":
            _log_answers(recipe, each, texts)
        if each.answers is not None:
            coverage[name] = _log_coverage(recipe, each, each.answers)
    return coverage


def question_notes(prompt: str, task: Task, texts: Texts) -> tuple[str, ...]:
    """Say what a model does not read of one prompt, prefix included."""
    prefix = task.prompt_prefix if task.takes_text else None
    losses = count_losses([prompt], texts, limit=task.max_prompt_tokens, prefix=prefix)
    notes = []
    if losses.cut:
        notes.append(
            f"the question is cut: found {losses.longest:,} tokens, expected at most "
            f"{losses.limit:,}, as in training (data.max_prompt_tokens)"
        )
    if losses.unknown:
        notes.append("the question contains characters that the tokenizer does not know")
    if losses.blank:
        notes.append("the question contains nothing that the tokenizer knows")
    return tuple(notes)


def split_notes(
    recipe: Recipe,
    task: Task,
    examples: ExampleTable,
    texts: Texts,
    answers: Sequence[str] | None,
    head: str,
) -> tuple[str, ...]:
    """Say what a trained model does not read of a split, and which right answers it cannot give.

    Args:
        recipe: The run's.
        task: The split's.
        examples: The split.
        texts: Tokenises prompts and answers.
        answers: The list that answers are from, `None` where there is none.
        head: The trained task whose head answers.
    """
    notes = [
        prompt_losses(examples, task, texts).describe("prompts", cut="are cut, as in training")
    ]
    if recipe.head[head] == "generate":
        limit = recipe.generation.max_length[head]
        if task.answers_are != "references":
            lost = answer_losses(examples, task, texts, limit=limit)
            notes.append(lost.describe("answers", cut=NEVER_WHOLE))
        if answers is not None:
            lost = list_losses(answers, task, texts, limit=limit)
            notes.append(lost.describe("listed answers", cut=NEVER_WHOLE))
    coverage = None if answers is None else answer_coverage(examples, answers)
    if coverage is not None and coverage < LOW_COVERAGE:
        notes.append(
            f"the run's answer list holds {coverage_text(coverage)} of the right answers; the "
            "others cannot be given"
        )
    return tuple(note for note in notes if note is not None)


def _log_prompts(recipe: Recipe, each: TaskExamples, texts: Texts) -> None:
    for split, examples in _splits(recipe, each):
        losses = prompt_losses(examples, each.task, texts)
        where = f"{each.task.name} {split}"
        found = losses.describe("prompts", cut="are cut")
        if found is None:
            log.info(
                "%s: %s prompts of at most %s tokens; none exceeds %s",
                *(where, f"{losses.texts:,}", f"{losses.longest:,}", f"{losses.limit:,}"),
                extra={"only_in_file": True},
            )
            continue
        advice = f". Raise data.max_prompt_tokens.{each.task.name} to read more of them"
        log.warning("%s: %s%s", where, found, advice if losses.cut else "")


def _log_answers(recipe: Recipe, each: TaskExamples, texts: Texts) -> None:
    task, limit = each.task, recipe.generation.max_length[each.task.name]
    counted = [
        (f"{task.name} {split}", "answers", answer_losses(examples, task, texts, limit=limit))
        for split, examples in _splits(recipe, each)
        # Captions are compared with references, not letter by letter.
        if task.answers_are != "references" or examples is each.train
    ]
    if each.answers is not None:
        losses = list_losses(each.answers, task, texts, limit=limit)
        counted.append((task.name, "listed answers", losses))
    for where, noun, losses in counted:
        found = losses.describe(noun, cut=NEVER_WHOLE)
        if found is not None:
            advice = f". Raise generation.max_length.{task.name}" if losses.cut else ""
            log.warning("%s: %s%s", where, found, advice)


def _log_coverage(recipe: Recipe, each: TaskExamples, answers: Sequence[str]) -> float:
    name = each.task.name
    file = answer_list_file(recipe, each.task)
    count = recipe.data.min_answer_count[name]
    if file is not None:
        source, remedy = str(file), f"take another list (data.answer_list.{name})"
    elif each.task.answer_words is not None:
        source, remedy = "the task's own", "correct the answers"
    else:
        source = "counted from the training examples"
        if count > 1:
            source += f", at least {count:,} of each"
        remedy = f"lower data.min_answer_count.{name}" if count > 1 else "add examples"
    classifies = recipe.head[name] == "classify"
    freedom = (
        "generate answers (--head generate)"
        if classifies
        else "leave out generation.constrain_to_answers"
    )
    train, validation = (answer_coverage(table, answers) for _, table in _splits(recipe, each))
    assert train is not None, "a split that trains has labels"
    assert validation is not None, "a split that validates has labels"
    is_low = min(train, validation) < LOW_COVERAGE
    log.log(
        logging.WARNING if is_low else logging.INFO,
        "%s: the answer list (%s; %s) holds %s of the training answers and %s of the validation "
        "answers%s",
        name,
        f"{len(answers):,} answers",
        source,
        coverage_text(train),
        coverage_text(validation),
        f". The others can never be given: {remedy}, or {freedom}" if is_low else "",
        extra={"only_in_file": each.task.answer_words is not None and not is_low},
    )
    return train


def _splits(recipe: Recipe, each: TaskExamples) -> list[tuple[str, ExampleTable]]:
    data, name = recipe.data, each.task.name
    return [(data.train_split[name], each.train), (data.validation_split[name], each.validation)]


def _distinct(texts: Iterable[str]) -> Iterator[Counter[str]]:
    """Yield the texts with their numbers, in portions that fit into memory."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts[text] += 1
        if len(counts) == CHUNK:
            yield counts
            counts = Counter()
    if counts:
        yield counts


def _is_space(text: str, prefix: str) -> bool:
    return not text.removeprefix(prefix).strip()


def _such_as(text: str | None) -> str:
    if text is None:
        return ""
    shown = text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}..."
    return f", such as {shown!r}"
