"""STS-B: how similar two sentences are, from 0 to 5.

Models learn scores rounded to tenths. The predictions on `train` and `dev` are compared with the
scores of the file, as on the test server; those on the paper's splits with the rounded scores, as
in the paper.
"""

from tasks._files import SplitSize
from tasks._glue import GlueFiles, data_files, glue_task
from tasks._glue_files import Columns
from tasks._glue_labels import Similarity
from tasks._glue_splits import HALVES_OF_DEV

__all__ = ["TASK"]

TEXTS = ("sentence1", "sentence2")

TASK = glue_task(
    name="stsb",
    files=GlueFiles(
        files=data_files("STS-B", "STS-B.zip", paper=HALVES_OF_DEV),
        labelled=Columns(texts=TEXTS, label="score", ids="index"),
        unlabelled=Columns(texts=TEXTS, ids="index"),
    ),
    sizes={"train": SplitSize(5_749), "dev": SplitSize(1_500), "test": SplitSize(1_379)},
    paper=HALVES_OF_DEV,
    text_format="sentence1: {} sentence2: {}",
    labels=Similarity(),
    submission={"test": "STS-B"},
    heads=("generate", "regress"),
    value_range=(0.0, 5.0),
    # Three for the tokenizer of the paper; others divide a number at its decimal point.
    max_answer_tokens=6,
)
