"""Checkpoints with the tensor names of the reference implementation (Ladder-Side-Tuning).

It has two halves: VL-T5 for images and text, with a visual embedding, and seq2seq for text alone.
The reference has separate q, k and v, a module per rung and a scalar per gate; here they are fused
or stacked. `reference_pieces` maps the names; reading and writing both use it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vl_lst.backbones.reference import backbone_from_reference
from vl_lst.errors import CheckpointError
from vl_lst.models.config import HeadConfig, LadderConfig, VisualConfig
from vl_lst.models.ladder.model import LadderModel
from vl_lst.models.ladder.rungs import (
    Gates,
    LearnedGates,
    LinearRungs,
    Rungs,
    StackSizes,
    build_rungs,
)
from vl_lst.models.ladder.side_block import SideBlock

__all__ = [
    "ReferencePiece",
    "from_reference",
    "reference_names",
    "reference_pieces",
    "to_reference",
    "visual_config",
    "visual_pieces",
]

# Factor of rungs where the reference's gates do not train: gates of one cut the rungs off.
RUNG_FACTORS = {"one": 0.0, "none": 1.0}


@dataclass(frozen=True, slots=True)
class ReferencePiece:
    """Part of a parameter that is a tensor of the reference.

    Args:
        name: Name of the parameter.
        rows: Slice of its first dimension; `None` if the tensor is the whole parameter.
        reference: Name of the tensor in the reference.
        unstacked: Whether the slice is one row and the reference lacks the first dimension.
    """

    name: str
    rows: slice | None
    reference: str
    unstacked: bool = False

    def read(self, ours: Tensor) -> Tensor:
        """Return the reference's tensor as a view of the parameter."""
        if self.rows is None:
            return ours
        part = ours[self.rows]
        return part[0] if self.unstacked else part


def reference_pieces(model: LadderModel) -> list[ReferencePiece]:
    """Return the mapping of all parameters outside the backbone."""
    pieces = [] if model.visual is None else [*visual_pieces()]
    pieces += [*_stack_pieces(model, "encoder"), *_stack_pieces(model, "decoder")]
    pieces += [
        ReferencePiece(f"side.upsample.{kind}", None, f"side_final_upsample.{kind}")
        for kind in ("weight", "bias")
    ]
    if model.side.last_gate is not None:
        gate = "side.last_gate.alpha"
        name = "side_gate_params_merge_last"
        pieces.append(ReferencePiece(gate, slice(0, 1), name, unstacked=True))
    return pieces


def visual_pieces() -> Iterator[ReferencePiece]:
    """Yield the mapping of the visual embedding's parameters."""
    prefix = "encoder.visual_embedding"
    for ours, theirs in (
        ("feature_projection.weight", "feat_embedding.0.weight"),
        ("feature_projection.bias", "feat_embedding.0.bias"),
        ("feature_norm.weight", "feat_embedding.1.weight"),
        ("box_projection.weight", "absolute_vis_pos_embedding.0.weight"),
        ("box_projection.bias", "absolute_vis_pos_embedding.0.bias"),
        ("box_norm.weight", "absolute_vis_pos_embedding.1.weight"),
        ("image_order.weight", "img_order_embedding.weight"),
    ):
        yield ReferencePiece(f"visual.{ours}", None, f"{prefix}.{theirs}")


