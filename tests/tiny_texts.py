"""A tiny world of text alone: RTE and STS-B in the official layout, and a T5 of its words."""

from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

from tiny_run import COLOURS, QUESTIONS, tiny_recipe
from tiny_t5 import write_t5

from vl_lst.recipes import Recipe

THINGS = ("cup", "hat")
# Training and validation share no pair, though their line numbers are the same.
SPLIT_SIZES = {"train": 24, "dev": 12, "test": 0}
TEST_SIZE = 4
SCORES = ("5.0", "2.4", "1.0", "0.0")
SPECIAL = ("<pad>", "</s>", "<unk>")
# The words of these tasks and of the tiny world's VQA.
WORDS = (
    *(*SPECIAL, "rte", "stsb", "vqa:", "sentence1:", "sentence2:", "0", "1", *SCORES),
    *dict.fromkeys(" ".join(QUESTIONS).split()),
    *("yes", "no", "maybe", "a", *COLOURS, *THINGS),
)
STSB_HEADER = "index genre filename year old_index source1 source2 sentence1 sentence2 score"


@dataclass(frozen=True)
class TextWorld:
    """Paths of a tiny world of text.

    Args:
        root: Data root, with `glue/`.
        backbone: Folder of the T5.
    """

    root: Path
    backbone: Path

    def recipe(self, task: str = "rte", **overrides: object) -> Recipe:
        """Return a recipe that trains in a second; `training__steps=3` sets `training.steps`."""
        fields = {
            "task": task,
            "data": {"root": str(self.root)},
            "backbone": {"name": str(self.backbone)},
        }
        return tiny_recipe(fields, overrides)

    def train_arguments(self, out: Path, *more: str, task: str = "rte") -> list[str]:
        """Return command line arguments that train the same recipe."""
        return [
            *("train", "--task", task, "--data-root", str(self.root), "--out", str(out)),
            *("--backbone", str(self.backbone), "--method", "lst", "--quiet"),
            *("--set", "method.options.reduction=2", "--set", "training.epochs=2"),
            *("--set", "training.batch_size=8", "--set", "training.device=cpu"),
            *("--set", "training.workers=0", *more),
        ]


def write_text_world(folder: Path) -> TextWorld:
    """Write a world into an empty folder."""
    write_text_tasks(folder / "data")
    return TextWorld(folder / "data", write_t5(folder / "t5", WORDS))


def write_text_tasks(root: Path) -> None:
    """Write RTE and STS-B below a data root: pairs of sentences about coloured things."""
    sentences = [f"a {colour} {thing}" for colour, thing in product(COLOURS, THINGS)]
    pairs = list(product(sentences, sentences))
    # Spread, so that each split has sentences that agree and ones that do not.
    spread = iter([pairs[number * 11 % len(pairs)] for number in range(len(pairs))])
    for folder in ("RTE", "STS-B"):
        (root / "glue" / folder).mkdir(parents=True)
    for split, size in SPLIT_SIZES.items():
        some = list(islice(spread, size)) or pairs[:TEST_SIZE]
        rte = ["index\tsentence1\tsentence2" + "\tlabel" * (split != "test")]
        header = STSB_HEADER.split()
        stsb = ["\t".join(header if split != "test" else header[:-1])]
        for number, (one, two) in enumerate(some):
            label = "entailment" if one == two else "not_entailment"
            shared = sum(a == b for a, b in zip(one.split()[1:], two.split()[1:], strict=True))
            score = {2: "5.000", 1: "2.4"}.get(shared, "0.0")
            cells = [str(number), "main", "x", "2012", str(number), "none", "none", one, two, score]
            rte.append("\t".join([str(number), one, two, label][: 4 if split != "test" else 3]))
            stsb.append("\t".join(cells if split != "test" else cells[:-1]))
        for name, lines in (("RTE", rte), ("STS-B", stsb)):
            (root / "glue" / name / f"{split}.tsv").write_text("\n".join(lines) + "\n")
