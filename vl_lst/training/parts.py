"""The parts of a model that memory is told apart by."""

from collections import defaultdict

from torch import nn
from transformers.models.t5.modeling_t5 import T5Block, T5Stack

from vl_lst.models.ladder.side_network import SideDecoder, SideEncoder
from vl_lst.models.visual import VisualEmbedding

__all__ = ["parts_of"]


def parts_of(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Modules of a model by the name of the part they make up.

    Parts are `visual embedding`; `side encoder`, `side decoder` and their rungs; and, of methods
    that train through the backbone, `backbone encoder`, `backbone decoder` and their layers,
    counted from 0. What belongs to none of them is the head and the loss.

    Args:
        model: Of any transfer method.
    """
    parts: dict[str, list[nn.Module]] = defaultdict(list)
    for module in model.modules():
        if isinstance(module, VisualEmbedding):
            parts["visual embedding"].append(module)
        elif isinstance(module, SideEncoder | SideDecoder):
            stack = "encoder" if isinstance(module, SideEncoder) else "decoder"
            parts[f"side {stack}"].append(module)
            parts[f"side {stack} rungs"] += [module.first_rung, module.rungs]
        elif isinstance(module, T5Stack):
            stack = f"backbone {'decoder' if module.is_decoder else 'encoder'}"
            parts[stack].append(module)
            blocks = [child for child in module.modules() if isinstance(child, T5Block)]
            for layer, block in enumerate(blocks):
                parts[f"{stack} layer {layer}"].append(block)
    return dict(parts)
