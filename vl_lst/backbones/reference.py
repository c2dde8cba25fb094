"""The backbone in a checkpoint of the reference implementation (Ladder-Side-Tuning)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.errors import CheckpointError

__all__ = ["backbone_from_reference"]

# Tied to the embedding unless a checkpoint has it.
OUTPUT_LAYER = "lm_head.weight"


def backbone_from_reference(
    state: Mapping[str, Tensor], config: Mapping[str, Any], attention: str
) -> FrozenBackbone:
    """Build the backbone from a reference state dict.

    Args:
        state: Tensors by the reference's names; the aliases of `shared.weight` may be absent.
        config: Configuration in the notation of transformers, other fields included.
        attention: Implementation of attention in transformers; `sdpa`, where the installed release
            has it for this model, else `eager`.

    Raises:
        CheckpointError: Tensors are missing.
    """
    known = T5Config().to_dict()
    t5_config = T5Config(**{key: value for key, value in config.items() if key in known})
    is_fused = getattr(T5ForConditionalGeneration, "_supports_sdpa", False)
    t5_config._attn_implementation = attention if is_fused else "eager"
    t5: Any = T5ForConditionalGeneration(t5_config)
    if OUTPUT_LAYER in state:
        t5.lm_head.weight = nn.Parameter(t5.lm_head.weight.detach().clone())
    wanted = t5.state_dict()
    aliases = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", OUTPUT_LAYER)
    missing = [name for name in wanted if name not in state and name not in aliases]
    if missing:
        raise CheckpointError(
            f"the reference checkpoint lacks {len(missing)} backbone tensors, such as "
            f"{missing[0]!r}; check that the configuration belongs to the checkpoint"
        )
    t5.load_state_dict({name: state.get(name, state["shared.weight"]) for name in wanted})
    return FrozenBackbone(t5)
