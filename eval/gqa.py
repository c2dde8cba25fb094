"""GQA's metrics exactly as the official `eval.py` computes them, without rounding.

The rules (Hudson and Manning, arXiv 1902.09506, and the script of the data set's site):

* An answer is correct if it equals the gold answer exactly, including case, spaces and articles.
* All metrics run over the balanced questions. Only consistency uses unbalanced ones too.
* Validity and plausibility compare with the choices file. Questions with "Common" in their detailed
  type compare with "color", "material" and "shape" instead.
* The distribution is a chi-square of raw counts over the gold answers of each global group,
  weighted by the group's size and divided by 100. Lower is better.

A metric is `None` with a reason if the official script prints 0 because it cannot compute it, or
stops.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import chain
from operator import add
from typing import Any, NamedTuple, TypeVar

from eval.errors import FileFormatError, PredictionError
from eval.files import garbage_collection_paused
from eval.submissions import first_five, require_predictions, require_same_ids
from eval.text import counted

__all__ = ["GqaScores", "TypeAccuracy", "gqa_metrics", "reasoning_steps", "score_gqa"]

Trait = TypeVar("Trait", str, int)

OPEN_TYPE = "query"
NUMBERS = "accuracy binary open validity plausibility consistency distribution".split()
COMMON_ANSWERS = ("color", "material", "shape")

NO_CHOICES = (
    "there is no choices file, which lists the valid and plausible answers; the evaluation archive "
    "of the data set's site has train_choices.json and val_choices.json, but no other split"
)
NO_QUESTIONS = "no balanced question of this file is {kind}"
NO_GROUP = "no balanced question has a global group (groups.global), over which answers are counted"


@dataclass(frozen=True, slots=True)
class TypeAccuracy:
    """Accuracy over the questions of one type.

    Args:
        accuracy: Percentage of correct answers.
        count: Number of balanced questions.
    """

    accuracy: float
    count: int


@dataclass(frozen=True, slots=True)
class GqaScores:
    """GQA's metrics, in unrounded percent; `None` for metrics that the given files do not allow.

    Args:
        accuracy: Correct answers among the balanced questions.
        binary: Accuracy over questions that offer the answers (all but "query").
        open: Accuracy over "query" questions.
        validity: Answers within the question's scope.
        plausibility: Answers that make sense in the real world.
        consistency: Correct answers to the questions that a correctly answered question entails,
            averaged over the entailing questions.
        distribution: Chi-square between gold and predicted answers. Not a percentage; lower is
            better.
        accuracy_per_structural_type: Accuracy by "verify", "query", "choose", "logical" and
            "compare".
        accuracy_per_semantic_type: Accuracy by "obj", "attr", "cat", "rel" and "global".
        accuracy_per_length: Accuracy by number of words.
        accuracy_per_steps: Accuracy by number of reasoning steps.
        per_question: Whether each predicted answer is correct, including unbalanced questions.
        per_balanced_question: The same without unbalanced questions.
        reasons: Why each metric that is `None` could not be computed.
    """

    accuracy: float
    binary: float | None
    open: float | None
    validity: float | None
    plausibility: float | None
    consistency: float | None
    distribution: float | None
    accuracy_per_structural_type: Mapping[str, TypeAccuracy]
    accuracy_per_semantic_type: Mapping[str, TypeAccuracy]
    accuracy_per_length: Mapping[int, TypeAccuracy]
    accuracy_per_steps: Mapping[int, TypeAccuracy]
    per_question: Mapping[str, bool]
    per_balanced_question: Mapping[str, bool]
    reasons: Mapping[str, str] = field(default_factory=dict)


@garbage_collection_paused()
def score_gqa(
    predictions: Mapping[str, str],
    questions: Iterable[tuple[str, Mapping[str, Any]]],
    choices: Iterable[tuple[str, Mapping[str, Sequence[str]]]] | None = None,
    *,
    strict_official: bool = False,
) -> GqaScores:
    """Score predictions against official questions.

    Args:
        predictions: {question ID: answer} for all questions or all balanced questions. Consistency
            requires all questions.
        questions: (question ID, official object) pairs, such as the items of an official file.
            Iterated once, so they may come from a stream.
        choices: (question ID, {"valid": [...], "plausible": [...]}) pairs. Iterated once.
        strict_official: Whether to be as lenient as the official script: ignore predictions for
            other questions and missing predictions for unbalanced ones, and score 0 for metrics
            without questions.

    Raises:
        PredictionError: Predictions are missing or belong to other questions.
        FileFormatError: There is no balanced question, or one has no choices.
    """
    require_predictions(predictions)
    allowed = None if choices is None else _Allowed(predictions, choices)
    tally = _Tally()
    for id_, question in questions:
        tally.add(id_, question, predictions.get(id_), allowed)
    _require_predictions(tally, predictions, strict_official=strict_official)
    if not tally.balanced_ids:
        raise FileFormatError(
            f"none of the {len(tally.ids):,} questions is balanced (isBalanced), so there is "
            "nothing to score; expected an official file of questions with answers"
        )
    if allowed is not None:
        allowed.require(tally.balanced_ids)
    return _scores(tally, allowed, strict_official=strict_official)


def gqa_metrics(
    predictions: Mapping[str, str],
    questions: Mapping[str, Mapping[str, Any]],
    choices: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
) -> dict[str, float | None]:
    """Return the official metrics of a set of questions, in unrounded percent.

    Args:
        predictions: {question ID: answer} for all questions or all balanced questions.
        questions: {question ID: official object}, the content of an official questions file.
        choices: {question ID: {"valid": answers, "plausible": answers}}, the content of an official
            choices file; `None` if there is none.

    Returns:
        The metrics of `GqaScores` that are one number; `None` for those that the arguments do not
        allow.

    Raises:
        PredictionError: Predictions are missing or belong to other questions.
        FileFormatError: No question is balanced, or a balanced question has no choices.
    """
    scores = score_gqa(predictions, questions.items(), None if choices is None else choices.items())
    return {name: getattr(scores, name) for name in NUMBERS}


def reasoning_steps(semantic: Iterable[Mapping[str, Any]]) -> int:
    """Count the operations of a question's program, without the closing ones."""
    steps = 0
    for each in semantic:
        text = f"{each['operation']}: {each['argument']}"
        # Spelled out, since scoring spends much of its time here.
        steps += not ("exist" in text or "query: name" in text or "choose name" in text)
    return steps


