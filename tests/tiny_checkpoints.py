"""Tiny checkpoints of timm and transformers, written by the libraries themselves."""

from collections.abc import Callable
from pathlib import Path

import timm
import torch
import transformers
from timm.models._hub import save_for_hf
from torch import Tensor, nn

from feature_extraction.spec import FeatureSpec

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SIDE = 64

TRANSFORMER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 16,
}
DINOV2 = {key: value for key, value in TRANSFORMER.items() if key != "intermediate_size"}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 16,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
CONVOLUTIONS = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}

# Models of transformers with random weights, by name.
HUGGINGFACE: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**DINOV2)),
    "dinov2-registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**DINOV2, num_register_tokens=4)
    ),
    "dinov3": lambda: transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(**TRANSFORMER, num_register_tokens=4)
    ),
    "clip": lambda: transformers.CLIPModel(
        transformers.CLIPConfig(text_config=TEXT, vision_config=TRANSFORMER, projection_dim=16)
    ),
    "siglip": lambda: transformers.SiglipModel(
        transformers.SiglipConfig(text_config=TEXT, vision_config=TRANSFORMER)
    ),
    "vit-classifier": lambda: transformers.ViTForImageClassification(
        transformers.ViTConfig(**TRANSFORMER)
    ),
    "convnext": lambda: transformers.ConvNextModel(transformers.ConvNextConfig(**CONVOLUTIONS)),
}

# Models of timm and the arguments that make them small, by name.
TIMM: dict[str, tuple[str, dict[str, object]]] = {
    "vit": (
        "vit_small_patch16_224",
        {"img_size": SIDE, "embed_dim": 32, "depth": 2, "num_heads": 2},
    ),
    "dinov2-registers": (
        "vit_small_patch14_reg4_dinov2",
        {"img_size": SIDE, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2},
    ),
    "resnet": ("resnet18", {"channels": (8, 8, 16, 16)}),
}


def randomise(module: nn.Module) -> None:
    """Draw random numbers for every tensor, so that all of them affect the features."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator) * 0.2
            tensor.copy_(drawn.abs() + 0.5 if "running_var" in name else drawn)


def write_huggingface(folder: Path, kind: str) -> transformers.PreTrainedModel:
    """Write a folder with `save_pretrained`; return the model."""
    torch.manual_seed(0)
    model = HUGGINGFACE[kind]().eval()
    randomise(model)
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    transformers.BitImageProcessor(
        image_mean=list(MEAN),
        image_std=list(STD),
        size={"shortest_edge": SIDE + 8},
        crop_size=size,
    ).save_pretrained(folder)
    return model


def write_timm(folder: Path, kind: str, num_classes: int = 5) -> nn.Module:
    """Write a folder in timm's format for the hub; return the model."""
    architecture, arguments = TIMM[kind]
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=num_classes, **arguments).eval()
    randomise(model)
    settings = {"input_size": (3, SIDE, SIDE), "mean": MEAN, "std": STD}
    config = {"pretrained_cfg": settings, "model_args": arguments}
    save_for_hf(model, str(folder), config, safe_serialization=True)
    return model


def random_pixels(count: int = 3, side: int = SIDE) -> Tensor:
    """Return uint8 images `[count, 3, side, side]`."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def normalised(images: Tensor, spec: FeatureSpec) -> Tensor:
    """Return the input of an encoder for 8-bit images, independently of the code under test."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    return (images / 255 - mean) / std
