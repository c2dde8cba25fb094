"""GLUE's metrics: the reference's scores of all answer sets, and what defines them."""

import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from eval.errors import InputError, PredictionError
from eval.glue import average_without_each, glue_metrics, glue_tasks, metric_names

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "glue"
# The reference's names of metrics -> ours.
NAMES = {
    "matthews_correlation": "matthews",
    "spearmanr": "spearman",
    "average_metrics": "average",
}
PAPER_TASKS = ("cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "stsb")


def answer_sets() -> list[Any]:
    """All answer sets with their scores, as parameters of a test."""
    sets = []
    for task in PAPER_TASKS:
        cases = json.loads((FIXTURES / f"{task}_cases.json").read_text(encoding="utf-8"))["cases"]
        scores = json.loads((FIXTURES / f"expected_{task}.json").read_text(encoding="utf-8"))
        for case, score in zip(cases, scores["cases"], strict=True):
            assert case["name"] == score["name"]
            expected = {NAMES.get(name, name): value for name, value in score["expected"].items()}
            sets.append(pytest.param(task, case, expected, id=f"{task}-{case['name']}"))
    return sets


def random_texts(choices: Sequence[str], count: int, seed: int) -> list[str]:
    return random.Random(seed).choices(choices, k=count)


SCORES = [f"{tenth / 10}" for tenth in range(51)]


def test_there_are_105_answer_sets() -> None:
    assert len(answer_sets()) == 105


@pytest.mark.parametrize(("task", "case", "expected"), answer_sets())
def test_answer_sets_score_as_in_the_reference(
    task: str, case: dict[str, Any], expected: dict[str, float]
) -> None:
    metrics = glue_metrics(task, case["predictions"], case["targets"])
    assert metrics.keys() == expected.keys()
    assert metrics == pytest.approx(expected, rel=0, abs=1e-9)


def test_clean_answer_sets_score_as_in_scikit_learn_and_scipy() -> None:
    """As `evaluate` of Hugging Face recorded, which converts numbers of STS-B to float32."""
    compared = 0
    for task in PAPER_TASKS:
        cases = json.loads((FIXTURES / f"{task}_cases.json").read_text(encoding="utf-8"))["cases"]
        scores = json.loads((FIXTURES / f"expected_{task}.json").read_text(encoding="utf-8"))
        for case, score in zip(cases, scores["cases"], strict=True):
            metrics = glue_metrics(task, case["predictions"], case["targets"])
            recorded = score.get("huggingface_evaluate") or {}
            for name, value in recorded.items():
                # An undefined coefficient is missing there.
                if value is not None:
                    ours = metrics[NAMES.get(name, name)] / 100
                    assert ours == pytest.approx(value, abs=1e-6 if task == "stsb" else 1e-12)
                    compared += 1
    assert compared > 60


def test_the_mean_over_tasks_is_that_of_the_reference() -> None:
    expected = json.loads((FIXTURES / "expected_mean.json").read_text(encoding="utf-8"))
    averages = {}
    for task in PAPER_TASKS:
        cases = json.loads((FIXTURES / f"{task}_cases.json").read_text(encoding="utf-8"))["cases"]
        (clean,) = [case for case in cases if case["name"] == "clean"]
        averages[task] = glue_metrics(task, clean["predictions"], clean["targets"])["average"]
    assert averages == pytest.approx(expected["per_task"], rel=0, abs=1e-9)
    assert math.fsum(averages.values()) / 8 == pytest.approx(expected["mean"], rel=0, abs=1e-9)


@pytest.mark.parametrize("task", glue_tasks())
def test_the_order_of_examples_does_not_matter(task: str) -> None:
    words = SCORES if task == "stsb" else ["0", "1", "x"]
    targets = random_texts(words if task == "stsb" else ["0", "1"], 200, seed=1)
    pairs = list(zip(random_texts(words, 200, seed=2), targets, strict=True))
    forth = glue_metrics(task, *zip(*pairs, strict=True))
    random.Random(3).shuffle(pairs)
    assert glue_metrics(task, *zip(*pairs, strict=True)) == pytest.approx(forth, abs=1e-9)
    assert set(forth) == {*metric_names(task), "average"}


def test_invalid_words_are_classes_of_their_own_in_cola() -> None:
    targets = ["1", "0", "1", "0", "0"]
    same = glue_metrics("cola", ["x", "x", "1", "0", "1"], targets)["matthews"]
    different = glue_metrics("cola", ["x", "y", "1", "0", "1"], targets)["matthews"]
    assert same == pytest.approx(21.650635094610966)
    assert different == pytest.approx(20.412414523193153)


def test_an_invalid_word_counts_as_the_opposite_of_its_target_in_f1() -> None:
    targets = ["1", "0", "1", "0"]
    given = glue_metrics("mrpc", ["x", "", "1", "0"], targets)
    assert given == glue_metrics("mrpc", ["0", "1", "1", "0"], targets)
    assert glue_metrics("qqp", ["0", "0"], ["0", "0"]) == {
        "f1": 0.0,
        "accuracy": 100.0,
        "average": 50.0,
    }


def test_spearman_depends_only_on_the_order_of_predictions() -> None:
    targets = random_texts(SCORES, 50, seed=4)
    predictions = random_texts(SCORES, 50, seed=5)
    scaled = [str(7 * float(text) ** 3 - 40) for text in predictions]
    first, second = (glue_metrics("stsb", each, targets) for each in (predictions, scaled))
    assert first["spearman"] == pytest.approx(second["spearman"], abs=1e-9)
    assert first["pearson"] != pytest.approx(second["pearson"], abs=1e-3)


@pytest.mark.parametrize("texts", [["1e308", "-1e308", "3"], ["inf", "1", "2"], ["-0", "0", "0.0"]])
def test_extreme_numbers_give_finite_scores(texts: list[str]) -> None:
    metrics = glue_metrics("stsb", texts, ["1.0", "2.0", "3.5"])
    assert all(math.isfinite(value) and -100 <= value <= 100 for value in metrics.values())


@pytest.mark.parametrize(
    ("task", "predictions", "targets", "error", "message"),
    [
        ("sts-b", ["1"], ["1"], InputError, "no GLUE task 'sts-b': expected one of: ax, cola"),
        ("rte", ["1"], ["1", "0"], PredictionError, "found 1 prediction for 2 targets of rte"),
        ("rte", [], [], InputError, "no examples of rte to score"),
        ("stsb", ["1"], ["1"], InputError, "not defined for 1 example"),
        (
            "mrpc",
            ["1", "1"],
            ["equivalent", "1"],
            InputError,
            "found 'equivalent' among the targets of mrpc: expected '0' and '1'. Convert",
        ),
        ("cola", [1, 0], ["1", "0"], PredictionError, r"prediction 0 of cola is 1 \(int\): expect"),
        ("stsb", ["2", 3.5], ["1", "0"], PredictionError, r"prediction 1 of stsb is 3.5 \(float\)"),
        ("cola", "10", ["1", "0"], PredictionError, r"predictions of cola are '10' \(str\): expec"),
        ("cola", None, ["1", "0"], PredictionError, r"predictions of cola are None \(NoneType\)"),
        ("cola", iter("10"), ["1", "0"], PredictionError, "predictions of cola are <str_"),
        ("cola", {"1", "0"}, ["1", "0"], PredictionError, r"predictions of cola are .* \(set\)"),
        ("cola", ["1", "0"], [1, 0], InputError, r"target 0 of cola is 1 \(int\): expected a str"),
        ("cola", ["1", "0"], "10", InputError, r"the targets of cola are '10' \(str\): expected"),
        ("cola", {"a": "1"}, {"a": 1}, InputError, r"target a of cola is 1 \(int\): expected a s"),
    ],
)
def test_undefined_metrics_are_explained(
    task: str,
    predictions: Any,
    targets: Any,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        glue_metrics(task, predictions, targets)


@pytest.mark.parametrize(
    ("task", "predictions", "targets", "error", "message"),
    [
        ("cola", [1, 0], ["1", "0"], PredictionError, "prediction 0 of cola is 1"),
        ("rte", ["1"], ["1", "0"], PredictionError, "found 1 prediction for 2 targets"),
        ("qqp", ["1", "1"], ["1", "same"], InputError, "found 'same' among the targets of qqp"),
        ("rte", ["1"], ["1"], InputError, "found 1 example of rte: expected at least 2"),
    ],
)
def test_undefined_metrics_without_each_example_are_explained(
    task: str, predictions: Any, targets: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        average_without_each(task, predictions, targets)


def test_arrays_of_texts_are_sequences() -> None:
    import numpy as np

    given, correct = ["0.5", "2", " 3 "], ["0", "2", "5"]
    scored = glue_metrics("stsb", given, correct)
    assert glue_metrics("stsb", np.array(given), np.array(correct)) == scored  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "words", "targets"),
    [
        ("cola", ["0", "1"], ["0", "1"]),
        ("cola", ["0", "1", "2", "x", ""], ["0", "1"]),
        ("qqp", ["0", "1"], ["0", "1"]),
        ("mnli", ["0", "1", "2"], ["0", "1", "2"]),
    ],
)
def test_classes_score_as_in_scikit_learn(task: str, words: list[str], targets: list[str]) -> None:
    sklearn: Any = pytest.importorskip("sklearn.metrics")
    official: dict[str, Callable[..., float]] = {
        "accuracy": sklearn.accuracy_score,
        "f1": lambda correct, given: sklearn.f1_score(correct, given, pos_label="1"),
        "matthews": sklearn.matthews_corrcoef,
    }
    for seed in range(5):
        given = random_texts(words, 300, seed=seed)
        correct = random_texts(targets, 300, seed=100 + seed)
        metrics = glue_metrics(task, given, correct)
        for name in metric_names(task):
            expected = 100 * official[name](correct, given)
            assert metrics[name] == pytest.approx(expected, rel=0, abs=1e-9)


def test_numbers_score_as_in_scipy() -> None:
    stats: Any = pytest.importorskip("scipy.stats")
    for seed in range(5):
        given = random_texts(SCORES, 300, seed=seed)
        correct = random_texts(SCORES, 300, seed=100 + seed)
        numbers = [list(map(float, texts)) for texts in (given, correct)]
        metrics = glue_metrics("stsb", given, correct)
        pearson, spearman = stats.pearsonr(*numbers)[0], stats.spearmanr(*numbers)[0]
        assert metrics["pearson"] == pytest.approx(100 * pearson, rel=0, abs=1e-9)
        assert metrics["spearman"] == pytest.approx(100 * spearman, rel=0, abs=1e-9)


def test_as_many_examples_as_qqp_tests_score_within_seconds() -> None:
    """The limit is twenty times what it takes, so that busy machines pass."""
    count = 400_000
    started = time.perf_counter()
    glue_metrics("qqp", random_texts("01", count, seed=1), random_texts("01", count, seed=2))
    glue_metrics("stsb", random_texts(SCORES, count, seed=1), random_texts(SCORES, count, seed=2))
    assert time.perf_counter() - started < 20


def test_numpy_is_imported_only_for_correlations() -> None:
    import subprocess

    code = (
        "import sys; from eval.glue import glue_metrics; glue_metrics('rte', ['1'], ['1']); "
        "print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
