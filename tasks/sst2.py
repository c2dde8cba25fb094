"""SST-2: whether a phrase (in train) or a sentence (in dev and test) of a film review is positive.

Every text ends with a space, which is kept.
"""

from tasks._files import SplitSize
from tasks._glue import GlueFiles, data_files, glue_task
from tasks._glue_files import Columns
from tasks._glue_labels import BINARY, Classes
from tasks._glue_splits import HELD_OUT_OF_TRAIN

__all__ = ["TASK"]

TASK = glue_task(
    name="sst2",
    files=GlueFiles(
        files=data_files("SST-2", "SST-2.zip", paper=HELD_OUT_OF_TRAIN),
        labelled=Columns(texts=("sentence",), label="label"),
        unlabelled=Columns(texts=("sentence",), ids="index"),
    ),
    sizes={"train": SplitSize(67_349), "dev": SplitSize(872), "test": SplitSize(1_821)},
    paper=HELD_OUT_OF_TRAIN,
    text_format="sentence: {}",
    labels=Classes(BINARY, placeholder="1", names=("negative", "positive")),
    submission={"test": "SST-2"},
)
