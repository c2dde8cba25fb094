"""The splits of the LST paper (arXiv 2206.06522), whose test sets have public answers.

The answers to GLUE's test sets are secret, so the paper evaluates on the official development sets:

    small tasks     validation and test are the halves of a permutation of dev
    large tasks     validation is 1,000 examples of a permutation of train, which then lacks them;
                    test is dev
    mnli            validation is dev_mismatched, test is dev_matched

The permutation is that of `torch.randperm` with the seed 42, in every run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from eval.errors import InputError
from eval.text import counted
from tasks._files import SplitSize

__all__ = ["HALVES_OF_DEV", "HELD_OUT_OF_TRAIN", "PaperSplit", "paper_sizes", "permutation"]

SEED = 42
HELD_OUT = 1_000

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class PaperSplit:
    """A split of the paper as a part of an official split.

    Args:
        official: Name of the official split.
        part: Whether it is all of that split in the order of the file, or the first examples or the
            rest of a permutation.
        num_first: Number of examples of the split -> number of first examples.
    """

    official: str
    part: Literal["all", "first", "rest"] = "all"
    num_first: Callable[[int], int] = lambda size: size

    def size(self, official_size: int) -> int:
        """Return the number of examples, given that of the official split."""
        first = self.num_first(official_size)
        return {"all": official_size, "first": first, "rest": official_size - first}[self.part]

    def select(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the part of an official split, in the paper's order.

        Raises:
            InputError: The official split has too few examples.
        """
        if self.part == "all":
            return items
        first = self.num_first(len(items))
        if not 0 < first < len(items):
            raise InputError(
                f"{self.official} has {counted(len(items), 'example')}, too few to divide it as "
                f"the paper does: expected more than {max(first, 1):,}"
            )
        order = permutation(len(items))
        return [items[at] for at in (order[:first] if self.part == "first" else order[first:])]


def _half(size: int) -> int:
    return size // 2


def _held_out(size: int) -> int:
    return HELD_OUT


HALVES_OF_DEV = {
    "paper_train": PaperSplit("train"),
    "paper_validation": PaperSplit("dev", "first", _half),
    "paper_test": PaperSplit("dev", "rest", _half),
}
HELD_OUT_OF_TRAIN = {
    "paper_train": PaperSplit("train", "rest", _held_out),
    "paper_validation": PaperSplit("train", "first", _held_out),
    "paper_test": PaperSplit("dev"),
}


def paper_sizes(
    splits: Mapping[str, PaperSplit], official: Mapping[str, SplitSize]
) -> dict[str, SplitSize]:
    """Return the sizes of the paper's splits, given those of the official splits."""
    return {
        name: SplitSize(split.size(official[split.official].examples))
        for name, split in splits.items()
    }


def permutation(size: int) -> list[int]:
    """Return `torch.randperm(size)` of a generator with the paper's seed, without torch.

    Both draw 32-bit numbers from the same generator, MT19937, and swap each element with one of
    those that follow it.
    """
    import numpy as np

    # Drawn over the whole range, numbers are those of the generator. This API is frozen.
    draws = np.random.RandomState(SEED).randint(0, 1 << 32, max(size - 1, 0), np.uint32)
    order = list(range(size))
    offsets = draws % np.arange(size, 1, -1, dtype=np.uint32)
    for at, offset in enumerate(offsets.tolist()):
        order[at], order[at + offset] = order[at + offset], order[at]
    return order
