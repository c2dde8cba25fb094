"""Keys and values of the side decoder while generating."""

from torch import Tensor

from vl_lst.models.ladder.side_block import KeyValues

__all__ = ["SideCache"]


class SideCache:
    """Keys and values of the side decoder while generating, two entries per block.

    Args:
        cross_attention: Keys and values of the side encoder's states, one row per example;
            constant.
        self_attention: Keys and values of the tokens so far, one row per beam; extended with
            each token.
    """

    def __init__(self, cross_attention: list[KeyValues], self_attention: list[KeyValues]) -> None:
        self.cross_attention = cross_attention
        self.self_attention = self_attention

    @property
    def length(self) -> int:
        """Number of tokens so far."""
        return self.self_attention[0].length

    def select(self, rows: Tensor, examples: Tensor) -> None:
        """Keep these rows of the tokens so far, and these examples, in this order."""
        self.reorder(rows)
        for entry in self.cross_attention:
            entry.select(examples)

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of the tokens so far, in this order; a row may occur several times."""
        for entry in self.self_attention:
            entry.select(rows)