def _stack_pieces(model: LadderModel, stack: str) -> Iterator[ReferencePiece]:
    side = getattr(model.side, stack)
    ours = f"side.{stack}"
    yield ReferencePiece(
        f"{ours}.position_bias.table",
        None,
        f"{stack}.side_block.{side.layers[0]}.layer.0.SelfAttention.relative_attention_bias.weight",
    )
    yield ReferencePiece(f"{ours}.final_norm.weight", None, f"{stack}.final_side_layer_norm.weight")
    for kind in ("weight", "bias"):
        yield ReferencePiece(
            f"{ours}.first_rung.{kind}", None, f"{stack}.side_first_downsample.{kind}"
        )
        for row, layer in enumerate(side.layers if isinstance(side.rungs, LinearRungs) else ()):
            yield ReferencePiece(
                f"{ours}.rungs.{kind}",
                slice(row, row + 1),
                f"{stack}.side_downsamples.{layer}.{kind}",
                unstacked=True,
            )
    gates = side.gates
    for layer in range(gates.alpha.shape[0] if isinstance(gates, LearnedGates) else 0):
        yield ReferencePiece(
            f"{ours}.gates.alpha",
            slice(layer, layer + 1),
            f"{stack}.side_gate_params.{layer}",
            unstacked=True,
        )
    for row, layer in enumerate(side.layers):
        yield from _block_pieces(
            side.blocks[row], f"{ours}.blocks.{row}", f"{stack}.side_block.{layer}.layer"
        )


def _block_pieces(block: SideBlock, ours: str, theirs: str) -> Iterator[ReferencePiece]:
    last = 1 if block.cross_attention is None else 2
    attention = f"{theirs}.0.SelfAttention"
    yield from _fused(f"{ours}.self_attention.qkv", attention, "qkv", block.self_attention.qkv)
    yield ReferencePiece(f"{ours}.self_attention.o", None, f"{attention}.o.weight")
    yield ReferencePiece(
        f"{ours}.self_attention_norm.weight", None, f"{theirs}.0.layer_norm.weight"
    )
    if block.cross_attention is not None:
        attention = f"{theirs}.1.EncDecAttention"
        yield ReferencePiece(f"{ours}.cross_attention.q", None, f"{attention}.q.weight")
        yield from _fused(f"{ours}.cross_attention.kv", attention, "kv", block.cross_attention.kv)
        yield ReferencePiece(f"{ours}.cross_attention.o", None, f"{attention}.o.weight")
        yield ReferencePiece(
            f"{ours}.cross_attention_norm.weight", None, f"{theirs}.1.layer_norm.weight"
        )
    feed_forward = f"{theirs}.{last}.DenseReluDense"
    if block.feed_forward.is_gated:
        yield from _fused(
            f"{ours}.feed_forward.wi", feed_forward, ("wi_0", "wi_1"), block.feed_forward.wi
        )
    else:
        yield ReferencePiece(f"{ours}.feed_forward.wi", None, f"{feed_forward}.wi.weight")
    yield ReferencePiece(f"{ours}.feed_forward.wo", None, f"{feed_forward}.wo.weight")
    yield ReferencePiece(
        f"{ours}.feed_forward_norm.weight", None, f"{theirs}.{last}.layer_norm.weight"
    )


def _fused(
    name: str, prefix: str, parts: str | tuple[str, ...], fused: Tensor
) -> Iterator[ReferencePiece]:
    rows = fused.shape[0] // len(parts)
    for number, part in enumerate(parts):
        yield ReferencePiece(
            name, slice(number * rows, (number + 1) * rows), f"{prefix}.{part}.weight"
        )


def reference_names(model: LadderModel) -> set[str]:
    """Return the reference's names of the trainable parameters."""
    trainable = model.trainable()
    return {piece.reference for piece in reference_pieces(model) if piece.name in trainable}


