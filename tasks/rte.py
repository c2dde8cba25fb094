"""RTE: whether a sentence follows from a text.

The class 0 is entailment.
"""

from tasks._files import SplitSize
from tasks._glue import GlueFiles, data_files, glue_task
from tasks._glue_files import Columns
from tasks._glue_labels import Classes
from tasks._glue_splits import HALVES_OF_DEV

__all__ = ["TASK"]

TEXTS = ("sentence1", "sentence2")

TASK = glue_task(
    name="rte",
    files=GlueFiles(
        files=data_files("RTE", "RTE.zip", paper=HALVES_OF_DEV),
        labelled=Columns(texts=TEXTS, label="label", ids="index"),
        unlabelled=Columns(texts=TEXTS, ids="index"),
    ),
    sizes={"train": SplitSize(2_490), "dev": SplitSize(277), "test": SplitSize(3_000)},
    paper=HALVES_OF_DEV,
    text_format="sentence1: {} sentence2: {}",
    labels=Classes({"0": "entailment", "1": "not_entailment"}, placeholder="0"),
    submission={"test": "RTE"},
)
