"""The tasks of GLUE: prompts, targets, scores and splits, on invented and on real files."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from eval.errors import InputError
from tasks import get_task
from tasks._glue_labels import Similarity

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
GLUE = ("ax", "cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")
# SHA-256 of the lines `prompt TAB target LF` that the reference's own code makes of the real files.
REAL_SPLITS = {
    ("cola", "paper_validation"): (
        "2faed754157e2e8a63a7773d3cf02efbb4afc593a2abcef4644099c69025d6bd"
    ),
    ("cola", "paper_test"): "a23796147ea3b97399f56a223bcae26e60b8d103d1a55fcd6667d541d68fdd19",
    ("mrpc", "paper_validation"): (
        "e1d35da9574a740e3793b650f0499325d936b069ae0885896714af944acc19f4"
    ),
    ("mrpc", "paper_test"): "d7afe30e4dabbda21396aa1589604aad014b17198de7fc8932a4b3d1c2d83a5b",
    ("rte", "paper_validation"): "7986550202239d3a9e97271592bd952fb0fd963093384067ec85c313ccc44529",
    ("rte", "paper_test"): "9adf14ae1691f7c14bbd5c026ee49f2f334e088a3ae97fb294cf5f5349b3781d",
    ("stsb", "paper_validation"): (
        "10274a1f9a0e995aedbe58ef702fd13ee2c3b930d258e0c1f2a860869fc73edf"
    ),
    ("stsb", "paper_test"): "be6aa59178f8ad4486db9cb7b3dccba97eb6969508f78ebeafa5809716bf6551",
}


def first(name: str, split: str = "train") -> tuple[str, str]:
    example = get_task(name).load(FIXTURES / name, split)[0]
    return example.prompt, example.targets[0][0]


def test_prompts_and_targets_are_those_of_the_paper() -> None:
    assert first("cola") == ("cola sentence: The kettle boils.", "1")
    assert first("sst2") == ("sst2 sentence: a dull scene 0 ", "0")
    assert first("mrpc") == (
        "mrpc sentence1: The bridge opened on Monday . sentence2: On Monday , the bridge opened .",
        "1",
    )
    assert first("qqp") == (
        "qqp question1: How do I cook rice for 0? question2: What is the way to cook rice for 0?",
        "1",
    )
    assert first("mnli") == (
        "mnli premise: War, hunger, and peace hypothesis Only peace",
        "2",
    )
    assert first("qnli") == (
        "qnli question: Who built tower 0? sentence: Tower 0 was built by masons.",
        "0",
    )
    assert first("rte") == (
        "rte sentence1: The factory closed in 2003. sentence2: The factory is open.",
        "1",
    )
    assert first("stsb") == (
        "stsb sentence1: A man plays a flute. sentence2: A man is playing a flute.",
        "5.0",
    )
    assert first("wnli")[1] == "1"


def test_diagnostic_examples_have_the_prompts_of_mnli() -> None:
    task = get_task("ax")
    example = task.load(FIXTURES / "ax", "test")[0]
    assert example.prompt == (
        "mnli premise: The cat sat on the mat. hypothesis The cat did not sit on the mat."
    )
    assert (example.targets, task.splits, task.answer_words) == ((), ("test",), ("0", "1", "2"))
    with pytest.raises(InputError, match="ax test are not public"):
        task.score({"0": "0", "1": "2"}, FIXTURES / "ax", "test")


def test_heads_and_answers_fit_the_labels() -> None:
    for name in GLUE:
        task = get_task(name)
        assert task.metric.name == "average"
        assert (task.images_per_example, task.loss_average) == (0, "tokens")
        if name == "stsb":
            assert task.heads == ("generate", "regress")
            assert (task.answer_words, task.value_range) == (None, (0.0, 5.0))
        else:
            assert task.heads == ("generate", "classify")
            assert task.answer_words == (("0", "1", "2") if name in ("mnli", "ax") else ("0", "1"))


@pytest.mark.parametrize(("name", "split"), REAL_SPLITS)
def test_real_splits_are_those_of_the_paper(shared_data: Path, name: str, split: str) -> None:
    examples = get_task(name).load(shared_data / "data", split)
    lines = "".join(f"{example.prompt}\t{example.targets[0][0]}\n" for example in examples)
    assert hashlib.sha256(lines.encode()).hexdigest() == REAL_SPLITS[name, split]


@pytest.mark.parametrize("name", ["cola", "mrpc", "rte", "stsb", "sst2", "qnli"])
def test_real_files_have_their_published_size(shared_data: Path, name: str) -> None:
    task = get_task(name)
    # The others are cut.
    splits = {"sst2": ("dev", "test"), "qnli": ("dev",)}.get(name, ("train", "dev", "test"))
    for split in splits:
        examples = task.load(shared_data / "data", split)
        assert len(examples) == task.sizes[split].examples, split
        assert examples.ids() == [str(index) for index in range(len(examples))], split


@pytest.mark.parametrize("name", ["sst2", "qqp", "qnli", "mnli"])
def test_the_paper_tests_large_tasks_on_all_of_dev(shared_data: Path, name: str) -> None:
    task = get_task(name)
    dev = "dev_matched" if name == "mnli" else "dev"
    test = list(task.load(shared_data / "data", "paper_test"))
    assert test == list(task.load(shared_data / "data", dev))
    validation, train = (
        task.load(shared_data / "data", split).ids()
        for split in ("paper_validation", "paper_train")
    )
    if name == "mnli":
        assert validation == task.load(shared_data / "data", "dev_mismatched").ids()
        assert train == task.load(shared_data / "data", "train").ids()
        return
    assert len(validation) == 1000
    assert sorted(validation + train) == sorted(task.load(shared_data / "data", "train").ids())


@pytest.mark.parametrize(
    ("label", "target"),
    [
        ("5", "5.0"),
        ("0", "0.0"),
        ("4.25", "4.2"),
        ("4.75", "4.8"),
        ("2.75", "2.8"),
        ("0.850", "0.9"),
        ("3.4", "3.4"),
        ("1.333333", "1.3"),
        ("5.1", None),
        ("-0.1", None),
        ("1e0", None),
        ("nan", None),
        ("", None),
        ("3,4", None),
    ],
)
def test_similarities_are_rounded_to_tenths_in_single_precision(
    label: str, target: str | None
) -> None:
    assert Similarity().target(label) == target


def test_rounding_equals_that_of_numpy(shared_data: Path) -> None:
    """The reference rounds with NumPy after the label has passed through single precision."""
    import numpy as np

    lines = (shared_data / "data/glue/STS-B/train.tsv").read_text(encoding="utf-8").split("\n")
    labels = [line.rpartition("\t")[2] for line in lines[1:-1]]
    expected = [str(np.round((float(np.float32(label)) * 5) / 5, 1)) for label in labels]
    assert [Similarity().target(label) for label in labels] == expected
    assert len(set(expected)) == 50


def test_similarity_is_scored_against_the_file_or_against_the_targets() -> None:
    """GLUE compares with the scores of the file, the paper with what models learn."""
    task, root = get_task("stsb"), FIXTURES / "stsb"
    predictions = {"0": "5.0", "1": "0.9", "2": "2.8"}
    official = task.score(predictions, root, "train")
    paper = task.score(predictions, root, "paper_train")
    assert official.metrics["pearson"] == pytest.approx(99.98, abs=0.02)
    assert official.metrics["pearson"] != pytest.approx(100.0, abs=1e-6)
    assert paper.metrics["pearson"] == pytest.approx(100.0)
    assert (official.protocol, paper.protocol) == (
        "glue official",
        "glue, splits of the LST paper",
    )


def test_the_share_of_a_similarity_falls_with_the_distance() -> None:
    task, root = get_task("stsb"), FIXTURES / "stsb"
    score = task.score({"0": "5.0", "1": "0.25", "2": "four", "3": "9"}, root, "dev")
    assert score.per_example == pytest.approx({"0": 100.0, "1": 75.0, "2": 0.0, "3": 0.0})
    assert score.notes == (
        "2 of 4 predictions are not numbers from 0 to 5: they count as -1 if they are not numbers.",
    )


@pytest.mark.parametrize(
    ("words", "undefined", "note"),
    [
        (["nan"], {"pearson", "spearman"}, "1 prediction is 'nan', so both correlations are 0."),
        (["-Inf", " NaN "], {"pearson", "spearman"}, "1 prediction is 'nan', so both"),
        (["inf"], {"pearson"}, "1 prediction is infinite, so Pearson is 0."),
        (["1e999", "-inf"], {"pearson"}, "2 predictions are infinite, so Pearson is 0."),
    ],
)
def test_numbers_without_a_correlation_are_noted(
    words: list[str], undefined: set[str], note: str
) -> None:
    answers = [*words, "5.0", "0.25", "3"][:4]
    predictions = {str(number): answer for number, answer in enumerate(answers)}
    score = get_task("stsb").score(predictions, FIXTURES / "stsb", "dev")
    assert {name for name in ("pearson", "spearman") if score.metrics[name] == 0} == undefined
    [only] = score.notes
    assert only.startswith(note)


@pytest.mark.parametrize("task", ["mrpc", "stsb"])
def test_metrics_that_are_no_means_have_pseudo_values(task: str) -> None:
    """The mean of pseudo-values is the metric, less the estimated bias."""
    predictions = {"0": "1", "1": "1", "2": "0", "3": "1"}
    score = get_task(task).score(predictions, FIXTURES / task, "dev")
    assert score.averaged is not None
    assert score.averaged.keys() == score.per_example.keys()
    assert score.averaged != score.per_example


def test_accuracies_are_means_of_their_examples() -> None:
    task, root = get_task("sst2"), FIXTURES / "sst2"
    predictions = dict.fromkeys(task.load(root, "dev").ids(), "1")
    assert task.score(predictions, root, "dev").averaged is None


def test_class_scores_have_an_interval_and_the_majority() -> None:
    task, root = get_task("mrpc"), FIXTURES / "mrpc"
    score = task.score({"0": "1", "1": " 1 ", "2": "yes", "3": "0"}, root, "dev")
    assert score.metrics == {
        "f1": 50.0,
        "accuracy": 50.0,
        "average": 50.0,
        "accuracy_interval": pytest.approx([15.0, 85.0], abs=0.01),
        "majority_accuracy": 50.0,
    }
    assert score.per_example == {"0": 100.0, "1": 0.0, "2": 0.0, "3": 100.0}
    assert score.notes == (
        "1 of 4 predictions are not '0' or '1': they count in F1 as the opposite of the correct "
        "class and count as wrong.",
    )


def test_splits_of_other_files_are_not_the_paper_s() -> None:
    task, root = get_task("rte"), FIXTURES / "rte"
    ids = task.load(root, "paper_test").ids()
    (note,) = task.score(dict.fromkeys(ids, "0"), root, "paper_test").notes
    assert note.startswith("paper_test has 2 examples, not the published 139")


def test_too_few_examples_for_a_split_of_the_paper_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train has 4 examples, too few .* more than 1,000"):
        get_task("sst2").load(FIXTURES / "sst2", "paper_validation")
    folder = tmp_path / "glue" / "RTE"
    folder.mkdir(parents=True)
    lines = (FIXTURES / "rte/glue/RTE/dev.tsv").read_text(encoding="utf-8").splitlines()
    (folder / "dev.tsv").write_text("\n".join(lines[:2]), encoding="utf-8")
    with pytest.raises(InputError, match="dev has 1 example, too few"):
        get_task("rte").load(tmp_path, "paper_test")


@pytest.mark.parametrize("name", GLUE)
def test_test_splits_have_no_targets_and_no_score(name: str) -> None:
    task, root = get_task(name), FIXTURES / name
    for split in task.splits:
        if split.startswith("test"):
            examples = task.load(root, split)
            assert all(not example.targets for example in examples)
            with pytest.raises(InputError, match="are not public"):
                task.score(dict.fromkeys(examples.ids(), "0"), root, split)


def test_invalid_predictions_survive_their_file(tmp_path: Path) -> None:
    """Scores of CoLA depend on which words a model writes, spaces aside."""
    task = get_task("cola")
    predictions = {"0": " 1\n", "1": "", "2": "tab\there", "3": "not acceptable", "4": "½"}
    path = tmp_path / "predictions.json"
    task.write_predictions(predictions, path)
    assert task.read_predictions(path) == predictions
    assert json.loads(path.read_text(encoding="utf-8"))[0] == {"id": "0", "answer": " 1\n"}


def test_submissions_are_read_as_predictions(tmp_path: Path) -> None:
    path = tmp_path / "QNLI.tsv"
    path.write_text("index\tprediction\n1\tentailment\n0\tnot_entailment\n2\tperhaps\n")
    task = get_task("qnli")
    assert task.read_predictions(path) == {"1": "0", "0": "1", "2": "perhaps"}
    path.write_text("index\tprediction\n1\tentailment\n1\tentailment\n")
    with pytest.raises(InputError, match="line 3 answers '1' again"):
        task.read_predictions(path)


def test_predictions_may_come_through_a_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, b'[{"id": 0, "answer": " 1 "}]')
    os.close(writer)
    assert get_task("sst2").read_predictions(Path(f"/dev/fd/{reader}")) == {"0": " 1 "}
    os.close(reader)
