"""NLVR2: whether a sentence is true of a pair of photographs.

`FILES` lists the files below the data root, under their official names. LXMERT's lists of
statements are read too: `train.json` may be one, and `valid.json` and `test.json` replace missing
`dev.json` and `test1.json`.

Models answer "true" or "false". Predictions files contain "True" or "False", and an empty label for
any other answer, which is always wrong.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.errors import FileFormatError, InputError
from eval.intervals import accuracy_in_context
from eval.metrics import Metric
from eval.nlvr2 import LABELS, read_label_lines, score_nlvr2
from eval.outputs import atomic_path
from eval.submissions import first_five
from eval.text import counted
from tasks._arrow import cached_examples
from tasks._examples import Example, ExampleTable
from tasks._files import DataFile, Source, SplitSize
from tasks._records import Records, begins_as_list, read_json_lines, read_records
from tasks._task import HubDataset, Score, Submission, Task

__all__ = ["FILES", "SIZES", "TASK"]

SPLITS = ("train", "dev", "test1", "test2")
LXMERT_FILES = {"dev": "valid.json", "test1": "test.json"}
SUBSETS = ("balanced", "unbalanced")

HOST = "https://raw.githubusercontent.com/lil-lab/nlvr/master/nlvr2/data/"
FILES = (
    *(
        DataFile(
            path=f"nlvr2/{split}.json",
            splits=(split,),
            source=Source(f"{HOST}{split}.json"),
            alternatives=(f"nlvr2/{LXMERT_FILES[split]}",) if split in LXMERT_FILES else (),
        )
        for split in SPLITS
    ),
    *(
        DataFile(
            path=f"nlvr2/{subset}/{subset}_{split}.json",
            splits=(split,),
            source=Source(f"{HOST}{subset}/{subset}_{split}.json"),
            alternatives=(f"nlvr2/{subset}_{split}.json",),
            optional=f"scores of the {subset} subset",
        )
        for split in SPLITS[1:]
        for subset in SUBSETS
    ),
)
# Each pair has two images.
SIZES = {
    "train": SplitSize(86_373),
    "dev": SplitSize(6_982, 2 * 4_051),
    "test1": SplitSize(6_967, 2 * 4_041),
    "test2": SplitSize(6_970, 2 * 4_074),
}

WORD_OF_LABEL = {label: label.lower() for label in LABELS}
LABEL_OF_WORD = {word: label for label, word in WORD_OF_LABEL.items()}
NUM_IDENTIFIER_PARTS = 4


@dataclass(frozen=True, slots=True)
class _Statement:
    id: str
    sentence: str
    label: str | None

    def image_ids(self) -> tuple[str, str]:
        pair = self.id.rpartition("-")[0]
        return f"{pair}-img0", f"{pair}-img1"


def _split_file(data_root: Path, split: str) -> Path:
    if split not in SPLITS:
        raise TASK.unknown_split(split)
    official = data_root / "nlvr2" / f"{split}.json"
    if split in LXMERT_FILES and not official.exists():
        lxmert = official.with_name(LXMERT_FILES[split])
        if lxmert.exists():
            return lxmert
    return official


def _read_statements(path: Path) -> list[_Statement]:
    if begins_as_list(path, expected="NLVR2 statements"):
        records = read_records(path, expected="the statements in LXMERT's format")
        read_one = _lxmert_statement
    else:
        records = read_json_lines(path, expected="the official NLVR2 statements")
        read_one = _official_statement
    statements = [read_one(records, position) for position in range(len(records))]
    if not statements:
        raise FileFormatError(f"{path} contains no statements; expected at least one")
    records.require_distinct("identifier", [statement.id for statement in statements])
    unlabelled = [statement.id for statement in statements if statement.label is None]
    if 0 < len(unlabelled) < len(statements):
        raise FileFormatError(
            f"{path}: {len(unlabelled):,} of {len(statements):,} statements have no label "
            f"({first_five(unlabelled)}); expected labels for all statements or for none"
        )
    return statements


def _official_statement(records: Records, position: int) -> _Statement:
    identifier = _identifier(records, position)
    label = None
    if "label" in records.rows[position]:
        label = records.field(position, "label", str)
        if label not in LABELS:
            raise records.problem(
                position, f"has label {label!r:.40}; expected 'True' or 'False', capitalized"
            )
    return _Statement(identifier, records.field(position, "sentence", str), label)


def _lxmert_statement(records: Records, position: int) -> _Statement:
    identifier = _identifier(records, position)
    label = None
    if "label" in records.rows[position]:
        number = records.field(position, "label", int)
        if number not in (0, 1):
            raise records.problem(position, f"has label {number}; expected 1 (true) or 0 (false)")
        label = LABELS[1 - number]
    return _Statement(identifier, records.field(position, "sent", str), label)


def _identifier(records: Records, position: int) -> str:
    identifier = records.field(position, "identifier", str)
    if len(identifier.split("-")) != NUM_IDENTIFIER_PARTS:
        raise records.problem(
            position,
            f"has identifier {identifier!r:.60}; expected split-set-pair-sentence, such as "
            "dev-850-0-0",
        )
    return identifier


def _read_examples(data_root: Path, split: str) -> ExampleTable:
    path = _split_file(data_root, split)

    def examples() -> Iterator[Example]:
        for statement in _read_statements(path):
            label = statement.label
            yield Example(
                id=statement.id,
                image_ids=statement.image_ids(),
                prompt=statement.sentence,
                targets=() if label is None else ((WORD_OF_LABEL[label], 1.0),),
            )

    return cached_examples(f"nlvr2-{split}", [path], examples)


def _score(
    predictions: Mapping[str, str], data_root: Path, split: str, *, strict_official: bool = False
) -> Score:
    path = _split_file(data_root, split)
    labels = _labels_of(path, _read_statements(path))
    scores = score_nlvr2(predictions, labels, strict_official=strict_official)
    metrics: dict[str, object] = {"accuracy": scores.accuracy}
    if not strict_official:
        metrics |= accuracy_in_context(list(scores.per_example.values()), list(labels.values()))
    metrics["consistency"] = scores.consistency
    reasons: dict[str, str] = {}
    for subset in SUBSETS:
        names = (f"{subset}_accuracy", f"{subset}_consistency")
        subset_labels = _subset_labels(data_root, f"{subset}_{split}.json", subset, labels)
        if subset_labels is None:
            metrics |= dict.fromkeys(names)
            reasons |= dict.fromkeys(
                names,
                f"there is no {subset}_{split}.json below {data_root / 'nlvr2'}; the data set's "
                f"repository has it in nlvr2/data/{subset}, for all splits except train",
            )
            continue
        part = score_nlvr2({id_: predictions[id_] for id_ in subset_labels}, subset_labels)
        metrics |= dict(zip(names, (part.accuracy, part.consistency), strict=True))
    return Score(
        metrics=metrics,
        examples=len(labels),
        per_example={id_: float(correct) for id_, correct in scores.per_example.items()},
        protocol="nlvr2 official script" if strict_official else "nlvr2 official",
        reasons=reasons,
    )


def _set_of(example: Example) -> str:
    """Return the set of an example, whose pairs show images of one search and share sentences."""
    return "-".join(example.id.split("-")[:2])


def _labels_of(path: Path, statements: Sequence[_Statement]) -> dict[str, str]:
    labels = {each.id: each.label for each in statements if each.label is not None}
    if not labels:
        raise InputError(
            f"{path} has no labels to score against; the data set's repository has a file with "
            "labels for each of the four splits"
        )
    return labels


def _subset_labels(
    data_root: Path, name: str, subset: str, labels: Mapping[str, str]
) -> dict[str, str] | None:
    folder = data_root / "nlvr2"
    for path in (folder / name, folder / subset / name):
        if path.exists():
            subset_labels = _labels_of(path, _read_statements(path))
            if unknown := [id_ for id_ in subset_labels if id_ not in labels]:
                raise FileFormatError(
                    f"{path}: {counted(len(unknown), 'statement is', 'statements are')} not in "
                    f"the split ({first_five(unknown)}); expected a subset of it"
                )
            return subset_labels
    return None


def _read_predictions(path: Path) -> dict[str, str]:
    return {id_: label.lower() for id_, label in read_label_lines(path).items()}


def _write_predictions(predictions: Mapping[str, str], path: Path) -> None:
    # Scoring ignores case too.
    labels = {id_: LABEL_OF_WORD.get(word.lower(), "") for id_, word in predictions.items()}
    lines = [f"{id_},{label}\n" for id_, label in labels.items()]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def _score_strictly(path: Path, data_root: Path, split: str) -> Score:
    predictions = read_label_lines(path, strict_official=True)
    return _score(predictions, data_root, split, strict_official=True)


TASK = Task(
    name="nlvr2",
    prompt_prefix="nlvr: ",
    splits=SPLITS,
    heads=("classify", "generate"),
    read_examples=_read_examples,
    score=_score,
    read_predictions=_read_predictions,
    write_predictions=_write_predictions,
    score_strictly=_score_strictly,
    metric=Metric("accuracy", factor=100.0),
    predictions_suffix=".csv",
    batch_share=20 / 60,
    answer_words=tuple(LABEL_OF_WORD),
    files=FILES,
    sizes=SIZES,
    hub_dataset=HubDataset("HuggingFaceM4/NLVR2", "NLVR2"),
    submission=Submission(
        server="the organisers (https://lil.nlp.cornell.edu/nlvr)",
        splits=("dev", "test1", "test2"),
        file_name="nlvr2_{split}_{name}.csv",
    ),
    images_per_example=2,
    cluster_of=_set_of,
    # No paper has one: published models are trained on the task.
    zero_shot_prompt="{} True or false?",
)
