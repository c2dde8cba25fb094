"""AX: GLUE's diagnostic examples, which a model of MNLI answers.

There is nothing to train on and the answers are secret; submissions require the file.
"""

from tasks._files import DataFile, Source, SplitSize
from tasks._glue import HOST, GlueFiles, glue_task
from tasks._glue_files import Columns
from tasks.mnli import LABELS, TEXT_FORMAT

__all__ = ["TASK"]

COLUMNS = Columns(texts=("sentence1", "sentence2"), ids="index")
FILE = DataFile(
    path="glue/AX/AX.tsv",
    splits=("test",),
    source=Source(f"{HOST}AX.tsv"),
    alternatives=(
        "glue/AX/test.tsv",
        "glue/AX/diagnostic.tsv",
        "glue/diagnostic/diagnostic.tsv",
        "glue/diagnostic/AX.tsv",
    ),
)

TASK = glue_task(
    name="ax",
    files=GlueFiles(files={"test": FILE}, labelled=COLUMNS, unlabelled=COLUMNS),
    sizes={"test": SplitSize(1_104)},
    paper={},
    text_format=TEXT_FORMAT,
    labels=LABELS,
    submission={"test": "AX"},
    prompt_prefix="mnli ",
)
