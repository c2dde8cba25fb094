"""Time to score as many answers as GQA's balanced val split has, compared with a plain loop.

The plain loop keeps lists of scores and averages them at the end, as the official script does.
Both get parsed objects; the time of scoring from files, which users see, is printed separately.
Times are CPU times, the best of three in turns.

    python benchmarks/gqa_scoring.py [--questions 132062] [--json FILE]
"""

import argparse
import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _gqa_questions import COLORS, made_up_questions

from eval.gqa import score_gqa
from eval.outputs import write_json
from tasks.gqa import TASK

VAL_QUESTIONS = 132_062
REPEATS = 3
METRICS = ("accuracy", "binary", "open", "consistency", "validity", "plausibility", "distribution")


def main() -> None:
    """Print the times and their ratio; fail if the scores differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=VAL_QUESTIONS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    questions = dict(made_up_questions(options.questions, balanced_only=True))
    draw = random.Random(1)
    choices = {
        id_: {"valid": COLORS, "plausible": draw.sample(COLORS, 3)}
        if question["types"]["structural"] == "query"
        else {"valid": ["yes", "no"], "plausible": ["yes", "no"]}
        for id_, question in questions.items()
    }
    predictions = {
        id_: question["answer"] if draw.random() < 0.6 else draw.choice([*COLORS, "yes", "no"])
        for id_, question in questions.items()
    }
    ours = plain_seconds = float("inf")
    for _ in range(REPEATS):
        started = time.process_time()
        scores = score_gqa(predictions, questions.items(), choices.items())
        ours = min(ours, time.process_time() - started)
        started = time.process_time()
        plain = plain_loop(predictions, questions, choices)
        plain_seconds = min(plain_seconds, time.process_time() - started)
    if any(abs(getattr(scores, name) - plain[name]) > 1e-9 for name in METRICS):
        raise SystemExit("the two ways of scoring disagree")
    from_files = seconds_from_files(predictions, questions, choices)

    print(f"{options.questions:,} questions, accuracy {scores.accuracy:.2f} by both")
    print(f"score_gqa   {ours:7.2f} s")
    print(f"plain loop  {plain_seconds:7.2f} s")
    print(f"from files  {from_files:7.2f} s")
    if options.json is not None:
        write_json(
            options.json,
            {
                "questions": options.questions,
                "seconds": ours,
                "plain_loop_seconds": plain_seconds,
                "seconds_from_files": from_files,
            },
        )


def plain_loop(
    predictions: Mapping[str, str], questions: Mapping[str, Any], choices: Mapping[str, Any]
) -> dict[str, float]:
    """Score question by question, as the official script does."""
    lists: defaultdict[str, list[float]] = defaultdict(list)
    gold: Any = defaultdict(lambda: defaultdict(int))
    predicted: Any = defaultdict(lambda: defaultdict(int))
    for id_, question in questions.items():
        right = float(predictions[id_] == question["answer"])
        lists["accuracy"].append(right)
        types = question["types"]
        lists["open" if types["structural"] == "query" else "binary"].append(right)
        lists[f"structural {types['structural']}"].append(right)
        lists[f"semantic {types['semantic']}"].append(right)
        lists[f"length {len(question['question'].split())}"].append(right)
        steps = [
            each
            for each in question["semantic"]
            if not any(
                closing in "{}: {}".format(each["operation"], each["argument"])
                for closing in ["exist", "query: name", "choose name"]
            )
        ]
        lists[f"steps {len(steps)}"].append(right)
        for name, field in (("validity", "valid"), ("plausibility", "plausible")):
            common = "Common" in types["detailed"]
            allowed = ["color", "material", "shape"] if common else choices[id_][field]
            lists[name].append(float(predictions[id_] in allowed))
        if (group := question["groups"]["global"]) is not None:
            gold[group][question["answer"]] += 1
            predicted[group][predictions[id_]] += 1
        inferred = [each for each in question["entailed"] if each != id_]
        if right and inferred:
            marks = [float(predictions[each] == questions[each]["answer"]) for each in inferred]
            lists["consistency"].append(sum(marks) / len(marks))
    weighted = 0.0
    for group, counts in gold.items():
        parts = [(predicted[group][answer] - n) ** 2 / n for answer, n in counts.items()]
        weighted += sum(parts) * sum(counts.values())
    total = sum(sum(counts.values()) for counts in gold.values())
    means = {name: sum(each) / len(each) * 100 for name, each in lists.items()}
    return {**means, "distribution": weighted / total / 100}


def seconds_from_files(
    predictions: Mapping[str, str], questions: Mapping[str, Any], choices: Mapping[str, Any]
) -> float:
    """Time reading and scoring the three official files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "gqa")
        folder.mkdir()
        (folder / "val_balanced_questions.json").write_text(json.dumps(questions))
        (folder / "val_choices.json").write_text(json.dumps(choices))
        TASK.write_predictions(predictions, folder / "predictions.json")
        started = time.process_time()
        TASK.score(TASK.read_predictions(folder / "predictions.json"), folder.parent, "val")
        return time.process_time() - started


if __name__ == "__main__":
    main()
