"""Synthetic questions in GQA's format, about as long as the real ones."""

import random
from collections.abc import Iterator
from typing import Any

__all__ = ["made_up_questions"]

NOUNS = "kettle chair horse window bottle plate jacket street bench spoon lamp fence".split()
COLORS = "red blue green black white brown".split()
IMAGES_PER_QUESTION = 1 / 13


def made_up_questions(count: int, *, balanced_only: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (question id, official object) pairs, deterministically.

    Args:
        count: Number of questions.
        balanced_only: Whether all are balanced; otherwise one in fifteen is, as in the official
            "all" files.
    """
    draw = random.Random(0)
    for number in range(count):
        noun, color, other = draw.choice(NOUNS), draw.choice(COLORS), draw.choice(COLORS)
        reference = f"{noun} ({draw.randrange(1_000_000, 2_000_000)})"
        is_open = draw.random() < 0.5
        text = f"What color is the {noun} that is to the left of the {draw.choice(NOUNS)}?"
        if not is_open:
            text = f"Is the {noun} in front of the {draw.choice(NOUNS)} {other}?"
        answer = color if is_open else draw.choice(("yes", "no"))
        last = ("query", "color") if is_open else ("verify color", other)
        first = max(0, number - 4)
        family = [_id(each) for each in range(first, number + 1) if draw.random() < 0.6]
        yield (
            _id(number),
            {
                "semantic": [
                    {"operation": "select", "dependencies": [], "argument": reference},
                    {"operation": "relate", "dependencies": [0], "argument": f"{noun},left,s (3)"},
                    {"operation": last[0], "dependencies": [1], "argument": last[1]},
                ],
                "entailed": family,
                "equivalent": [_id(number)],
                "question": text,
                "imageId": str(2_300_000 + int(number * IMAGES_PER_QUESTION)),
                "isBalanced": balanced_only or number % 15 == 0,
                "groups": {"global": "color" if is_open else None, "local": f"06-{noun}_{color}"},
                "answer": answer,
                "semanticStr": f"select: {reference}->relate: {noun},left,s (3) [0]->{last[0]}: "
                f"{last[1]} [1]",
                "annotations": {
                    "answer": {},
                    "question": {"2": "1231798", "6:8": "1231805"},
                    "fullAnswer": {"1": "1231798"},
                },
                "types": {
                    "detailed": "directWhich" if is_open else "verifyAttr",
                    "semantic": "attr",
                    "structural": "query" if is_open else "verify",
                },
                "fullAnswer": f"The {noun} to the left is {answer}.",
            },
        )


def _id(number: int) -> str:
    return f"{number:08d}"
