"""COCO captions: official files, examples, scores and error messages."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from eval.caption import CaptionScores
from eval.errors import FileFormatError, InputError
from tasks import Example
from tasks.caption import TASK

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "caption"
VAL = "annotations/captions_val2014.json"
KARPATHY = "dataset_coco.json"


def edit(root: Path, name: str, change: Callable[[Any], object]) -> None:
    file = root / "coco" / name
    document = json.loads(file.read_text(encoding="utf-8"))
    change(document)
    file.write_text(json.dumps(document), encoding="utf-8")


class Evaluator:
    """A stand-in for the metric that records its arguments."""

    def __init__(self) -> None:
        self.references: Mapping[str, Sequence[str]] = {}
        self.captions: Mapping[str, str] = {}
        self.strict = False

    def __call__(
        self,
        captions: Mapping[str, str],
        references: Mapping[str, Sequence[str]],
        *,
        strict_official: bool,
    ) -> CaptionScores:
        self.captions, self.references, self.strict = captions, references, strict_official
        return CaptionScores(
            metrics={"meteor": None, "cider": 1.5},
            per_image={"cider": dict.fromkeys(references, 1.5)},
            reasons={"meteor": "no Java"},
        )


@pytest.fixture
def evaluator(monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    evaluator = Evaluator()
    monkeypatch.setattr("tasks.caption.score_captions", evaluator)
    return evaluator


def test_training_splits_have_one_example_per_caption() -> None:
    examples = list(TASK.load(FIXTURE, "train2014"))
    assert [example.id for example in examples] == ["500", "502", "501", "503"]
    assert examples[2] == Example(
        id="501",
        image_ids=("COCO_train2014_000000000025",),
        prompt="caption: ",
        targets=(("A giraffe eats leaves from a tall tree.", 1.0),),
    )


def test_targets_are_stripped_but_otherwise_unchanged() -> None:
    targets = [example.targets[0][0] for example in TASK.load(FIXTURE, "train2014")]
    assert targets[0] == "A tray of fruit on a table."
    assert targets[1] == "Oranges and bread in\nfour plastic boxes."
    assert targets[3] == "two giraffes stand near a tree"


def test_validation_splits_have_one_example_per_image() -> None:
    examples = TASK.load(FIXTURE, "val2014")
    assert examples.ids() == ["42", "73", "74", "133"]
    assert examples[1].image_ids == ("COCO_val2014_000000000073",)
    assert examples[1].targets == (
        ("Two motorbikes stand outside an old garage.", 1.0),
        ("Two motorbikes stand outside an old garage!", 1.0),
    )


def test_test_images_have_no_captions_and_no_score() -> None:
    examples = list(TASK.load(FIXTURE, "test2014"))
    assert [example.id for example in examples] == ["1", "14"]
    assert [example.targets for example in examples] == [(), ()]
    assert examples[1].image_ids == ("COCO_test2014_000000000014",)
    with pytest.raises(InputError, match="not public"):
        TASK.score({"1": "a dog", "14": "a cat"}, FIXTURE, "test2014")


def test_karpathy_trains_on_restval_too() -> None:
    examples = TASK.load(FIXTURE, "karpathy_train")
    assert examples.ids() == ["902", "903", "904", "905"]
    assert examples.image_ids() == ["COCO_val2014_000000522418", "COCO_train2014_000000318219"]


def test_karpathy_test_is_keyed_by_the_coco_id() -> None:
    assert TASK.load(FIXTURE, "karpathy_val").ids() == ["184613"]
    examples = TASK.load(FIXTURE, "karpathy_test")
    assert examples.ids() == ["391895", "60623"]
    assert examples[0].targets[0] == ("A man rides a red moped on a dirt road.", 1.0)


@pytest.mark.parametrize(("split", "images"), [("val2014", 4), ("karpathy_test", 2)])
def test_the_metric_receives_raw_captions_in_file_order(
    evaluator: Evaluator, split: str, images: int
) -> None:
    examples = list(TASK.load(FIXTURE, split))
    predictions = {example.id: "a dog" for example in reversed(examples)}
    score = TASK.score(predictions, FIXTURE, split)
    assert len(examples) == images
    assert list(evaluator.references) == [example.id for example in examples]
    for example in examples:
        raw = evaluator.references[example.id]
        assert [text.strip() for text in raw] == [text for text, _ in example.targets]
    assert any(text.endswith(" ") for texts in evaluator.references.values() for text in texts)
    assert (evaluator.captions, evaluator.strict) == (predictions, False)
    assert score.metrics == {"meteor": None, "cider": 1.5}
    assert score.per_example == dict.fromkeys(evaluator.references, 1.5)
    assert score.reasons == {"meteor": "no Java"}
    assert score.protocol == "coco_captions official"


def test_strict_scoring_reaches_the_metric(evaluator: Evaluator, tmp_path: Path) -> None:
    TASK.write_predictions({"184613": "two cows"}, tmp_path / "results.json")
    assert TASK.score_strictly is not None
    TASK.score_strictly(tmp_path / "results.json", FIXTURE, "karpathy_val")
    assert (evaluator.captions, evaluator.strict) == ({"184613": "two cows"}, True)


def test_a_training_split_cannot_be_scored() -> None:
    with pytest.raises(InputError, match="karpathy_train is a training split.*karpathy_val"):
        TASK.score({"902": "a cake"}, FIXTURE, "karpathy_train")


def first(table: str, name: str, value: object) -> Callable[[Any], object]:
    """Set a field of the first image or annotation."""

    def change(document: Any) -> None:
        if value is None:
            del document[table][0][name]
        else:
            document[table][0][name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first("images", "id", "42"), r"images\[0\] has id '42', a string"),
        (first("images", "id", 73), r"1 value of id occurs more than once \(73\)"),
        (first("images", "file_name", None), r"images\[0\] has no 'file_name'"),
        (first("annotations", "id", 701), r"1 value of id occurs more than once \(701\)"),
        (
            first("annotations", "image_id", 5),
            r"captions of 1 image not listed in 'images' \(5\)",
        ),
        (first("annotations", "caption", 5), r"annotations\[0\] has caption 5, an integer"),
        (first("annotations", "caption", "\ud83d"), "not valid Unicode"),
        (lambda document: document["images"].pop(), r"captions of 1 image not.*\(133\)"),
        (lambda document: document["images"].clear(), "captions of 4 images not listed"),
        (lambda document: document.pop("annotations"), "has no 'annotations'"),
        (lambda document: document.update(images=[], annotations=[]), "no images of val2014"),
        (
            lambda document: document["images"].append({"id": 9, "file_name": "9.jpg"}),
            r"1 image has no caption \(9\)",
        ),
    ],
)
def test_malformed_files_are_explained(
    root: Path, cache: Path, change: Callable[[Any], object], message: str
) -> None:
    edit(root, VAL, change)
    with pytest.raises(FileFormatError, match=message):
        TASK.load(root, "val2014")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first("images", "cocoid", None), r"images\[0\] has no 'cocoid'"),
        (first("images", "split", 3), r"images\[0\] has split 3, an integer"),
        (first("images", "sentences", [{"raw": "a"}]), r"images\[0\].sentences\[0\] has no 'sent"),
        (first("images", "sentences", []), r"1 image has no caption \(391895\)"),
        (lambda document: document.update(images=[]), "no images of karpathy_test"),
    ],
)
def test_malformed_karpathy_files_are_explained(
    root: Path, change: Callable[[Any], object], message: str
) -> None:
    edit(root, KARPATHY, change)
    with pytest.raises(FileFormatError, match=message):
        TASK.load(root, "karpathy_test")


def test_settings_are_those_of_the_paper() -> None:
    assert (TASK.heads, TASK.loss_average) == (("generate",), "tokens")
    assert TASK.max_answer_tokens == 40


def test_real_captions_load(shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "coco" / "annotations"
    folder.mkdir(parents=True)
    real = shared_data / "reference/evaluators/coco/captions_real.json"
    shutil.copy(real, folder / "captions_val2014.json")
    examples = list(TASK.load(tmp_path / "data", "val2014"))
    assert len(examples) == 1000
    assert sum(len(example.targets) for example in examples) == 5004
