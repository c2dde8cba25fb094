"""WNLI: whether a sentence with a resolved pronoun follows from a text.

The LST paper does not use it; submissions require it.
"""

from tasks._files import SplitSize
from tasks._glue import GlueFiles, data_files, glue_task
from tasks._glue_files import Columns
from tasks._glue_labels import BINARY, Classes
from tasks._glue_splits import HALVES_OF_DEV

__all__ = ["TASK"]

TEXTS = ("sentence1", "sentence2")

TASK = glue_task(
    name="wnli",
    files=GlueFiles(
        files=data_files("WNLI", "WNLI.zip", paper=HALVES_OF_DEV),
        labelled=Columns(texts=TEXTS, label="label", ids="index"),
        unlabelled=Columns(texts=TEXTS, ids="index"),
    ),
    sizes={"train": SplitSize(635), "dev": SplitSize(71), "test": SplitSize(146)},
    paper=HALVES_OF_DEV,
    text_format="sentence1: {} sentence2: {}",
    labels=Classes(BINARY, placeholder="0", names=("not_entailment", "entailment")),
    submission={"test": "WNLI"},
)
