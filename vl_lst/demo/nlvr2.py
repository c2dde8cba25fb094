"""The demo's statements about pairs of pictures in the format of NLVR2.

Each sentence is true for exactly two of the four pairs of its set, so the text alone predicts
nothing and a blind model has a consistency of zero.
"""

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from eval.outputs import atomic_path
from vl_lst.demo.balance import pick_weighted
from vl_lst.demo.scenes import Scene, pick
from vl_lst.demo.splits import PAIR_COLOURS, PAIRS_PER_SET, PairSplit, directory_of
from vl_lst.demo.statements import Statement, statements_about

__all__ = ["statements_split", "write_nlvr2"]

# Relative frequencies of the kinds of sentences. Those without a negation dominate: with as many
# negated ones, pictures and labels would be independent, given all sentences.
KIND_WEIGHTS = {
    "either": 80,
    "neither": 8,
    "one side": 8,
    "both": 4,
    "one alone": 4,
    "count": 2,
    "compare": 2,
}
# Share of sets with sentences about a colour, of those where it is possible. NLVR2's sets are about
# one kind of object, too. With equal shares, neither the sentence nor the pictures alone would
# predict anything, and a model would answer at random for most of the demo. Now it first learns
# that sentences about pictures with the most frequent colour are often true, and then which.
COLOUR_SHARES = dict(zip(PAIR_COLOURS, (1.0, 0.35, 0.15), strict=True))
NUM_PEOPLE = 12
EXTRA_VALIDATIONS = 4


def write_nlvr2(data_root: Path, split: PairSplit) -> None:
    """Write a split's statements in the official format, and the subsets of "dev"."""
    folder = data_root / "nlvr2"
    rows = statements_split(split)
    _write_lines(folder / f"{split.name}.json", rows)
    if split.name != "train":
        for subset, part in _subsets(rows).items():
            _write_lines(folder / subset / f"{subset}_{split.name}.json", part)


def statements_split(split: PairSplit) -> list[dict[str, Any]]:
    """Return the rows of a split's official file."""
    rng = Random(f"statements {split.name}")
    rows = []
    for set_number in range(split.sets):
        pairs = split.pairs(set_number)
        for sentence_number, statement in enumerate(_chosen(split, pairs, rng)):
            for pair_number, (left, right) in enumerate(pairs):
                rows.append(
                    _row(
                        split,
                        (set_number, pair_number, sentence_number),
                        statement,
                        str(statement.holds(left, right)),
                        rng,
                    )
                )
    return rows


def _chosen(
    split: PairSplit, pairs: tuple[tuple[Scene, Scene], ...], rng: Random
) -> list[Statement]:
    colours = [colour for colour, share in COLOUR_SHARES.items() if rng.random() < share]
    candidates = [
        statement
        for statement in statements_about(colours, rng)
        if sum(statement.holds(left, right) for left, right in pairs) * 2 == PAIRS_PER_SET
    ]
    chosen: list[Statement] = []
    while candidates and len(chosen) < split.sentences_per_set:
        kind = pick_weighted(KIND_WEIGHTS, {each.kind for each in candidates}, rng)
        best = pick(rng, [statement for statement in candidates if statement.kind == kind])
        chosen.append(best)
        candidates = [each for each in candidates if each.text != best.text]
    return chosen


def _row(
    split: PairSplit,
    numbers: tuple[int, int, int],
    statement: Statement,
    label: str,
    rng: Random,
) -> dict[str, Any]:
    set_number, pair_number, sentence_number = numbers
    left, right = split.stems(set_number, pair_number)
    writer, first, *others = sorted(map(str, range(NUM_PEOPLE)), key=lambda _: rng.random())[
        : 2 + EXTRA_VALIDATIONS
    ]
    row: dict[str, Any] = {
        "validation": {first: label},
        "sentence": statement.text,
        "left_url": f"https://example.com/{left}.png",
        "writer": writer,
        "label": label,
        "right_url": f"https://example.com/{right}.png",
        "synset": statement.subject,
        "query": f"{statement.subject}{set_number}",
        "identifier": f"{split.name}-{set_number}-{pair_number}-{sentence_number}",
    }
    if split.in_directories:
        row["directory"] = directory_of(set_number)
    else:
        row["extra_validations"] = dict.fromkeys(others, label)
    return row


def _subsets(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Split rows by whether their pair of pictures has as many true as false statements."""
    leads: Counter[str] = Counter()
    for row in rows:
        leads[_pair_of(row)] += 1 if row["label"] == "True" else -1
    return {
        "balanced": [row for row in rows if leads[_pair_of(row)] == 0],
        "unbalanced": [row for row in rows if leads[_pair_of(row)] != 0],
    }


def _pair_of(row: dict[str, Any]) -> str:
    identifier: str = row["identifier"]
    return identifier.rpartition("-")[0]


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