class _Allowed:
    """A lookup of whether each prediction is valid and plausible."""

    def __init__(
        self,
        predictions: Mapping[str, str],
        choices: Iterable[tuple[str, Mapping[str, Sequence[str]]]],
    ) -> None:
        self._of_id = {
            id_: (prediction in choice["valid"], prediction in choice["plausible"])
            for id_, choice in choices
            if (prediction := predictions.get(id_)) is not None
        }

    def of(self, id_: str) -> tuple[bool, bool]:
        return self._of_id.get(id_, (False, False))

    def require(self, ids: Iterable[str]) -> None:
        if missing := [id_ for id_ in ids if id_ not in self._of_id]:
            raise FileFormatError(
                f"{counted(len(missing), 'balanced question has', 'balanced questions have')} no "
                f"entry in the choices file ({first_five(missing)}); expected one per question. "
                "Check that it is the file of this split."
            )


class _Kind(NamedTuple):
    structural: str
    semantic: str
    length: int
    steps: int
    correct: bool


@dataclass(slots=True)
class _Tally:
    """Counts over the questions seen so far."""

    ids: list[str] = field(default_factory=list)
    balanced_ids: list[str] = field(default_factory=list)
    correct: dict[str, bool] = field(default_factory=dict)
    # Balanced questions with a prediction, by the fields of `_Kind`. Plain tuples are faster.
    counts: defaultdict[tuple[str, str, int, int, bool], int] = field(
        default_factory=lambda: defaultdict(int)
    )
    valid: int = 0
    plausible: int = 0
    gold: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    predicted: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    inferred: dict[str, list[str]] = field(default_factory=dict)

    def add(
        self,
        id_: str,
        question: Mapping[str, Any],
        prediction: str | None,
        allowed: _Allowed | None,
    ) -> None:
        self.ids.append(id_)
        correct = prediction == question["answer"]
        if prediction is not None:
            self.correct[id_] = correct
        if not question["isBalanced"]:
            return
        self.balanced_ids.append(id_)
        if prediction is None:
            return
        types = question["types"]
        length = len(question["question"].split())
        steps = reasoning_steps(question["semantic"])
        self.counts[types["structural"], types["semantic"], length, steps, correct] += 1
        if allowed is not None:
            if "Common" in types["detailed"]:
                valid = plausible = prediction in COMMON_ANSWERS
            else:
                valid, plausible = allowed.of(id_)
            self.valid += valid
            self.plausible += plausible
        if (group := question["groups"]["global"]) is not None:
            self.gold[group][question["answer"]] += 1
            self.predicted[group][prediction] += 1
        if inferred := [each for each in question["entailed"] if each != id_]:
            self.inferred[id_] = inferred

    def answered(self) -> int:
        return sum(self.counts.values())

    def accuracy_per(self, trait: Callable[[_Kind], Trait]) -> dict[Trait, TypeAccuracy]:
        totals: Counter[Trait] = Counter()
        num_correct: Counter[Trait] = Counter()
        for key, count in self.counts.items():
            kind = _Kind(*key)
            totals[trait(kind)] += count
            num_correct[trait(kind)] += count * kind.correct
        return {
            each: TypeAccuracy(num_correct[each] / totals[each] * 100, totals[each])
            for each in sorted(totals)
        }


