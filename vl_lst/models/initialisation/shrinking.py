"""Initialisation of the side network as a smaller version of the backbone, in a consistent basis.

A residual stream is a sum: every block reads what all earlier blocks wrote. A narrow network can
replace a wide one only if "channel 5" means the same in all its parts. Here each stack gets one
`Basis`, which maps its wide residual stream to a narrow one, and everything that reads or writes
that stream is expressed in it: rungs, blocks and the projection back. Norms come before the
weights that read their output, so they are folded into these weights (as in SliceGPT, Ashkboos et
al. 2024, arXiv 2401.15024, section 3).

The number of heads stays the same. Within each head, queries and keys keep the same rows, and so do
values and outputs. No weight is rescaled to compensate for what was removed: that brings the
network no closer to the backbone.

U prompts, P (prompt, answer) pairs, N either of these, T prompt tokens, L answer tokens, K layers,
D backbone width, R side width, H heads, C head width, X inner width or number of states.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.models.initialisation.pruning import PrunedBackbone, initialise_side_network
from vl_lst.models.ladder.model import LadderModel
from vl_lst.models.ladder.rungs import LinearRungs

__all__ = [
    "Basis",
    "initialise_coherently",
    "principal_bases",
    "selected_bases",
    "shrink_backbone",
]

STACKS = ("encoder", "decoder")


@dataclass(frozen=True, slots=True)
class Basis:
    """Projection of a wide residual stream to a narrow one.

    Args:
        projection_RD: Orthonormal rows: narrow = projection @ wide; the transpose maps back.
        norm: Root mean square of the narrow stream if that of the wide one is 1.
    """

    projection_RD: Tensor
    norm: float


def selected_bases(
    state: Mapping[str, Tensor], importance: Mapping[str, Tensor], config: Any, reduction: int
) -> dict[str, Basis]:
    """Select the channels with the highest importance for all weights of a stack together.

    The score of a channel is its share in the importance of each weight that reads or writes the
    residual stream, summed over these weights. Keys and values of the decoder's cross-attention
    count for the encoder's stream.

    Args:
        state: State dict of the backbone.
        importance: A tensor per weight, of the weight's shape; see `pruning`.
        config: Configuration of the backbone.
        reduction: r = D / R.

    Returns:
        The bases of `encoder` and `decoder`.
    """
    width = int(config.d_model)
    scores = {stack: torch.zeros(width) for stack in STACKS}

    def add_shares(stack: str, name: str, channel_dimension: int) -> None:
        sizes = importance[name].float().abs().sum(1 - channel_dimension)
        scores[stack] += (sizes / sizes.sum().clamp(min=torch.finfo().tiny)).cpu()

    for stack in STACKS:
        add_shares(stack, "shared.weight", 1)
        for layer in _layers(stack, config):
            for attention in layer.attentions:
                add_shares(stack, f"{attention}.q.weight", 1)
                for part in "kv":
                    add_shares(_memory_of(stack, attention), f"{attention}.{part}.weight", 1)
                add_shares(stack, f"{attention}.o.weight", 0)
            for name in layer.inner(state):
                add_shares(stack, name, 1)
            add_shares(stack, layer.outer, 0)
    kept = {stack: scores[stack].topk(width // reduction).indices.sort().values for stack in STACKS}
    return {stack: Basis(torch.eye(width)[rows], 1.0) for stack, rows in kept.items()}


@torch.no_grad()
def principal_bases(
    backbone: FrozenBackbone, samples: Iterable[tuple[Tensor, Tensor]], reduction: int
) -> dict[str, Basis]:
    """Compute the principal directions of the backbone's states (SliceGPT, section 3.2).

    Args:
        backbone: Backbone that reads the texts.
        samples: Pairs of prompt ids [1, T] and label ids [1, L], unpadded.
        reduction: r = D / R.

    Returns:
        The bases of `encoder` and `decoder`.
    """
    width, device = backbone.width, backbone.vocabulary_weight.device
    moments = {
        stack: torch.zeros(width, width, dtype=torch.float64, device=device) for stack in STACKS
    }
    tokens = dict.fromkeys(STACKS, 0)

    def add_moments(stack: str, embedding_NTD: Tensor, blocks_KNTD: Tensor) -> None:
        states_XD = torch.cat((embedding_NTD[None], blocks_KNTD)).flatten(0, 2).double()
        normed_XD = torch.nn.functional.rms_norm(states_XD, (width,))
        moments[stack] += normed_XD.T @ normed_XD
        tokens[stack] += len(normed_XD)

    for prompt_ids, label_ids in samples:
        encoded = backbone.encode(prompt_ids, range(backbone.encoder_depth))
        add_moments("encoder", encoded.embedding_UTD, encoded.blocks_KUTD)
        decoded = backbone.decode(
            backbone.shift_right(label_ids),
            range(backbone.decoder_depth),
            encoder_states_PTD=encoded.final_UTD,
            encoder_mask_PT=encoded.mask_UT,
        )
        add_moments("decoder", decoded.embedding_PLD, decoded.blocks_KPLD)
    bases = {}
    for stack in STACKS:
        sizes_D, directions_DD = torch.linalg.eigh(moments[stack] / tokens[stack])
        narrow = width // reduction
        norm = (sizes_D[-narrow:].sum() / narrow).sqrt()
        bases[stack] = Basis(directions_DD[:, -narrow:].T.flip(0).float(), float(norm))
    return bases


def shrink_backbone(
    state: Mapping[str, Tensor],
    bases: Mapping[str, Basis],
    config: Any,
    reduction: int,
    importance: Mapping[str, Tensor] | None = None,
) -> PrunedBackbone:
    """Express the backbone's blocks in narrow bases, with 1/reduction of the head and inner widths.

    Args:
        state: State dict of the backbone.
        bases: Bases of the residual streams of `encoder` and `decoder`.
        config: Configuration of the backbone.
        reduction: r.
        importance: Importance by which rows are kept; `None` uses the size of the projected
            weights.
    """
    shrinker = _Shrinker(state, bases, int(config.num_heads), reduction, importance)
    for stack in STACKS:
        for layer in _layers(stack, config):
            for attention in layer.attentions:
                shrinker.attention(stack, attention)
            shrinker.feed_forward(stack, layer)
        table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        shrinker.weights[table] = state[table]
        shrinker.norm(stack, f"{stack}.final_layer_norm.weight")
    return PrunedBackbone(shrinker.weights)


@torch.no_grad()
def initialise_coherently(
    model: LadderModel, bases: Mapping[str, Basis], importance: Mapping[str, Tensor] | None = None
) -> list[str]:
    """Copy the shrunk backbone into blocks, rungs and up-projection; gates are unchanged.

    Args:
        model: Model with learned rungs; pooled rungs have their own basis.
        bases: Output of `selected_bases` or `principal_bases`.
        importance: See `shrink_backbone`.

    Returns:
        Names of the parameters that were written.
    """
    state = model.backbone.model.state_dict()
    config = model.backbone.config
    reduction = model.backbone.width // model.side.encoder.sizes.width
    pruned = shrink_backbone(state, bases, config, reduction, importance)
    written = initialise_side_network(model, pruned)
    for stack, side in (("encoder", model.side.encoder), ("decoder", model.side_decoder)):
        projections: dict[str, torch.nn.Linear | LinearRungs] = {}
        if side.first_rung is not None:
            projections["first_rung"] = side.first_rung
        if isinstance(side.rungs, LinearRungs):
            projections["rungs"] = side.rungs
        for name, module in projections.items():
            module.weight.copy_(bases[stack].projection_RD)
            module.bias.zero_()
            written += [f"side.{stack}.{name}.{kind}" for kind in ("weight", "bias")]
    final_D = state["decoder.final_layer_norm.weight"]
    upsample = model.side.upsample
    assert upsample is not None
    upsample.weight.copy_((bases["decoder"].projection_RD.to(final_D) * final_D).T)
    upsample.bias.zero_()
    return [*written, "side.upsample.weight", "side.upsample.bias"]


@dataclass(frozen=True, slots=True)
class _Layer:
    """Names of the weights of one backbone layer."""

    attentions: tuple[str, ...]
    dense: str

    def inner(self, state: Mapping[str, Tensor]) -> list[str]:
        """Return the inner projections: one, or two if the layer is gated."""
        names = [f"{self.dense}.{part}.weight" for part in ("wi", "wi_0", "wi_1")]
        return [name for name in names if name in state]

    @property
    def outer(self) -> str:
        return f"{self.dense}.wo.weight"


def _layers(stack: str, config: Any) -> Iterator[_Layer]:
    depth = config.num_layers if stack == "encoder" else config.num_decoder_layers
    kinds = ("SelfAttention", "EncDecAttention")[: 1 + STACKS.index(stack)]
    for layer in range(depth):
        block = f"{stack}.block.{layer}.layer"
        yield _Layer(
            tuple(f"{block}.{number}.{kind}" for number, kind in enumerate(kinds)),
            f"{block}.{len(kinds)}.DenseReluDense",
        )


def _norm_before(sublayer: str) -> str:
    return f"{sublayer.rpartition('.')[0]}.layer_norm.weight"


def _memory_of(stack: str, attention: str) -> str:
    return "encoder" if attention.endswith("EncDecAttention") else stack


class _Shrinker:
    """Shrinking of one sublayer after another; `weights` has the names of the backbone."""

    def __init__(
        self,
        state: Mapping[str, Tensor],
        bases: Mapping[str, Basis],
        heads: int,
        reduction: int,
        importance: Mapping[str, Tensor] | None,
    ) -> None:
        self._state = {name: tensor.float() for name, tensor in state.items()}
        self._bases = bases
        self._heads = heads
        self._reduction = reduction
        self._importance = importance
        self.weights: dict[str, Tensor] = {}

    def norm(self, stack: str, name: str) -> None:
        """Add a norm whose weights are folded into the weights that read its output."""
        basis = self._bases[stack]
        self.weights[name] = torch.full((len(basis.projection_RD),), basis.norm)

    def attention(self, stack: str, name: str) -> None:
        """Shrink queries, keys, values and outputs."""
        memory = _memory_of(stack, name)
        norm = _norm_before(name)
        memory_norm = norm if memory == stack else "encoder.final_layer_norm.weight"
        readers = {
            part: self._reader(f"{name}.{part}.weight", side, source)
            for part, side, source in (
                ("q", stack, norm),
                ("k", memory, memory_norm),
                ("v", memory, memory_norm),
            )
        }
        writer_X = self._writer(f"{name}.o.weight", stack)
        size = {
            part: self._unit_importance(f"{name}.{part}.weight", weight, 1)
            for part, weight in readers.items()
        }
        matching = self._within_heads(size["q"] * size["k"])
        passing = self._within_heads(
            size["v"] * self._unit_importance(f"{name}.o.weight", writer_X, 0)
        )
        for part, rows in (("q", matching), ("k", matching), ("v", passing)):
            self.weights[f"{name}.{part}.weight"] = readers[part][rows]
        self.weights[f"{name}.o.weight"] = writer_X[:, passing]
        self.norm(stack, norm)

    def feed_forward(self, stack: str, layer: _Layer) -> None:
        """Shrink the inner projections and the outer one."""
        norm = _norm_before(layer.dense)
        readers = {name: self._reader(name, stack, norm) for name in layer.inner(self._state)}
        writer = self._writer(layer.outer, stack)
        size_X = self._unit_importance(layer.outer, writer, 0)
        for name, reader in readers.items():
            size_X = size_X * self._unit_importance(name, reader, 1)
        kept = size_X.topk(len(size_X) // self._reduction).indices.sort().values
        for name, reader in readers.items():
            self.weights[name] = reader[kept]
        self.weights[layer.outer] = writer[:, kept]
        self.norm(stack, norm)

    def _reader(self, name: str, stack: str, norm: str) -> Tensor:
        """Return a weight that reads the residual stream, in its basis, with the norm folded in."""
        projection_RD = self._bases[stack].projection_RD.to(self._state[name])
        return (self._state[name] * self._state[norm]) @ projection_RD.T

    def _writer(self, name: str, stack: str) -> Tensor:
        """Return a weight that writes to the residual stream, in its basis."""
        return self._bases[stack].projection_RD.to(self._state[name]) @ self._state[name]

    def _unit_importance(self, name: str, narrowed: Tensor, summed: int) -> Tensor:
        """Return the importance of each inner unit of a weight, summed over its other dimension."""
        importance = narrowed if self._importance is None else self._importance[name].float()
        return importance.abs().sum(summed)

    def _within_heads(self, size_X: Tensor) -> Tensor:
        """Return the rows to keep: the most important ones of each head."""
        size_HC = size_X.view(self._heads, -1)
        width = size_HC.shape[1]
        kept_HC = size_HC.topk(width // self._reduction, dim=1).indices.sort(dim=1).values
        first_H1 = torch.arange(self._heads, device=size_X.device)[:, None] * width
        return (kept_HC + first_H1).flatten()
