"""QNLI: whether a sentence of Wikipedia contains the answer to a question.

The class 0 is entailment.
"""

from tasks._files import SplitSize
from tasks._glue import GlueFiles, data_files, glue_task
from tasks._glue_files import Columns
from tasks._glue_labels import Classes
from tasks._glue_splits import HELD_OUT_OF_TRAIN

__all__ = ["TASK"]

TEXTS = ("question", "sentence")

TASK = glue_task(
    name="qnli",
    files=GlueFiles(
        files=data_files("QNLI", "QNLIv2.zip", paper=HELD_OUT_OF_TRAIN),
        labelled=Columns(texts=TEXTS, label="label", ids="index"),
        unlabelled=Columns(texts=TEXTS, ids="index"),
    ),
    # The second version, of January 2019.
    sizes={"train": SplitSize(104_743), "dev": SplitSize(5_463), "test": SplitSize(5_463)},
    paper=HELD_OUT_OF_TRAIN,
    text_format="question: {} sentence: {}",
    # The classes are equally frequent.
    labels=Classes({"0": "entailment", "1": "not_entailment"}, placeholder="1"),
    submission={"test": "QNLI"},
)
