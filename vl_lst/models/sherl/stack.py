"""What SHERL adds to one stack of the backbone: which blocks it reads, the mixture and a norm.

N rows, T tokens, K features, C tapped blocks, D width of the stack.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from vl_lst.backbones.gradient_checkpointing import checkpointed
from vl_lst.backbones.layers import BlockSizes
from vl_lst.errors import ModelError
from vl_lst.models.norm import RootMeanSquareNorm
from vl_lst.models.sherl.mixing import FeatureMixture
from vl_lst.models.tapped_layers import require_divisor, selected_layers

__all__ = ["MixedStack"]


class MixedStack(nn.Module):
    """Mixture of the embedding and of block outputs, with the norm that replaces the stack's own.

    Args:
        sizes: Sizes of the stack.
        name: `encoder` or `decoder`, for messages and reports.
        layers: Blocks that are read, ascending and counted from 0; `None` means all. If
            `is_before_last`, the last is left out.
        is_before_last: Whether the mixture enters the last block, rather than following it.
        reduction: Ratio of the stack's width to that of the codes.
        score_bias: See `FeatureMixture`.
        dropout: Dropout probability.
        recompute: Whether the mixture saves only what it reads for the backward pass.

    Raises:
        ModelError: The reduction or the layers do not fit the stack.
    """

    def __init__(
        self,
        sizes: BlockSizes,
        name: str,
        layers: Sequence[int] | None,
        *,
        is_before_last: bool,
        reduction: int,
        score_bias: float,
        dropout: float,
        recompute: bool,
    ) -> None:
        super().__init__()
        require_divisor(reduction, {"width": sizes.width}, name)
        end = sizes.depth - 1 if is_before_last else sizes.depth
        read = _read_layers(layers, sizes.depth, end, name)
        self.tapped = tuple(sorted({*read, end - 1}))
        """Blocks whose outputs `forward` is given: those that are read, and the last one before the
        mixture, whose output is the residual stream."""
        self.name = name
        self.recompute = recompute
        self.mixture = FeatureMixture(
            1 + len(read), sizes.width, sizes.width // reduction, score_bias=score_bias
        )
        self.final_norm = RootMeanSquareNorm(sizes.width, eps=sizes.epsilon)
        self.dropout = nn.Dropout(dropout)
        self._read = len(read)

    def memory_parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """Return the part that memory is reported for: the mixture and the norm."""
        # The norm does not run within `forward`.
        return {f"side {self.name}": [self, self.final_norm]}

    def forward(self, embedding_NTD: Tensor, blocks_CNTD: Tensor) -> Tensor:
        """Return the mixture [N, T, D].

        Args:
            embedding_NTD: Input of the first block.
            blocks_CNTD: Outputs of the blocks `tapped`.
        """
        mixture_NTD: Tensor = checkpointed(
            self._mix, embedding_NTD, blocks_CNTD, recompute=self.recompute
        )
        return mixture_NTD

    def normalise(self, states_NTD: Tensor) -> Tensor:
        """Return states as the backbone's own norm would leave them, in float32."""
        normed_NTD: Tensor = self.final_norm(states_NTD.to(self.final_norm.weight.dtype))
        return normed_NTD

    def _mix(self, embedding_NTD: Tensor, blocks_CNTD: Tensor) -> Tensor:
        dtype = self.final_norm.weight.dtype
        # Converted at once: autograd saves the storage of blocks and stream, which is one.
        blocks_CNTD = blocks_CNTD.to(dtype)
        mixture_NTD: Tensor = self.mixture(
            self.dropout(embedding_NTD.to(dtype)), blocks_CNTD[: self._read], blocks_CNTD[-1]
        )
        return mixture_NTD


def _read_layers(chosen: Sequence[int] | None, depth: int, end: int, stack: str) -> tuple[int, ...]:
    """Return the layers below `end` among those that are chosen."""
    layers = selected_layers(chosen, depth, stack)
    read = tuple(layer for layer in layers if layer < end)
    if not read:
        raise ModelError(
            f"the {stack} layers {list(layers)} leave nothing to mix with the embedding, since the "
            f"backbone's {stack} has {depth} and the mixture follows layer {end - 1}: expected "
            "at least one layer up to there"
        )
    return read
