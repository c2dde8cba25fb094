"""Backbones and tokenizers by name: the embedded default, a local folder, the Hugging Face hub."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vl_lst.backbones.backbone import FrozenBackbone
from vl_lst.backbones.folder import (
    backbone_folder,
    load_tokenizer,
    load_weights,
    model_errors,
    read_config,
)
from vl_lst.backbones.quantization import BackbonePrecision, inner_tensors, quantise
from vl_lst.bundled import T5_FOLDER
from vl_lst.checks import require_choice
from vl_lst.errors import ModelError

__all__ = [
    "DEMO",
    "DTYPES",
    "LoadedBackbone",
    "load_backbone",
    "weights_fingerprint",
]

DEMO = "demo"
# Of what is not quantised; the activations follow it.
DTYPES: dict[BackbonePrecision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.bfloat16,
    "nf4": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class LoadedBackbone:
    """A frozen backbone and what belongs to it.

    Args:
        backbone: The model.
        tokenizer: Its Hugging Face tokenizer.
        fingerprint: SHA-256 of its weights; a run refuses to go on with another backbone.
    """

    backbone: FrozenBackbone
    tokenizer: Any
    fingerprint: str


def load_backbone(name: str | Path, *, precision: BackbonePrecision = "fp32") -> LoadedBackbone:
    """Load a T5 (v1.0, v1.1, Flan) and its tokenizer.

    Args:
        name: `demo`, a folder in Hugging Face's layout with safetensors weights, or a name on the
            hub such as `t5-base`.
        precision: Of the frozen weights and their activations; quantised ones (`int8`, `nf4`) have
            activations in bfloat16, see `vl_lst.backbones.quantization.quantise`.

    Raises:
        ModelError: There is no such model, it is not a T5, or a file of it is damaged or unsafe
            to read; the message names the file.
    """
    if not isinstance(name, str | Path):
        raise ModelError(
            f"the backbone is a {type(name).__name__}: expected its name or folder, as a text or a "
            "pathlib.Path"
        )
    require_choice("precision of a backbone", precision, tuple(DTYPES))
    name = str(name)
    problem = f"cannot load the backbone {name!r:.200}"
    expected = (
        f"expected `{DEMO}`, a folder holding a Hugging Face T5 (config.json, tokenizer.json, "
        "model.safetensors), or a name on the hub such as t5-base"
    )
    with model_errors(f"{problem}, {expected}"):
        folder = T5_FOLDER if name == DEMO else backbone_folder(name)
    with model_errors(problem):
        config = read_config(folder)
        tokenizer = load_tokenizer(folder, config)
        model = load_weights(folder, config, DTYPES[precision])
    if precision in ("int8", "nf4"):
        quantise(model, precision)
    return LoadedBackbone(FrozenBackbone(model), tokenizer, weights_fingerprint(model))


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all parameters, in order of their names."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        for tensor in inner_tensors(parameter.detach()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            # A quantised weight has one scale for all, which as a scalar has no bytes to view.
            flat = tensor.cpu().contiguous().view(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
