"""Warnings about prompts that a model cannot read in full, and answers that it cannot give."""

import logging
from collections.abc import Iterator, Mapping, Sequence

from tasks import ExampleTable, Task, get_task
from tasks._answers import answer_coverage, format_coverage
from vl_lst.backbones.tokenizer import CachingTokenizer
from vl_lst.data.answer_lists import answer_list_file
from vl_lst.data.examples import TaskExamples
from vl_lst.data.text_issues import (
    TextIssues,
    answer_issues,
    answer_list_issues,
    correct_answers,
    prompt_issues,
)
from vl_lst.recipes import Recipe

__all__ = ["log_text_issues", "question_notes", "split_notes"]

log = logging.getLogger(__name__)

NEVER_IN_FULL = "can never be generated in full"
# Percentage below which an answer list is probably too short or that of another dataset.
MIN_COVERAGE = 90.0


def log_text_issues(
    recipe: Recipe, examples: Mapping[str, TaskExamples], tokenizer: CachingTokenizer
) -> dict[str, float]:
    """Log issues of each task's prompts and answers, and the coverage of its answer list.

    Args:
        recipe: Recipe of the run.
        examples: Examples of each task, by name.
        tokenizer: Tokenizer of the backbone.

    Returns:
        Percentage of training examples whose answer is on the task's answer list (see
        `answer_coverage`), by task; tasks without a list have no entry.
    """
    coverage: dict[str, float] = {}
    for name, each in examples.items():
        _log_prompts(recipe, each, tokenizer)
        if recipe.head[name] == "generate":
            _log_answers(recipe, each, tokenizer)
        if each.answers is not None:
            coverage[name] = _log_coverage(recipe, each, each.answers)
    return coverage


def question_notes(prompt: str, task: Task, tokenizer: CachingTokenizer) -> tuple[str, ...]:
    """Describe the parts of a prompt that a model does not read.

    Args:
        prompt: The prompt, with the task's prefix and suffix.
        task: Task of the prompt.
        tokenizer: Tokenizer of the backbone.
    """
    issues = prompt_issues([prompt], task, tokenizer)
    noun = "question" if task.images_per_example else "text"
    notes = []
    if issues.too_long:
        notes.append(
            f"the {noun} is truncated: found {issues.longest:,} tokens, expected at most "
            f"{issues.limit:,} (data.max_prompt_tokens)"
        )
    if issues.unknown:
        notes.append(f"the {noun} contains characters that the tokenizer does not know")
    if issues.blank:
        notes.append(f"the {noun} contains nothing that the tokenizer knows")
    return tuple(notes)


def split_notes(
    recipe: Recipe,
    task: Task,
    examples: ExampleTable,
    tokenizer: CachingTokenizer,
    answers: Sequence[str] | None,
    head: str,
) -> tuple[str, ...]:
    """Describe what a trained model does not read in a split, and which answers it cannot give.

    Args:
        recipe: Recipe of the run.
        task: Task of the split.
        examples: Examples of the split.
        tokenizer: Tokenizer of the backbone.
        answers: Answer list of the run; `None` if the model may generate any answer.
        head: Name of the trained task whose head answers.
    """
    issues = prompt_issues(_prompts(examples), task, tokenizer)
    notes = [issues.describe("prompts", consequence="are truncated")]
    if recipe.head[head] == "generate":
        limit = recipe.generation.max_length[head]
        if task.answers_are != "references":
            issues = answer_issues(correct_answers(examples), task, tokenizer, limit=limit)
            notes.append(issues.describe("answers", consequence=NEVER_IN_FULL))
        if answers is not None:
            issues = answer_list_issues(answers, task, tokenizer, limit=limit)
            notes.append(issues.describe("listed answers", consequence=NEVER_IN_FULL))
    coverage = None if answers is None else answer_coverage(examples, answers)
    if coverage is not None and coverage < MIN_COVERAGE:
        notes.append(
            f"the run's answer list covers {format_coverage(coverage)} of the correct answers; the "
            "model cannot give the others"
        )
    return tuple(note for note in notes if note is not None)


