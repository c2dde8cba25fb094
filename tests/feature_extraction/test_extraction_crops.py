"""Features of a photograph and its tiles."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from feature_extraction.encoders import encoder as encoder_module
from feature_extraction.encoders.encoder import build_encoder, encode_image
from feature_extraction.errors import EncoderError, StoreError
from feature_extraction.exchange.verification import verify
from feature_extraction.extract import extract
from feature_extraction.images.decode import Decoded, decode_image
from feature_extraction.store.store import FeatureStore


def test_the_features_of_a_store_equal_those_of_each_photograph_alone(
    resnet_folder: Path, tmp_path: Path
) -> None:
    encoder = build_encoder(resnet_folder, crops=2, device="cpu")
    (tmp_path / "images").mkdir()
    for number in range(5):
        picture = np.random.default_rng(number).integers(0, 256, (90, 130, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / "images" / f"{number}.png")
    extract(tmp_path / "images", tmp_path / "f.h5", encoder, batch_size=2)
    store = FeatureStore(tmp_path / "f.h5")
    assert store.spec == encoder.spec
    assert (store.tokens, store.spec.squares) == (5 * 4, 5)
    for number in range(5):
        alone = encode_image(tmp_path / "images" / f"{number}.png", encoder)
        np.testing.assert_allclose(
            store[str(number)].astype(float), alone.astype(float), rtol=4e-3, atol=2e-3
        )
    assert not verify(store, tmp_path / "images", encoder).wrong
    whole = build_encoder(resnet_folder, device="cpu")
    assert np.array_equal(alone[:4], encode_image(tmp_path / "images" / "4.png", whole))
    with pytest.raises(StoreError, match="crops: found 2, expected 1"):
        extract(tmp_path / "images", tmp_path / "f.h5", whole)


def test_the_pooled_layer_has_one_vector_per_square(resnet_folder: Path) -> None:
    encoder = build_encoder(resnet_folder, crops=3, layer="pooled", device="cpu")
    picture = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    assert encode_image(Image.fromarray(picture), encoder).shape == (10, 16)


def test_a_large_photograph_is_decoded_for_the_size_of_all_tiles(
    resnet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise tiles would be upscaled from an image decoded for the small square."""
    sides: list[int] = []

    def record_side(picture: Image.Image, side: int) -> Decoded:
        sides.append(side)
        return decode_image(picture, side)

    monkeypatch.setattr(encoder_module, "decode_image", record_side)
    encoder = build_encoder(resnet_folder, crops=2, device="cpu")
    encode_image(Image.new("RGB", (3000, 1500)), encoder)
    assert sides == [128]


def test_images_with_another_number_of_squares_are_an_error(resnet_folder: Path) -> None:
    encoder = build_encoder(resnet_folder, crops=2, device="cpu")
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        encoder.encode(torch.zeros(3, 3, 64, 64, dtype=torch.uint8), ["a", "b", "c"])


def test_too_many_crops_are_refused(resnet_folder: Path) -> None:
    with pytest.raises(EncoderError, match="crops is 9, expected 1 to 8"):
        build_encoder(resnet_folder, crops=9, device="cpu")
