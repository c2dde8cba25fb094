"""CoLA: whether a sentence is acceptable English.

`glue/CoLA/{train,dev}.tsv` have no header; their columns are the source, the label, the mark of the
source (`*` or nothing) and the sentence.
"""

from tasks._files import SplitSize
from tasks._glue import GlueFiles, data_files, glue_task
from tasks._glue_files import Columns
from tasks._glue_labels import BINARY, Classes
from tasks._glue_splits import HALVES_OF_DEV

__all__ = ["TASK"]

TASK = glue_task(
    name="cola",
    files=GlueFiles(
        files=data_files("CoLA", "CoLA.zip", paper=HALVES_OF_DEV),
        labelled=Columns(
            texts=("sentence",), label="label", names=("source", "label", "mark", "sentence")
        ),
        unlabelled=Columns(texts=("sentence",), ids="index"),
    ),
    sizes={"train": SplitSize(8_551), "dev": SplitSize(1_043), "test": SplitSize(1_063)},
    paper=HALVES_OF_DEV,
    text_format="sentence: {}",
    labels=Classes(BINARY, placeholder="1", names=("unacceptable", "acceptable")),
    submission={"test": "CoLA"},
)
