"""VL-PET (Hu et al. 2023, arXiv 2308.09804): gated adapters in the encoder, few in the decoder."""

from collections.abc import Iterator

from pydantic import Field
from torch import nn

from vl_lst.methods._joint import JointMethod, JointOptions, train_modules
from vl_lst.models.joint import JointModel
from vl_lst.models.vl_pet import (
    GatedAdapter,
    GateSize,
    ValueAdapter,
    adapt_sublayer,
    adapt_values,
)

__all__ = ["METHOD", "VlPet", "VlPetOptions"]


class VlPetOptions(JointOptions):
    """Options of VL-PET; the defaults are those of the paper's code for blocks with norms first.

    Args:
        size: Gate of the encoder's adapters: per example (small), token (middleX), channel
            (middleY), or token and channel (large).
        bottleneck: Width of the bottleneck of the encoder's adapters.
        gate_bottleneck: Width of the bottleneck of large gates.
        value_bottleneck: Width of the bottleneck of the adapters next to the values of the
            decoder's cross-attention.
        scale: Factor of the encoder's gated sublayers; 1 in the paper's code for blocks with norms
            last.
    """

    size: GateSize = "large"
    bottleneck: int = Field(192, ge=1, le=16_384)
    gate_bottleneck: int = Field(192, ge=1, le=16_384)
    value_bottleneck: int = Field(96, ge=1, le=16_384)
    scale: float = Field(0.3, gt=0, le=1e3)


class VlPet(JointMethod[VlPetOptions]):
    """Frozen backbone with adapters and trainable norms in the encoder, and adapters of values."""

    options = VlPetOptions

    def insert(self, model: JointModel, options: VlPetOptions) -> None:
        """Insert adapters after the encoder's sublayers and next to the decoder's values."""
        backbone = model.backbone
        encoder = set(backbone.stacks()["encoder"][0].modules())
        train_modules(
            model, [norm for norm in backbone.family.norms(backbone.model) if norm in encoder]
        )
        for sublayer in backbone.sublayers():
            if sublayer.module in encoder:
                gated = GatedAdapter(
                    sublayer.width,
                    size=options.size,
                    bottleneck=options.bottleneck,
                    gate_bottleneck=options.gate_bottleneck,
                    scale=options.scale,
                    mask=backbone.encoder_mask,
                )
                adapt_sublayer(sublayer.module, sublayer.reader, gated)
        for layer in _memory_values(model):
            adapter = ValueAdapter(layer.in_features, options.value_bottleneck, layer.out_features)
            adapt_values(layer, adapter)

    def tuned(self, model: JointModel) -> Iterator[nn.Parameter]:
        """Yield the parameters of the adapters."""
        for module in model.backbone.modules():
            if isinstance(module, GatedAdapter | ValueAdapter):
                yield from module.parameters()


def _memory_values(model: JointModel) -> list[nn.Linear]:
    """Return the layers that compute values of the encoder's states in the decoder.

    A decoder without cross-attention computes them in an attention for its own tokens too.
    """
    backbone = model.backbone
    if not backbone.has_decoder:
        return []
    decoder = set(backbone.stacks()["decoder"][0].modules())
    inner = [
        attention
        for attention in backbone.family.attentions(backbone.model)
        if backbone.model.get_submodule(attention.value) in decoder
    ]
    chosen = [attention for attention in inner if attention.is_cross] or inner
    return [backbone.model.get_submodule(attention.value) for attention in chosen]


METHOD = VlPet()