def _require_predictions(
    tally: _Tally, predictions: Mapping[str, str], *, strict_official: bool
) -> None:
    balanced_only = len(tally.correct) == tally.answered()
    expected = tally.balanced_ids if balanced_only or strict_official else tally.ids
    if not strict_official and len(expected) == len(tally.correct) == len(predictions):
        return
    unknown = {
        id_.lstrip("0") for id_ in predictions if isinstance(id_, str) and id_ not in tally.correct
    }
    lost = [id_ for id_ in expected if id_ not in tally.correct and id_.lstrip("0") in unknown]
    if lost:
        raise PredictionError(
            f"{counted(len(lost), 'question has', 'questions have')} a prediction only under an ID "
            f"without its leading zeros ({first_five(lost)}), as if IDs were converted to "
            "integers. GQA IDs are strings; keep them as strings from the questions file to the "
            "predictions file."
        )
    given: Collection[str] = predictions
    if strict_official:
        given = [id_ for id_ in expected if id_ in predictions]
    require_same_ids(expected, given)


def _scores(tally: _Tally, allowed: _Allowed | None, *, strict_official: bool) -> GqaScores:
    missing_score = 0.0 if strict_official else None
    consistency, no_consistency = _consistency(tally, correct_only=strict_official)
    by_open = tally.accuracy_per(lambda kind: kind.structural == OPEN_TYPE)
    scores = GqaScores(
        accuracy=tally.accuracy_per(lambda _: "all")["all"].accuracy,
        binary=by_open[False].accuracy if False in by_open else missing_score,
        open=by_open[True].accuracy if True in by_open else missing_score,
        validity=missing_score if allowed is None else tally.valid / tally.answered() * 100,
        plausibility=missing_score if allowed is None else tally.plausible / tally.answered() * 100,
        consistency=consistency,
        distribution=_distribution(tally),
        accuracy_per_structural_type=tally.accuracy_per(lambda kind: kind.structural),
        accuracy_per_semantic_type=tally.accuracy_per(lambda kind: kind.semantic),
        accuracy_per_length=tally.accuracy_per(lambda kind: kind.length),
        accuracy_per_steps=tally.accuracy_per(lambda kind: kind.steps),
        per_question=tally.correct,
        per_balanced_question={
            id_: tally.correct[id_] for id_ in tally.balanced_ids if id_ in tally.correct
        },
    )
    reasons = {
        "binary": NO_QUESTIONS.format(kind="binary"),
        "open": NO_QUESTIONS.format(kind='open (of the type "query")'),
        "validity": NO_CHOICES,
        "plausibility": NO_CHOICES,
        "consistency": no_consistency,
        "distribution": NO_GROUP,
    }
    reasons = {name: why for name, why in reasons.items() if getattr(scores, name) is None}
    return replace(scores, reasons=reasons)


def _consistency(tally: _Tally, *, correct_only: bool) -> tuple[float | None, str]:
    inferred = tally.inferred
    if correct_only:
        inferred = {id_: ids for id_, ids in inferred.items() if tally.correct[id_]}
    entailed = set(chain.from_iterable(inferred.values()))
    if not entailed and not correct_only:
        return None, "no balanced question entails another question (entailed)"
    unanswered = sorted(entailed.difference(tally.correct))
    if absent := sorted(set(unanswered).difference(tally.ids)):
        return None, (
            f"{len(absent):,} of the {len(entailed):,} questions that balanced ones entail are not "
            f"in the questions file ({first_five(absent)}); score the split with all questions "
            "(*_all_questions.json), and a prediction for each"
        )
    if unanswered:
        return None, (
            f"{len(unanswered):,} of the {len(entailed):,} questions that balanced ones entail "
            f"have no prediction ({first_five(unanswered)}); predict all questions of the file, "
            "not only the balanced ones"
        )
    shares = [
        sum(map(tally.correct.__getitem__, ids)) / len(ids)
        for id_, ids in inferred.items()
        if tally.correct[id_]
    ]
    # Unlike this, `sum` compensates rounding errors since Python 3.12.
    return (reduce(add, shares, 0.0) / len(shares) * 100 if shares else 0.0), ""


def _distribution(tally: _Tally) -> float | None:
    if not tally.gold:
        return None
    weighted = 0.0
    questions = 0
    for group, gold in tally.gold.items():
        predicted = tally.predicted[group]
        chi_square = 0.0
        for answer, expected in gold.items():
            chi_square += float(predicted[answer] - expected) ** 2 / expected
        weighted += chi_square * gold.total()
        questions += gold.total()
    return weighted / questions / 100
