"""Time to score as many answers as VQA v2's val2014 has, compared with a plain loop.

The plain loop works like the official script: it normalizes every answer each time, writes it into
the annotations (a copy made before timing starts), and compares whole answer objects for each
answer left out.

    python benchmarks/vqa_scoring.py [--questions 214354] [--json FILE]
"""

import argparse
import copy
import random
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval._vqa_contractions import CONTRACTIONS
from eval.outputs import write_json
from eval.vqa import score_vqa

VAL2014_QUESTIONS = 214_354
QUESTION_TYPES = {
    "is the": "yes/no",
    "how many": "number",
    "what color is the": "other",
    "what is the": "other",
}
SIMPLE_ANSWERS = "yes no 2 two none red blue Black white left right dog cat. T-shirt a.m.".split()
NOUNS = "table tree bus kite pizza surfboard umbrella frisbee train horse bench plate".split()
RARE_ANSWERS = [
    f"{first} {second}{end}"
    for first in ("the", "a", "on", "red", "1,000", "small", "dont", "very old")
    for second in NOUNS
    for end in ("", ".", "!", "/bench")
]


def main() -> None:
    """Print both times and their ratio; fail if the scores differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=VAL2014_QUESTIONS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    annotations, predictions = generate(options.questions)
    started = time.perf_counter()
    scores = score_vqa(predictions, annotations)
    ours = time.perf_counter() - started
    to_be_overwritten = copy.deepcopy(annotations)
    started = time.perf_counter()
    accuracy, per_question = plain_loop(predictions, to_be_overwritten)
    plain = time.perf_counter() - started
    if (scores.accuracy, dict(scores.per_question)) != (accuracy, per_question):
        raise SystemExit("the two ways of scoring disagree")

    print(f"{options.questions:,} questions, accuracy {accuracy:.2f} by both")
    print(f"score_vqa   {ours:7.2f} s")
    print(f"plain loop  {plain:7.2f} s")
    print(f"ratio       {plain / ours:7.1f}")
    if options.json is not None:
        write_json(
            options.json,
            {
                "questions": options.questions,
                "seconds": ours,
                "plain_loop_seconds": plain,
                "ratio": plain / ours,
            },
        )


def generate(questions: int) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Return annotations in the official format, and one prediction each."""
    draw = random.Random(0)
    annotations = []
    predictions = {}
    for number in range(questions):
        question_id = 1000 * (number // 5) + number % 5
        question_type = draw.choice(list(QUESTION_TYPES))
        # Numbered, so that most texts of this kind are distinct and must be normalized.
        rare = f"{draw.choice(RARE_ANSWERS)} {draw.randrange(1000)}"
        pool = [draw.choice(SIMPLE_ANSWERS), draw.choice(SIMPLE_ANSWERS), rare]
        people = draw.choices(pool, weights=(12, 2, 1), k=10)
        annotations.append(
            {
                "question_id": question_id,
                "question_type": question_type,
                "answer_type": QUESTION_TYPES[question_type],
                "answers": [
                    {"answer": answer, "answer_confidence": "yes", "answer_id": person}
                    for person, answer in enumerate(people, 1)
                ],
            }
        )
        predictions[question_id] = draw.choice(pool)
    return annotations, predictions


def plain_loop(
    predictions: Mapping[int, str], annotations: Sequence[Mapping[str, Any]]
) -> tuple[float, dict[int, float]]:
    """Score question by question without caching; overwrites `annotations`."""
    accuracies = []
    per_question = {}
    for annotation in annotations:
        answers = annotation["answers"]
        prediction = _one_line(predictions[annotation["question_id"]])
        for answer in answers:
            answer["answer"] = _one_line(answer["answer"])
        if len({answer["answer"] for answer in answers}) > 1:
            prediction = _normalised(prediction)
            for answer in answers:
                answer["answer"] = _normalised(answer["answer"])
        each = []
        for left_out in answers:
            others = [answer for answer in answers if answer != left_out]
            agreeing = [answer for answer in others if answer["answer"] == prediction]
            each.append(min(1, len(agreeing) / 3))
        accuracies.append(sum(each) / len(each))
        per_question[annotation["question_id"]] = round(100 * accuracies[-1], 2)
    return round(100 * sum(accuracies) / len(accuracies), 2), per_question


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _normalised(text: str) -> str:
    out = text
    for mark in ';/[]"{}()=+\\_-><@`,?!':
        if mark + " " in text or " " + mark in text or re.search(r"[0-9],[0-9]", text):
            out = out.replace(mark, "")
        else:
            out = out.replace(mark, " ")
    out = re.sub(r"\.(?![0-9])", "", out, count=32)
    numbers = "zero one two three four five six seven eight nine ten".split()
    words = []
    for word in out.lower().split():
        digit = "0" if word == "none" else str(numbers.index(word)) if word in numbers else word
        if digit not in ("a", "an", "the"):
            words.append(CONTRACTIONS.get(digit, digit))
    return " ".join(words)


if __name__ == "__main__":
    main()
