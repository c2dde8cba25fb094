"""Configurations of T5 models by name, and models with random weights."""

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

from feature_extraction.encoders.library_guard import guard_library_call
from vl_lst.backbones.folder import (
    CONFIG_NAME,
    GENERATION_NAME,
    backbone_folder,
    model_errors,
    read_config,
)
from vl_lst.backbones.loading import DEMO
from vl_lst.backbones.t5_sizes import T5_SIZES, T5_V1_1_SIZES, VOCABULARY, t5_names
from vl_lst.bundled import T5_FOLDER
from vl_lst.errors import ModelError

__all__ = ["backbone_config", "random_backbone"]

# Similarity above which a name is taken for a misspelt one.
MIN_SIMILARITY = 0.85


def backbone_config(name: str, *, vocabulary: int | None = None) -> Any:
    """Return the configuration of a T5, without network access for those of `t5_names`.

    Args:
        name: Hugging Face model ID such as `t5-base`, a local directory, or `demo` (bundled).
        vocabulary: Vocabulary size; `None` takes the published one.

    Raises:
        ModelError: There is no such model, or it is not a T5.
    """
    config = _named_config(name) or _config_from(name)
    if vocabulary is not None:
        config.vocab_size = vocabulary
    return config


def random_backbone(
    config: Any, *, dtype: torch.dtype = torch.float32
) -> T5ForConditionalGeneration:
    """Return a T5 with random weights, on torch's default device.

    Args:
        config: Configuration from `backbone_config`.
        dtype: Type of the weights.

    Raises:
        ModelError: The model cannot be built, or is larger than this machine's memory.
    """

    def cannot_build(reason: str) -> ModelError:
        return ModelError(f"cannot build a T5 of these sizes: {reason}")

    with guard_library_call(cannot_build):
        model: T5ForConditionalGeneration = AutoModelForSeq2SeqLM.from_config(
            config, dtype=dtype, trust_remote_code=False
        )
    if not config.scale_decoder_outputs:
        # v1.1 and Flan: transformers ties the output layer to the embedding until it loads weights
        # that differ, as in all published checkpoints.
        output_layer = model.get_output_embeddings()
        output_layer.weight = nn.Parameter(output_layer.weight.detach().clone())
    return model


def _named_config(name: str) -> Any:
    family, _, size = name.rpartition("-")
    if name in T5_SIZES:
        shape, is_v1_1 = T5_SIZES[name], False
    elif family in ("google/t5-v1_1", "google/flan-t5") and size in T5_V1_1_SIZES:
        shape, is_v1_1 = T5_V1_1_SIZES[size], True
    else:
        return None
    width, head_width, inner_width, layers, heads = shape
    sizes: dict[str, Any] = dict(
        d_model=width,
        d_kv=head_width,
        d_ff=inner_width,
        num_layers=layers,
        num_heads=heads,
        vocab_size=VOCABULARY,
        # v1.1 and Flan: gated GELU, and an output layer that is not tied to the embedding.
        feed_forward_proj="gated-gelu" if is_v1_1 else "relu",
        tie_word_embeddings=not is_v1_1,
        decoder_start_token_id=0,
    )
    return T5Config(**sizes)


def _config_from(name: str) -> Any:
    # Before asking the hub, which takes half a minute to fail without a network.
    nearest = difflib.get_close_matches(name, t5_names(), n=1, cutoff=MIN_SIMILARITY)
    if nearest and not Path(name).exists():
        raise ModelError(f"no backbone {name!r}; did you mean {nearest[0]}?")
    expected = (
        f"expected `{DEMO}`, a folder with a config.json, a Hugging Face model ID, or one of "
        f"{', '.join(t5_names())}"
    )
    with model_errors(f"no configuration of a backbone {name!r}, {expected}"):
        folder = (
            T5_FOLDER if name == DEMO else backbone_folder(name, (CONFIG_NAME, GENERATION_NAME))
        )
    with model_errors(f"cannot read the backbone {name!r}"):
        return read_config(folder)
