"""Tiny models of open_clip."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

RESNET = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
    "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
}
TRANSFORMER = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 64,
        "patch_size": 16,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "output_tokens": True,
    },
    "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
}
TIMM = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 224,
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "token",
        "timm_proj": "linear",
    },
    "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
}


def write_open_clip(folder: Path, config: dict[str, object]) -> Path:
    """Write a folder in open_clip's format, with random numbers in every tensor."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(3)
    state = open_clip.CLIP(**json.loads(json.dumps(config))).state_dict()
    drawn = {
        name: torch.rand(tensor.shape, generator=generator).add_(0.5)
        if "running_var" in name
        else torch.randn(tensor.shape, generator=generator).mul_(0.3)
        for name, tensor in state.items()
        if tensor.is_floating_point()
    }
    counters = {name: t for name, t in state.items() if not t.is_floating_point()}
    save_file({**drawn, **counters}, folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    (folder / "open_clip_config.json").write_text(text)
    return folder
