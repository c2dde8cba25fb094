"""Modules of VL-PET (Hu et al. 2023, arXiv 2308.09804): adapters whose output a gate scales.

B examples, S tokens, D width of the residual stream, I and O widths of a linear layer's input and
output.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from vl_lst.models.joint import EncoderMask
from vl_lst.models.output_adapter import adapt_output

__all__ = ["GateSize", "GatedAdapter", "ValueAdapter", "adapt_sublayer", "adapt_values"]

GateSize = Literal["small", "middleX", "middleY", "large"]
NAME = "vl_pet"


class Bottleneck(nn.Sequential):
    """Two linear layers with a GELU between them; the second one starts at zero.

    Args:
        width: Width of the input.
        bottleneck: Width between the layers.
        output: Width of the output.
    """

    def __init__(self, width: int, bottleneck: int, output: int) -> None:
        up = _zeros(nn.Linear(bottleneck, output))
        super().__init__(nn.Linear(width, bottleneck), nn.GELU(approximate="tanh"), up)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights, and so of the input."""
        return next(self.parameters()).dtype


class LargeGate(nn.Module):
    """A gate per token and channel, from the residual stream.

    Args:
        width: D.
        bottleneck: Width of the gate's bottleneck.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(width, bottleneck, width)

    def forward(self, stream_BSD: Tensor, adapted_BSD: Tensor) -> Tensor:
        """Return gates [B, S, D]."""
        gates_BSD: Tensor = self.bottleneck(stream_BSD).sigmoid()
        return gates_BSD


class TokenGate(nn.Module):
    """A gate per token, from the sum of the residual stream and the adapted states.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = _zeros(nn.Linear(width, 1))

    def forward(self, stream_BSD: Tensor, adapted_BSD: Tensor) -> Tensor:
        """Return gates [B, S, 1]."""
        gates_BS1: Tensor = self.score(stream_BSD + adapted_BSD).sigmoid()
        return gates_BS1


class ChannelGate(nn.Module):
    """A learned factor per channel, which may have any sign and size.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset_D = nn.Parameter(torch.zeros(width))

    def forward(self, stream_BSD: Tensor, adapted_BSD: Tensor) -> Tensor:
        """Return gates [D]."""
        return 1 + self.offset_D


class ExampleGate(nn.Module):
    """A gate per example: the mean over its tokens, without padding.

    Args:
        width: D.
        mask: Mask of the encoder.
    """

    def __init__(self, width: int, mask: EncoderMask) -> None:
        super().__init__()
        self.score = _zeros(nn.Linear(2 * width, 1))
        self._mask = mask

    def forward(self, stream_BSD: Tensor, adapted_BSD: Tensor) -> Tensor:
        """Return gates [B, 1, 1]."""
        gates_BS1 = self.score(torch.cat((stream_BSD, adapted_BSD), -1)).sigmoid()
        mask_BS1 = self._mask.current[..., None]
        sum_B11: Tensor = (gates_BS1 * mask_BS1).sum(1, keepdim=True)
        return sum_B11 / mask_BS1.sum(1, keepdim=True)


class GatedAdapter(nn.Module):
    """Adapter after a sublayer: `scale * G * (h + up(gelu(down(h))))`.

    Args:
        width: Width of the states h.
        size: Kind of the gate G.
        bottleneck: Width of the adapter's bottleneck.
        gate_bottleneck: Width of the bottleneck of a large gate.
        scale: Factor.
        mask: Mask of the encoder, for a small gate.
    """

    def __init__(
        self,
        width: int,
        *,
        size: GateSize,
        bottleneck: int,
        gate_bottleneck: int,
        scale: float,
        mask: EncoderMask,
    ) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(width, bottleneck, width)
        self.gate: nn.Module
        match size:
            case "small":
                self.gate = ExampleGate(width, mask)
            case "middleX":
                self.gate = TokenGate(width)
            case "middleY":
                self.gate = ChannelGate(width)
            case "large":
                self.gate = LargeGate(width, gate_bottleneck)
        self._scale = scale
        self._stream_BSD: Tensor | None = None

    def keep_stream(self, _reader: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Keep the residual stream until the sublayer has run: a forward pre-hook of its reader."""
        self._stream_BSD = inputs[0]

    def forward(self, states_BSD: Tensor) -> Tensor:
        """Return the sublayer's new output [B, S, D] in the precision of its output."""
        stream_BSD, self._stream_BSD = self._stream_BSD, None
        assert stream_BSD is not None
        dtype = self.bottleneck.dtype
        output_BSD = states_BSD.to(dtype)
        adapted_BSD = output_BSD + self.bottleneck(output_BSD)
        gated_BSD = self.gate(stream_BSD.to(dtype), adapted_BSD) * adapted_BSD
        scaled_BSD: Tensor = self._scale * gated_BSD
        return scaled_BSD.to(states_BSD.dtype)


class ValueAdapter(nn.Module):
    """Adapter next to a linear layer of values.

    Args:
        width: I.
        bottleneck: Width of the bottleneck.
        output: O.
    """

    def __init__(self, width: int, bottleneck: int, output: int) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(width, bottleneck, output)

    def forward(self, states_BSI: Tensor) -> Tensor:
        """Return what is added to the values [B, S, O], in the precision of the input."""
        added_BSO: Tensor = self.bottleneck(states_BSI.to(self.bottleneck.dtype))
        return added_BSO.to(states_BSI.dtype)


def adapt_sublayer(sublayer: nn.Module, reader: nn.Module, adapter: GatedAdapter) -> None:
    """Insert an adapter after a sublayer.

    Args:
        sublayer: Module with the sublayer's output, or with a tuple that begins with it.
        reader: Module whose input is the residual stream before the sublayer.
        adapter: Adapter.
    """
    # A bound method, unlike a closure, belongs to the new adapter in a copy of the model.
    reader.register_forward_pre_hook(adapter.keep_stream)
    adapt_output(sublayer, adapter, NAME)


def adapt_values(layer: nn.Module, adapter: ValueAdapter) -> None:
    """Add an adapter's output to that of a linear layer."""
    layer.add_module(NAME, adapter)
    layer.register_forward_hook(_add_values)


def _add_values(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    values: Tensor = output + layer.get_submodule(NAME)(inputs[0])
    return values


def _zeros(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