def to_reference(model: LadderModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split and rename parameters, or their gradients, to the reference's tensors."""
    return {
        piece.reference: piece.read(tensors[piece.name])
        for piece in reference_pieces(model)
        if piece.name in tensors
    }


@torch.no_grad()
def from_reference(
    state: Mapping[str, Tensor], config: Mapping[str, Any], *, attention: str = "sdpa"
) -> LadderModel:
    """Build a generating model from a reference state dict.

    Args:
        state: Tensors by the reference's names (a `.pth` converted to safetensors). The aliases of
            `shared.weight` may be absent.
        config: Configuration of the reference, including its `side_config`.
        attention: Attention of the backbone: `sdpa` is fused, `eager` has the reference's order of
            operations.

    Raises:
        CheckpointError: A tensor is missing or has another shape, or a setting is not supported.
    """
    side = config["side_config"]
    gates = side["use_gate"]
    if gates != "learnable" and gates not in RUNG_FACTORS:
        raise CheckpointError(
            f"use_gate of the reference checkpoint is {gates!r:.60}: expected learnable or one of "
            f"{', '.join(RUNG_FACTORS)}"
        )
    for name, expected in (("add_bias_sampling", True), ("create_side_lm", False)):
        if side.get(name, expected) != expected:
            raise CheckpointError(
                f"{name} of the reference checkpoint is {side[name]}: expected {expected}, the "
                "value of all experiments of the paper"
            )
    visual = visual_config(config)
    ladder = LadderConfig(
        reduction=int(side["task_reduction_factor"]),
        encoder_layers=_layers(side["encoder_side_layers"]),
        decoder_layers=_layers(side["decoder_side_layers"]),
        rungs="pool" if side["side_downsample_pool"] else "linear",
        rung_place="after_block" if side["add_residual_after"] else "before_block",
        image_rungs="pass" if visual is None else "attenuate",
        gates="scalar",
        gate_temperature=float(side.get("gate_T", 0.1)),
        gate_start=0.5,
        merge_last=bool(side.get("merge_last", False)),
        dropout=float(config["dropout_rate"]),
    )

    def rungs_with_reference_gates(sizes: StackSizes) -> tuple[Rungs, Gates]:
        rungs, learned = build_rungs(sizes, ladder)
        return rungs, learned if gates == "learnable" else _ConstantGates(RUNG_FACTORS[gates])

    model = LadderModel(
        backbone_from_reference(state, config, attention),
        visual=visual,
        ladder=ladder,
        head=HeadConfig(kind="generate"),
        build_rungs=rungs_with_reference_gates,
    )
    parameters = dict(model.named_parameters())
    for piece in reference_pieces(model):
        if piece.reference not in state:
            raise CheckpointError(f"the reference checkpoint lacks the tensor {piece.reference!r}")
        target, source = piece.read(parameters[piece.name]), state[piece.reference]
        if target.shape != source.shape:
            raise CheckpointError(
                f"{piece.reference} has shape {tuple(source.shape)} in the checkpoint, expected "
                f"{tuple(target.shape)}; check that the configuration belongs to the checkpoint"
            )
        target.copy_(source)
    if model.visual is not None:
        # The reference takes image position j's vector from embedding row vocabulary - 1 - j.
        order_MD = model.visual.order_MD
        order_MD.copy_(state["shared.weight"].flip(0)[: len(order_MD)])
    return model


def visual_config(config: Mapping[str, Any]) -> VisualConfig | None:
    """Return the visual embedding's settings from a configuration of the reference.

    Returns:
        The settings; `None` for a configuration of the half for text alone.
    """
    if "feat_dim" not in config:
        return None
    return VisualConfig(
        channels=int(config["feat_dim"]),
        tokens=49 if config["downsample"] else int(config["n_boxes"]),
        pooled_grid=round(config["n_boxes"] ** 0.5) if config["downsample"] else None,
        max_images=int(config["n_images"]),
    )


class _ConstantGates(Gates):
    """Gates of the reference that do not train, and leave the side network's states as they are.

    Args:
        rung_factor: Factor of the rungs, which are added.
    """

    def __init__(self, rung_factor: float) -> None:
        super().__init__()
        self.rung_factor = rung_factor

    def forward(self, layer: int, rung_BTX: Tensor, states_BQR: Tensor) -> Tensor:
        """Return `states + rung_factor * rung`."""
        images = states_BQR.shape[1] - rung_BTX.shape[1]
        return states_BQR + self.rung_factor * F.pad(rung_BTX, (0, 0, 0, images))


def _layers(layers: list[int] | None) -> tuple[int, ...] | None:
    return None if layers is None else tuple(layers)
