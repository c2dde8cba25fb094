"""A tiny tower and generated photographs, so that every path runs in milliseconds."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from feature_extraction.encoders import Encoder, build_encoder
from feature_extraction.images import ImageFile, find_images

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


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Forked children must not find a thread pool whose threads stayed with their parent."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_tower(folder: Path, config: dict[str, object]) -> Path:
    """Write a tower's folder as open_clip does, every tensor drawn so that none is idle."""
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


@pytest.fixture(scope="session")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tower(tmp_path_factory.mktemp("towers") / "tiny-timm", TIMM)


@pytest.fixture(scope="session")
def resnet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tower(tmp_path_factory.mktemp("towers") / "tiny-resnet", RESNET)


@pytest.fixture(scope="session")
def transformer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tower(tmp_path_factory.mktemp("towers") / "tiny-transformer", TRANSFORMER)


@pytest.fixture(scope="session")
def encoder(resnet_folder: Path) -> Encoder:
    return build_encoder(resnet_folder, device="cpu")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Eleven small pictures of different shapes, two of them broken."""
    folder = tmp_path / "photographs"
    (folder / "deeper").mkdir(parents=True)
    generator = np.random.default_rng(5)
    for number in range(9):
        pixels = generator.integers(0, 256, (20 + 7 * number, 90 - 6 * number, 3), np.uint8)
        place = folder / "deeper" if number % 2 else folder
        Image.fromarray(pixels).save(place / f"photo{number}.png")
    (folder / "photo3-empty.jpg").write_bytes(b"")
    (folder / "photo5-page.jpg").write_text("<html>not found</html>")
    return folder


@pytest.fixture
def files(photographs: Path) -> list[ImageFile]:
    return find_images(photographs)
