"""Tiny encoders and generated photographs, so that tests run in milliseconds."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_open_clip import RESNET, TIMM, TRANSFORMER, write_open_clip

from feature_extraction.encoders.encoder import Encoder, build_encoder
from feature_extraction.extract import extract
from feature_extraction.images.finding import ImageFile, find_images


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Forked processes must not inherit a thread pool, because its threads are not forked."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_open_clip(tmp_path_factory.mktemp("encoders") / "tiny-timm", TIMM)


@pytest.fixture(scope="session")
def resnet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_open_clip(tmp_path_factory.mktemp("encoders") / "tiny-resnet", RESNET)


@pytest.fixture(scope="session")
def transformer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_open_clip(tmp_path_factory.mktemp("encoders") / "tiny-transformer", TRANSFORMER)


@pytest.fixture(scope="session")
def encoder(resnet_folder: Path) -> Encoder:
    return build_encoder(resnet_folder, device="cpu")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Eleven small images of different shapes, two of them broken."""
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
def uninterrupted(photographs: Path, encoder: Encoder, tmp_path: Path) -> bytes:
    """The content of the file of an uninterrupted extraction with three images per batch."""
    extract(photographs, tmp_path / "uninterrupted.h5", encoder, batch_size=3)
    return (tmp_path / "uninterrupted.h5").read_bytes()


@pytest.fixture
def files(photographs: Path) -> list[ImageFile]:
    return find_images(photographs)
