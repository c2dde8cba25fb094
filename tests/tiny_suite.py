"""A tiny GLUE in the official layout, and a random T5 that knows the digits of its answers."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tiny_t5 import write_t5

from tasks import SUITES

FIXTURES = Path(__file__).parent / "fixtures"
WORDS = "<pad> </s> <unk> 0 1 2 5.0 2.4 sentence: sentence1: sentence2: A a bird sings.".split()


@dataclass(frozen=True)
class TinySuite:
    """Paths of a tiny suite.

    Args:
        root: Data root, with `glue/`.
        backbone: Folder of the T5.
    """

    root: Path
    backbone: Path

    def train_arguments(self, out: Path, *more: str) -> list[str]:
        """Return command line arguments that train all tasks in a few seconds."""
        return [
            *("train", "--task", "glue", "--data-root", str(self.root), "--out", str(out)),
            *("--backbone", str(self.backbone), "--method", "lst", "--quiet"),
            *("--set", "method.options.reduction=2", "--set", "training.steps=2"),
            *("--set", "training.batch_size=2", "--set", "training.evaluation_batch_size=4"),
            *("--set", "training.workers=0", "--set", "training.device=cpu", *more),
        ]


def make_suite(folder: Path) -> TinySuite:
    """Write a suite into an empty folder."""
    root = write_suite_data(folder / "data")
    small = {"d_model": 8, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
    return TinySuite(root, write_t5(folder / "t5", WORDS, **small))


def write_suite_data(root: Path) -> Path:
    """Write the official files of all tasks below a data root, which is returned."""
    for task in (*SUITES["glue"], "ax", "wnli"):
        shutil.copytree(FIXTURES / task / "glue", root / "glue", dirs_exist_ok=True)
    return root
