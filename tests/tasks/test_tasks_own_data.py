"""A user's own JSONL files: loading, scoring, and errors that name the line."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from eval.errors import FileFormatError, InputError, PredictionError
from tasks import (
    Task,
    get_task,
    load_own_examples,
    score_own_predictions,
    task_names,
    with_own_files,
)

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "your_own_data.md"


def line(**changes: Any) -> dict[str, Any]:
    fields = {"id": "k1", "images": ["a/kitchen.JPG"], "prompt": "what is red?", "answers": ["cup"]}
    return {name: value for name, value in {**fields, **changes}.items() if value is not None}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "own.jsonl"


def write(file: Path, *lines: object) -> None:
    file.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")


def test_the_documented_examples_of_each_task_load(file: Path) -> None:
    """The examples of the documentation are valid."""
    text = DOCUMENT.read_text(encoding="utf-8")
    shown = dict(re.findall(r"## (\w+)\n.*?```json\n(.*?)```", text, re.DOTALL))
    assert sorted(shown) == task_names()
    for name, lines in shown.items():
        file.write_text(lines, encoding="utf-8")
        examples = load_own_examples(file, get_task(name))
        assert len(examples) >= 2
        assert all(example.targets for example in examples)


def test_examples_follow_the_format_of_the_task(file: Path) -> None:
    write(file, line(), line(id=2, images=["v1.2"], prompt="vqa: how many?", answers=["Two"]))
    first, second = load_own_examples(file, get_task("vqa"))
    assert (first.id, second.id) == ("k1", "2")
    assert (first.image_ids, second.image_ids) == (("kitchen",), ("v1.2",))
    assert (first.prompt, second.prompt) == ("vqa: what is red?", "vqa: how many?")
    assert (first.targets, second.targets) == ((("cup", 1.0),), (("2", 1.0),))


@pytest.mark.parametrize("name", ["a\\kitchen.jpg", "C:\\a\\kitchen.PNG", "a\\b/kitchen"])
def test_windows_paths_are_understood(file: Path, name: str) -> None:
    write(file, line(images=[name]))
    assert load_own_examples(file, get_task("vqa"))[0].image_ids == ("kitchen",)


@pytest.mark.parametrize("name", ["/", "\\"])
def test_a_folder_is_not_an_image(file: Path, name: str) -> None:
    write(file, line(images=[name]))
    with pytest.raises(FileFormatError, match="line 1 has the image .* expected a file name"):
        load_own_examples(file, get_task("vqa"))


def test_captions_have_no_prompt(file: Path) -> None:
    write(file, line(prompt=None, answers=["a cup", "a red cup"]))
    (example,) = load_own_examples(file, get_task("caption"))
    assert example.prompt == "caption: "
    assert example.targets == (("a cup", 1.0), ("a red cup", 1.0))


def test_nlvr2_takes_two_images_and_the_official_labels(file: Path) -> None:
    write(file, line(images=["l.png", "r.png"], answers=["True"]))
    (example,) = load_own_examples(file, get_task("nlvr2"))
    assert example.image_ids == ("l", "r")
    assert example.targets == (("true", 1.0),)


def test_a_file_without_answers_can_only_be_predicted(file: Path) -> None:
    write(file, line(answers=None), line(id="k2", answers=None))
    examples = load_own_examples(file, get_task("gqa"))
    assert [example.targets for example in examples] == [(), ()]
    with pytest.raises(InputError, match="no answers to score against"):
        score_own_predictions({"k1": "a", "k2": "b"}, file, get_task("gqa"))


@pytest.mark.parametrize(
    ("task", "second", "message"),
    [
        ("vqa", line(), "line 2 has the ID 'k1' of line 1"),
        ("vqa", line(id=1.5), "line 2 has id 1.5"),
        ("vqa", line(id=" "), "line 2 has an empty ID"),
        ("vqa", line(id="k2", images="a.jpg"), "line 2 has images 'a.jpg'.*expected a list"),
        ("vqa", line(id="k2", images=["a", "b"]), "line 2 has 2 images; vqa takes 1"),
        ("vqa", line(id="k2", images=[7]), "line 2 has 7 in 'images'"),
        ("vqa", line(id="k2", images=None), "line 2 has no 'images'"),
        ("vqa", line(id="k2", prompt=None), "line 2 has no 'prompt'; expected"),
        ("vqa", line(id="k2", prompt=None, question="?"), "no 'prompt', but question"),
        ("vqa", line(id="k2", prompt=" "), "line 2 has an empty prompt"),
        ("vqa", line(id="k2", answers=None), "line 2 has no answers, unlike line 1"),
        ("vqa", line(id="k2", answers=[]), "line 2 has no answer"),
        ("vqa", line(id="k2", answers=["a", ""]), "line 2 has '' in 'answers'"),
        ("vqa", line(id="k2", answers="cup"), "line 2 has answers 'cup'"),
        ("vqa", ["k2"], "line 2 is a list"),
        ("gqa", line(id="k2", answers=["a", "b"]), "line 2 has 2 answers; gqa takes one"),
        ("caption", line(id="k2"), "has a prompt; caption takes none"),
    ],
)
def test_errors_name_the_line(task: str, second: object, message: str, file: Path) -> None:
    write(file, line(prompt=None) if task == "caption" else line(), second)
    with pytest.raises(FileFormatError, match=message):
        load_own_examples(file, get_task(task))


def test_a_misspelled_field_on_every_line_is_an_error(file: Path) -> None:
    write(file, {**line(answers=None), "answer": "cup"})
    with pytest.raises(FileFormatError, match="line 1 has no 'answers', but answer"):
        load_own_examples(file, get_task("vqa"))


@pytest.mark.parametrize("answer", ["TRUE", "yes", "1"])
def test_answers_other_than_true_and_false_are_refused(answer: str, file: Path) -> None:
    write(file, line(images=["l", "r"], answers=[answer]))
    with pytest.raises(FileFormatError, match="expected 'true' or 'false'"):
        load_own_examples(file, get_task("nlvr2"))


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "no examples"), ('{"id": "k1"', "line 1 is not valid JSON"), ("\n", "line 1 is empty")],
)
def test_files_other_than_jsonl_are_refused(content: str, message: str, file: Path) -> None:
    file.write_text(content)
    with pytest.raises(FileFormatError, match=message):
        load_own_examples(file, get_task("vqa"))


@pytest.mark.parametrize(
    ("task", "given", "right", "best", "protocol"),
    [
        ("vqa", {"answers": ["Cup"]}, "the cup", 100.0, "1 questions without 10 answers"),
        ("vqa", {"answers": ["cup"] * 10}, "cup", 100.0, "vqa own data, vqa_v2 rules"),
        ("gqa", {}, "cup", 100.0, "exact match"),
        ("nlvr2", {"images": ["l", "r"], "answers": ["true"]}, "true", 1.0, "exact match"),
    ],
)
def test_scores_follow_the_rules_of_the_task(
    task: str, given: dict[str, Any], right: str, best: float, protocol: str, file: Path
) -> None:
    write(file, line(**given))
    chosen = get_task(task)
    score = score_own_predictions({"k1": right}, file, chosen)
    assert score.metrics["accuracy"] == best
    assert score.per_example == {"k1": best}
    assert score.protocol.endswith(protocol) or protocol in score.protocol
    assert score_own_predictions({"k1": "wrong"}, file, chosen).metrics["accuracy"] == 0.0
    with pytest.raises(PredictionError, match="1 has no prediction"):
        score_own_predictions({}, file, chosen)


@pytest.mark.parametrize(
    ("task", "given", "best"),
    [
        ("vqa", {"answers": ["yes"]}, None),
        ("gqa", {"answers": ["yes"]}, 100.0),
        ("nlvr2", {"images": ["l", "r"], "answers": ["true"]}, 1.0),
    ],
)
def test_exact_match_scores_include_interval_and_majority(
    task: str, given: dict[str, Any], best: float | None, file: Path
) -> None:
    write(file, *(line(id=f"k{n}", **given) for n in range(20)))
    score = score_own_predictions({f"k{n}": "wrong" for n in range(20)}, file, get_task(task))
    beside = {"accuracy_interval", "majority_accuracy"} & score.metrics.keys()
    if best is None:
        assert not beside
        return
    assert score.metrics["majority_accuracy"] == best
    assert score.metrics["accuracy_interval"] == pytest.approx([0.0, 0.1611 * best], abs=1e-2)


def test_captions_are_scored_by_the_official_metrics(file: Path) -> None:
    if shutil.which("java") is None:
        pytest.skip("scoring needs java")
    lines = [line(id=f"k{n}", prompt=None, answers=[text]) for n, text in enumerate("ab")]
    write(file, *lines)
    score = score_own_predictions({"k0": "a", "k1": "b"}, file, get_task("caption"))
    assert score.metrics["bleu_1"] == pytest.approx(1)
    assert score.per_example.keys() == {"k0", "k1"}


def test_own_files_replace_the_splits(file: Path, tmp_path: Path) -> None:
    write(file, line(), line(id="k2"))
    task = with_own_files(get_task("vqa"), {"train": file, "val": file})
    assert task.splits == ("train", "val")
    assert task.load(tmp_path / "nowhere", "train").ids() == ["k1", "k2"]
    with pytest.raises(InputError, match="'test': expected one of: train, val"):
        task.load(tmp_path, "test")
    predictions = {"k1": "cup", "k2": "plate"}
    task.write_predictions(predictions, tmp_path / "predictions.json")
    assert task.read_predictions(tmp_path / "predictions.json") == predictions
    score = task.score(predictions, tmp_path / "nowhere", "val")
    assert score.metrics == {"accuracy": 50.0}


NLVR2 = get_task("nlvr2")
PAIR = {"images": ["l.png", "r.png"]}


def own_nlvr2(file: Path, *labels: str) -> Task:
    write(file, *(line(id=f"k{n}", answers=[label], **PAIR) for n, label in enumerate(labels)))
    return with_own_files(NLVR2, {"val": file})


def predicted(path: Path, *answers: str) -> Path:
    results = [{"id": f"k{n}", "answer": answer} for n, answer in enumerate(answers)]
    path.write_text(json.dumps(results), encoding="utf-8")
    return path


@pytest.mark.parametrize("label", ["True", "true", " True "])
@pytest.mark.parametrize("prediction", ["True", "true", " true\t"])
def test_labels_and_predictions_of_nlvr2_are_read_the_same_way(
    label: str, prediction: str, file: Path, tmp_path: Path
) -> None:
    task = own_nlvr2(file, label, "False")
    predictions = task.read_predictions(predicted(tmp_path / "p.json", prediction, "False"))
    assert task.score(predictions, tmp_path, "val").metrics["accuracy"] == 1.0


@pytest.mark.parametrize("answer", ["yes", "1", "TRUE", "True.", " ", "true false"])
def test_a_prediction_that_is_neither_word_is_an_error(
    answer: str, file: Path, tmp_path: Path
) -> None:
    task = own_nlvr2(file, "True", "False")
    with pytest.raises(PredictionError, match="the prediction of 'k1' is .*'true' or 'false'"):
        task.read_predictions(predicted(tmp_path / "p.json", "True", answer))


def test_other_answers_of_a_model_are_wrong_and_written_empty(file: Path, tmp_path: Path) -> None:
    task = own_nlvr2(file, "True", "False")
    answers = {"k0": "True", "k1": "a dog"}
    score = task.score(answers, tmp_path, "val")
    assert score.per_example == {"k0": 1.0, "k1": 0.0}
    task.write_predictions(answers, tmp_path / "p.json")
    again = task.read_predictions(tmp_path / "p.json")
    assert again == {"k0": "true", "k1": ""}
    assert task.score(again, tmp_path, "val").per_example == score.per_example


@pytest.mark.parametrize("label", ["cup", " cup", "cup\n"])
def test_spaces_around_labels_and_predictions_are_ignored(label: str, file: Path) -> None:
    write(file, line(answers=[label]))
    for prediction in ("cup", "cup ", "\tcup"):
        score = score_own_predictions({"k1": prediction}, file, get_task("gqa"))
        assert score.metrics["accuracy"] == 100.0


@pytest.mark.parametrize("prediction", ["Cup", "cup.", "CUP .", "cup . "])
def test_a_note_reports_points_lost_by_formatting(prediction: str, file: Path) -> None:
    write(file, line(), line(id="k2"), line(id="k3"), line(id="k4"))
    predictions = {"k1": prediction, "k2": "cup", "k3": "cups", "k4": "a cup"}
    score = score_own_predictions(predictions, file, get_task("gqa"))
    assert score.metrics["accuracy"] == 25.0, "the rules stay as they are"
    (note,) = score.notes
    assert note.startswith("1 of 4 predictions differ from a correct answer only in case, spaces")
    assert "costs 25.00 percentage points" in note
    right = dict.fromkeys(predictions, "cup")
    assert not score_own_predictions(right, file, get_task("gqa")).notes


def test_the_note_follows_the_rules_for_several_people(file: Path) -> None:
    """Ten identical answers are compared exactly, which is the official rule; others are not."""
    write(file, line(answers=["cup"] * 10), line(id="k2", answers=["cup"]))
    predictions = {"k1": "Cup.", "k2": "Cup."}
    score = score_own_predictions(predictions, file, get_task("vqa"))
    assert score.metrics["accuracy"] == 50.0
    assert score.notes[0].startswith("1 of 2 predictions")


def test_a_byte_order_mark_before_own_examples_is_skipped(file: Path) -> None:
    file.write_text(json.dumps(line()), encoding="utf-8-sig")
    assert load_own_examples(file, get_task("vqa")).ids() == ["k1"]
    file.write_text(json.dumps(line()), encoding="utf-16")
    with pytest.raises(FileFormatError, match="is UTF-16 text"):
        load_own_examples(file, get_task("vqa"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": 1, "id": 2}', "line 1 .*the key 'id' occurs more than once"),
        (r'{"id": "\ud800"}', "line 1.*not valid Unicode"),
    ],
)
def test_ambiguous_lines_are_refused(text: str, message: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(FileFormatError, match=message):
        load_own_examples(file, get_task("vqa"))


def test_concatenated_files_may_contain_several_byte_order_marks(file: Path) -> None:
    mark = "\ufeff"
    file.write_text("".join(f"{mark}{json.dumps(line(id=id_))}\n" for id_ in ("k1", "k2")))
    assert load_own_examples(file, get_task("vqa")).ids() == ["k1", "k2"]


def test_unicode_normalization_counts_as_formatting(file: Path) -> None:
    write(file, line(answers=["caf\u00e9"]))
    (note,) = score_own_predictions({"k1": "cafe\u0301"}, file, get_task("gqa")).notes
    assert note.startswith("1 of 1 predictions differ from a correct answer only in case")


@pytest.mark.parametrize("files", [None, 5, "own.jsonl", ["own.jsonl"], {}, {5: "a"}, {" ": "a"}])
def test_files_must_be_a_dictionary_of_splits(files: Any) -> None:
    with pytest.raises(InputError, match="files of examples are .*expected a dictionary of splits"):
        with_own_files(get_task("vqa"), files)


def test_the_file_of_a_split_must_be_a_path() -> None:
    with pytest.raises(InputError, match=r"the file of train is 5 \(int\): expected a path"):
        with_own_files(get_task("vqa"), {"train": 5})  # type: ignore[dict-item]


def test_a_task_name_is_not_a_task(file: Path) -> None:
    write(file, line())
    name: Any = "vqa"
    for call in (
        lambda: with_own_files(name, {"train": file}),
        lambda: load_own_examples(file, name),
        lambda: score_own_predictions({"k1": "cup"}, file, name),
    ):
        with pytest.raises(InputError, match=r"task is 'vqa' \(str\): expected a Task"):
            call()
