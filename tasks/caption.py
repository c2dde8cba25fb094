"""COCO captions: describe one photograph.

`FILES` lists the files below the data root, under their official names.

A training split has one example per caption, whose ID is the caption's ("id", Karpathy's
"sentid"). Every other split has one example per image, whose ID is the image's ("id", Karpathy's
"cocoid"): a model generates one caption per image, which is compared with all its references.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from eval._java import JavaError, run_java
from eval.caption import score_captions
from eval.errors import FileFormatError, InputError
from eval.metrics import Metric
from eval.submissions import first_five
from eval.text import counted
from tasks import _karpathy
from tasks._arrow import cached_examples
from tasks._examples import Example, ExampleTable
from tasks._files import DataFile, Source, SplitSize
from tasks._records import Records, read_records
from tasks._results import ResultsFormat
from tasks._task import HubDataset, Score, Submission, Task

__all__ = ["FILES", "SIZES", "TASK"]

# In the paper's code the prefix is the whole prompt.
PROMPT = ""
OFFICIAL_FILES = {
    "train2014": "coco/annotations/captions_train2014.json",
    "val2014": "coco/annotations/captions_val2014.json",
    "test2014": "coco/annotations/image_info_test2014.json",
    "test2015": "coco/annotations/image_info_test2015.json",
}
TRAINING_SPLITS = frozenset({"train2014", "karpathy_train"})
UNCAPTIONED_SPLITS = frozenset({"test2014", "test2015"})
METRIC = Metric("cider", factor=100.0)
JAVA_TIMEOUT_SECONDS = 60.0

HOST = "http://images.cocodataset.org/annotations/"
FILES = (
    *(
        DataFile(path=OFFICIAL_FILES[split], splits=(split,), source=Source(f"{HOST}{archive}.zip"))
        for split, archive in (
            ("train2014", "annotations_trainval2014"),
            ("val2014", "annotations_trainval2014"),
            ("test2014", "image_info_test2014"),
            ("test2015", "image_info_test2015"),
        )
    ),
    DataFile(path=_karpathy.FILE, splits=tuple(_karpathy.MARKS), source=_karpathy.SOURCE),
)
# Examples are captions in the training splits and images in the others.
SIZES = {
    "train2014": SplitSize(414_113, 82_783),
    "val2014": SplitSize(40_504, 40_504),
    "test2014": SplitSize(40_775, 40_775),
    "test2015": SplitSize(81_434, 81_434),
    "karpathy_train": SplitSize(566_747, 113_287),
    "karpathy_val": SplitSize(5_000, 5_000),
    "karpathy_test": SplitSize(5_000, 5_000),
}

RESULTS = ResultsFormat(
    id_field="image_id",
    answer_field="caption",
    sample='[{"image_id": 42, "caption": "a dog"}]',
    id_kind=int,
)


@dataclass(frozen=True, slots=True)
class _Image:
    id: int
    name: str
    captions: Mapping[int, str]


def _source(data_root: Path, split: str) -> Path:
    if split in OFFICIAL_FILES:
        return data_root / OFFICIAL_FILES[split]
    if split in _karpathy.MARKS:
        return data_root / _karpathy.FILE
    raise TASK.unknown_split(split)


def _images(source: Path, split: str) -> list[_Image]:
    if split in _karpathy.MARKS:
        images = _karpathy_images(source, _karpathy.MARKS[split])
    else:
        images = _official_images(source, captioned=split not in UNCAPTIONED_SPLITS)
    if not images:
        raise FileFormatError(f"{source} contains no images of {split}; expected at least one")
    uncaptioned = [image.id for image in images if not image.captions]
    if uncaptioned and split not in UNCAPTIONED_SPLITS:
        raise FileFormatError(
            f"{source}: {counted(len(uncaptioned), 'image has', 'images have')} no caption "
            f"({first_five(uncaptioned)}); expected at least one per image"
        )
    return images


def _official_images(source: Path, *, captioned: bool) -> list[_Image]:
    expected = "the official COCO captions" if captioned else "the official COCO image list"
    records = read_records(source, expected=expected, key="images")
    captions = _official_captions(source, expected) if captioned else {}
    images = [
        _Image(
            id=id_,
            name=PurePosixPath(records.field(position, "file_name", str)).stem,
            captions=captions.pop(id_, {}),
        )
        for position, id_ in enumerate(records.ids("id"))
    ]
    if captions:
        raise FileFormatError(
            f"{source} contains captions of {counted(len(captions), 'image')} not listed in "
            f"'images' ({first_five(captions)}); expected all images there"
        )
    return images


def _official_captions(source: Path, expected: str) -> dict[int, dict[int, str]]:
    records = read_records(source, expected=expected, key="annotations")
    captions: dict[int, dict[int, str]] = {}
    for position, id_ in enumerate(records.ids("id")):
        of_image = captions.setdefault(records.field(position, "image_id", int), {})
        of_image[id_] = records.field(position, "caption", str)
    return captions


def _karpathy_images(source: Path, marks: Sequence[str]) -> list[_Image]:
    records = read_records(source, expected="Karpathy's splits of COCO", key="images")
    ids = records.ids("cocoid")
    chosen = [p for p in range(len(records)) if records.field(p, "split", str) in marks]
    return [
        _Image(
            id=ids[position],
            name=PurePosixPath(records.field(position, "filename", str)).stem,
            captions=_karpathy_captions(records, position),
        )
        for position in chosen
    ]


def _karpathy_captions(records: Records, position: int) -> dict[int, str]:
    sentences = records.field(position, "sentences", list)
    of_image = Records(records.path, f"{records.name}[{position}].sentences", sentences)
    return {id_: of_image.field(n, "raw", str) for n, id_ in enumerate(of_image.ids("sentid"))}


def _read_examples(data_root: Path, split: str) -> ExampleTable:
    source = _source(data_root, split)

    def examples() -> Iterator[Example]:
        for image in _images(source, split):
            targets = {id_: (text.strip(), 1.0) for id_, text in image.captions.items()}
            if split in TRAINING_SPLITS:
                for id_, target in targets.items():
                    yield Example(str(id_), (image.name,), PROMPT, (target,))
            else:
                yield Example(str(image.id), (image.name,), PROMPT, tuple(targets.values()))

    return cached_examples(f"caption-{split}", [source], examples)


def _score(
    predictions: Mapping[str, str], data_root: Path, split: str, *, strict_official: bool = False
) -> Score:
    source = _source(data_root, split)
    if split in UNCAPTIONED_SPLITS:
        raise TASK.unlabelled_split(split)
    if split in TRAINING_SPLITS:
        raise InputError(
            f"caption {split} is a training split, whose examples are captions, not images; score "
            f"{' or '.join(name for name in TASK.splits if name not in TRAINING_SPLITS)}"
        )
    references = {str(image.id): list(image.captions.values()) for image in _images(source, split)}
    scores = score_captions(predictions, references, strict_official=strict_official)
    return Score(
        metrics=scores.metrics,
        examples=len(references),
        per_example=scores.per_image.get(METRIC.name, {}),
        protocol="coco_captions official",
        reasons=scores.reasons,
    )


def _require_java() -> None:
    try:
        with TemporaryDirectory() as folder:
            run_java("Java", ["-version"], folder=Path(folder), time_limit=JAVA_TIMEOUT_SECONDS)
    except JavaError as error:
        raise InputError(f"captions cannot be scored here; {METRIC.name}: {error}") from None


def _score_strictly(path: Path, data_root: Path, split: str) -> Score:
    return _score(RESULTS.read(path), data_root, split, strict_official=True)


TASK = Task(
    name="caption",
    prompt_prefix="caption: ",
    splits=(*OFFICIAL_FILES, *_karpathy.MARKS),
    heads=("generate",),
    read_examples=_read_examples,
    score=_score,
    read_predictions=RESULTS.read,
    write_predictions=RESULTS.write,
    score_strictly=_score_strictly,
    metric=METRIC,
    require_evaluator=_require_java,
    takes_text=False,
    # Of BLIP-2 (arXiv 2301.12597, section 4.2).
    zero_shot_prompt="a photo of",
    batch_share=50 / 60,
    loss_average="tokens",
    max_answer_tokens=40,
    beams=5,
    answers_are="references",
    files=FILES,
    sizes=SIZES,
    hub_dataset=HubDataset("yerevann/coco-karpathy", "COCO captions"),
    hub_task="image-to-text",
    submission=Submission(
        server="COCO (https://cocodataset.org/#captions-leaderboard)",
        splits=("val2014", "test2014"),
        file_name="captions_{split}_{name}_results.json",
        archive_name="captions_{name}_results.zip",
    ),
)