def _log_prompts(recipe: Recipe, loaded: TaskExamples, tokenizer: CachingTokenizer) -> None:
    for split, examples in _splits(recipe, loaded):
        issues = prompt_issues(_prompts(examples), loaded.task, tokenizer)
        where = f"{loaded.task.name} {split}"
        found = issues.describe("prompts", consequence="are truncated")
        if found is None:
            log.info(
                "%s: %s prompts of at most %s tokens; none exceeds %s",
                *(where, f"{issues.texts:,}", f"{issues.longest:,}", f"{issues.limit:,}"),
                extra={"only_in_file": True},
            )
            continue
        advice = ""
        if issues.too_long:
            own = issues.limit == get_task(loaded.task.name).max_prompt_tokens
            advice = (
                f"{'. This is the default limit of the task; to' if own else '. To'} read them "
                f"whole, raise data.max_prompt_tokens.{loaded.task.name}"
            )
        log.warning("%s: %s%s", where, found, advice)


def _log_answers(recipe: Recipe, loaded: TaskExamples, tokenizer: CachingTokenizer) -> None:
    task, limit = loaded.task, recipe.generation.max_length[loaded.task.name]
    counted: list[tuple[str, str, TextIssues]] = []
    for split, examples in _splits(recipe, loaded):
        # Validation captions are references; a prediction need not equal one of them.
        if task.answers_are != "references" or examples is loaded.train:
            issues = answer_issues(correct_answers(examples), task, tokenizer, limit=limit)
            counted.append((f"{task.name} {split}", "answers", issues))
    if loaded.answers is not None:
        issues = answer_list_issues(loaded.answers, task, tokenizer, limit=limit)
        counted.append((task.name, "listed answers", issues))
    for where, noun, issues in counted:
        found = issues.describe(noun, consequence=NEVER_IN_FULL)
        if found is not None:
            advice = f". Raise generation.max_length.{task.name}" if issues.too_long else ""
            log.warning("%s: %s%s", where, found, advice)


def _log_coverage(recipe: Recipe, loaded: TaskExamples, answers: Sequence[str]) -> float:
    """Log how many answers an answer list covers; return the percentage of the training split."""
    name = loaded.task.name
    source, remedy = _answer_list_source(recipe, loaded.task)
    alternative = (
        "generate answers (--head generate)"
        if recipe.head[name] == "classify"
        else "leave out generation.constrain_to_answers"
    )
    train, validation = (answer_coverage(table, answers) for _, table in _splits(recipe, loaded))
    assert train is not None, "a training split has labels"
    assert validation is not None, "a validation split has labels"
    is_low = min(train, validation) < MIN_COVERAGE
    log.log(
        logging.WARNING if is_low else logging.INFO,
        "%s: the answer list (%s; %s) covers %s of the training answers and %s of the validation "
        "answers%s",
        name,
        f"{len(answers):,} answers",
        source,
        format_coverage(train),
        format_coverage(validation),
        f". The model can never give the others: {remedy}, or {alternative}" if is_low else "",
        extra={"only_in_file": loaded.task.answer_words is not None and not is_low},
    )
    return train


def _answer_list_source(recipe: Recipe, task: Task) -> tuple[str, str]:
    """Return where a task's answer list is from, and how to make it cover more answers."""
    file = answer_list_file(recipe, task)
    if file is not None:
        return str(file), f"choose another list (data.answer_list.{task.name})"
    if task.answer_words is not None:
        return "the task's own", "correct the answers"
    source, count = "counted from the training examples", recipe.data.min_answer_count[task.name]
    if count > 1:
        return f"{source}, at least {count:,} of each", f"lower data.min_answer_count.{task.name}"
    return source, "add examples"


def _splits(recipe: Recipe, loaded: TaskExamples) -> list[tuple[str, ExampleTable]]:
    data, name = recipe.data, loaded.task.name
    return [
        (data.train_split[name], loaded.train),
        (data.validation_split[name], loaded.validation),
    ]


def _prompts(examples: ExampleTable) -> Iterator[str]:
    return (example.prompt for example in examples)
