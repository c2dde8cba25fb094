"""Constrained generation: a closed answer list as a prefix tree of token ids.

B rows, V vocabulary, E edges of the tree or of its largest node.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["AnswerTree"]

ROOT = 0
DEAD_END = 1


class AnswerTree:
    """Prefix tree of answers; each row of a search is at one of its nodes.

    Args:
        answers: Token ids of each answer, including end-of-sequence; none may be empty.
        vocabulary: V.
        device: Device of the search.
    """

    def __init__(
        self, answers: Iterable[Sequence[int]], *, vocabulary: int, device: torch.device
    ) -> None:
        children: list[dict[int, int]] = [{}, {}]
        for ids in answers:
            node = ROOT
            for token in ids:
                if token not in children[node]:
                    children[node][token] = len(children)
                    children.append({})
                node = children[node][token]
        edges = sorted(
            (node, token, target)
            for node, followers in enumerate(children)
            for token, target in followers.items()
        )
        nodes_E, self._token_E, self._target_E = (
            torch.tensor(column, device=device) for column in zip(*edges, strict=True)
        )
        self._vocabulary = vocabulary
        self._key_E = nodes_E * vocabulary + self._token_E
        counts = torch.bincount(nodes_E, minlength=len(children))
        self._count = counts
        self._first = counts.cumsum(0) - counts
        self._edge_E = torch.arange(int(counts.max()), device=device)

    def start(self, rows: int) -> Tensor:
        """Return the nodes [B] of rows that have no token yet."""
        return torch.full((rows,), ROOT, device=self._key_E.device)

    def follow(self, nodes_B: Tensor, tokens_B: Tensor) -> Tensor:
        """Return the nodes [B] after these tokens; a dead end if a token is not allowed."""
        keys_B = nodes_B * self._vocabulary + tokens_B
        edge_B = torch.searchsorted(self._key_E, keys_B).clamp(max=len(self._key_E) - 1)
        return torch.where(self._key_E[edge_B] == keys_B, self._target_E[edge_B], DEAD_END)

    def mask_scores(self, scores_BV: Tensor, nodes_B: Tensor) -> Tensor:
        """Return the scores [B, V] with minus infinity for tokens that are not allowed."""
        # As many edges for each node as the largest has, so that no size depends on the nodes: the
        # host would have to wait for the device to know it. Edges that a node lacks point to V.
        count_B1, first_B1 = self._count[nodes_B, None], self._first[nodes_B, None]
        edge_BE = (first_B1 + self._edge_E).clamp(max=len(self._token_E) - 1)
        token_BE = self._token_E[edge_BE].where(self._edge_E < count_B1, self._vocabulary)
        allowed_BV = scores_BV.new_full((len(nodes_B), self._vocabulary + 1), -torch.inf)
        return scores_BV + allowed_BV.scatter_(1, token_BE, 0.0)[:, :-1]
