"""QQP: whether two questions of Quora's users ask the same.

Some copies contain broken rows. Rows of train and dev that lack a question or the label are
skipped.
"""

from tasks._files import SplitSize
from tasks._glue import GlueFiles, data_files, glue_task
from tasks._glue_files import Columns
from tasks._glue_labels import BINARY, Classes
from tasks._glue_splits import HELD_OUT_OF_TRAIN

__all__ = ["TASK"]

QUESTIONS = ("question1", "question2")

TASK = glue_task(
    name="qqp",
    files=GlueFiles(
        files=data_files("QQP", "QQP-clean.zip", paper=HELD_OUT_OF_TRAIN),
        labelled=Columns(texts=QUESTIONS, label="is_duplicate", ids="id", skips_incomplete=True),
        unlabelled=Columns(texts=QUESTIONS, ids="id"),
    ),
    sizes={"train": SplitSize(363_846), "dev": SplitSize(40_430), "test": SplitSize(390_965)},
    paper=HELD_OUT_OF_TRAIN,
    text_format="question1: {} question2: {}",
    labels=Classes(BINARY, placeholder="0", names=("not duplicate", "duplicate")),
    submission={"test": "QQP"},
)
