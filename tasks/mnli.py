"""MNLI: whether a hypothesis follows from a premise, contradicts it, or neither.

`dev_mismatched` and `test_mismatched` are of other genres than `train`. There is no colon after
"hypothesis" in prompts of the LST paper.
"""

from tasks._files import SplitSize
from tasks._glue import GlueFiles, data_files, glue_task
from tasks._glue_files import Columns
from tasks._glue_labels import Classes
from tasks._glue_splits import PaperSplit

__all__ = ["LABELS", "TASK", "TEXT_FORMAT"]

TEXTS = ("sentence1", "sentence2")
TEXT_FORMAT = "premise: {} hypothesis {}"
# The classes are equally frequent.
LABELS = Classes({"0": "entailment", "1": "neutral", "2": "contradiction"}, placeholder="2")
SIZES = {
    "train": SplitSize(392_702),
    "dev_matched": SplitSize(9_815),
    "dev_mismatched": SplitSize(9_832),
    "test_matched": SplitSize(9_796),
    "test_mismatched": SplitSize(9_847),
}
PAPER = {
    "paper_train": PaperSplit("train"),
    "paper_validation": PaperSplit("dev_mismatched"),
    "paper_test": PaperSplit("dev_matched"),
}

TASK = glue_task(
    name="mnli",
    files=GlueFiles(
        files=data_files("MNLI", "MNLI.zip", splits=tuple(SIZES), paper=PAPER),
        labelled=Columns(texts=TEXTS, label="gold_label", ids="index"),
        unlabelled=Columns(texts=TEXTS, ids="index"),
    ),
    sizes=SIZES,
    paper=PAPER,
    text_format=TEXT_FORMAT,
    labels=LABELS,
    submission={"test_matched": "MNLI-m", "test_mismatched": "MNLI-mm"},
)
