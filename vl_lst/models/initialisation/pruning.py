"""Side-network weights pruned from the backbone, as in the reference ("pruning v2").

The reference keeps 1/r of the output rows of each weight, by the L1 norm of the rows of an
importance: the weight itself (magnitude) or its summed squared gradient on text (Fisher). The rows
that one weight keeps are the input columns of the next, in one chain from the embedding through the
encoder into the decoder that is never reset. Hence each writer of the residual stream keeps
different channels; this module reproduces that.

T prompt tokens, L answer tokens.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.models.ladder.model import LadderModel
from vl_lst.models.reference_checkpoint import reference_pieces

__all__ = [
    "PrunedBackbone",
    "fisher_importance",
    "initialise_side_network",
    "magnitude_importance",
    "prune_backbone",
]


@dataclass(frozen=True, slots=True)
class PrunedBackbone:
    """Backbone weights at the side network's sizes.

    Args:
        weights: Tensors by their names in the backbone.
        kept: Rows kept at each step of the chain, in storage order.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, list[int]] = field(default_factory=dict)


def magnitude_importance(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return each weight as its own importance, in float32; only absolute values matter."""
    return {name: tensor.float() for name, tensor in state.items()}


def fisher_importance(
    backbone: FrozenBackbone, samples: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Return the empirical Fisher information: squared gradients, summed over samples.

    Args:
        backbone: Backbone, which reads text alone; dropout is off, and it stays frozen.
        samples: Pairs of prompt ids [1, T] and label ids [1, L], unpadded, on its device.

    Returns:
        A float32 tensor per weight, of the weight's shape. In bfloat16, with its 8 bits of
        precision, a sum would stop growing after some hundred samples.
    """
    model = backbone.model
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    importance = {
        name: torch.zeros_like(parameter, dtype=torch.float32)
        for name, parameter in parameters.items()
    }
    was_training = model.training
    model.eval().requires_grad_(True)
    try:
        for prompt_ids, label_ids in samples:
            loss: Tensor = model(
                input_ids=prompt_ids,
                decoder_input_ids=backbone.shift_right(label_ids),
                labels=label_ids,
            ).loss
            gradients = torch.autograd.grad(loss, list(parameters.values()))
            for name, gradient in zip(parameters, gradients, strict=True):
                importance[name] += gradient.detach().float() ** 2
    finally:
        model.train(was_training).requires_grad_(False)
    return importance


class _Chain:
    """Pruning of one weight after another, each with the channels that the last one kept."""

    def __init__(
        self, state: Mapping[str, Tensor], importance: Mapping[str, Tensor], reduction: int
    ) -> None:
        self._state = state
        self._importance = importance
        self._reduction = reduction
        self.result = PrunedBackbone()
        self.channels = self._choose("shared", importance["shared.weight"].T)
        self.result.weights["shared.weight"] = state["shared.weight"][:, self.channels]

    def _choose(self, step: str, importance: Tensor) -> list[int]:
        rows = importance.shape[0]
        # The same reduction kernel as the reference: another summation order rounds differently,
        # which can change a borderline row and all later weights.
        scores = torch.norm(importance, p=1, dim=1)
        kept = max(int(rows - round((1 - 1 / self._reduction) * rows)), 1)
        dropped = torch.argsort(scores)[: rows - kept].tolist()
        # The reference stores rows in the iteration order of a CPython set; for q, k and v, that
        # order determines the head of each row.
        order = list(set(range(rows)) - set(dropped))
        self.result.kept[step] = order
        return order

    def norm(self, name: str) -> None:
        """Prune a norm to the current channels."""
        self.result.weights[name] = self._state[name][self.channels]

    def linear(self, step: str, names: tuple[str, ...]) -> None:
        """Prune columns to the current channels, then rows by the product of importances."""
        product = torch.ones(())
        for name in names:
            product = product * self._importance[name][:, self.channels]
        rows = self._choose(step, product)
        for name in names:
            self.result.weights[name] = self._state[name][:, self.channels][rows]
        self.channels = rows


def prune_backbone(
    state: Mapping[str, Tensor], importance: Mapping[str, Tensor], config: Any, reduction: int
) -> PrunedBackbone:
    """Prune the backbone's weights to 1/`reduction` of their rows and columns.

    Args:
        state: State dict of the backbone.
        importance: A float32 tensor per weight, of the weight's shape.
        config: Configuration of the backbone.
        reduction: r.
    """
    chain = _Chain(state, importance, reduction)
    for stack, depth in (("encoder", config.num_layers), ("decoder", config.num_decoder_layers)):
        attentions = ["SelfAttention"] + (["EncDecAttention"] if stack == "decoder" else [])
        for layer in range(depth):
            block = f"{stack}.block.{layer}.layer"
            for position, attention in enumerate(attentions):
                prefix = f"{block}.{position}.{attention}"
                chain.norm(f"{block}.{position}.layer_norm.weight")
                chain.linear(f"{prefix}.qkv", tuple(f"{prefix}.{part}.weight" for part in "qkv"))
                chain.linear(f"{prefix}.o", (f"{prefix}.o.weight",))
            last = f"{block}.{len(attentions)}"
            parts = ("wi_0", "wi_1") if config.is_gated_act else ("wi",)
            chain.norm(f"{last}.layer_norm.weight")
            chain.linear(
                f"{last}.wi", tuple(f"{last}.DenseReluDense.{part}.weight" for part in parts)
            )
            chain.linear(f"{last}.wo", (f"{last}.DenseReluDense.wo.weight",))
        chain.norm(f"{stack}.final_layer_norm.weight")
        table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        chain.result.weights[table] = state[table]
    return chain.result


def _backbone_name(reference: str, first_layer: int) -> str | None:
    """Return the backbone tensor that initialises a side tensor; `None` if it stays random."""
    stack, _, rest = reference.partition(".")
    if rest == "final_side_layer_norm.weight":
        return f"{stack}.final_layer_norm.weight"
    if rest == f"side_block.{first_layer}.layer.0.SelfAttention.relative_attention_bias.weight":
        return f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    if rest.startswith("side_block."):
        return f"{stack}.block.{rest.removeprefix('side_block.')}"
    return None


@torch.no_grad()
def initialise_side_network(model: LadderModel, pruned: PrunedBackbone) -> list[str]:
    """Copy pruned weights into the side blocks; rungs, gates and up-projection are unchanged.

    Returns:
        Names of the parameters that were written.
    """
    parameters = dict(model.named_parameters())
    written = []
    for piece in reference_pieces(model):
        is_encoder = piece.reference.startswith("encoder")
        layers = (model.side.encoder if is_encoder else model.side_decoder).layers
        source = _backbone_name(piece.reference, layers[0])
        if source is not None:
            piece.read(parameters[piece.name]).copy_(pruned.weights[source])
            written.append(piece.name)
    return written
