"""The tokens of a language model that reads another encoder's cells, pooled and projected."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import random_pixels
from torch import Tensor

from feature_extraction.encoders.encoder import build_encoder, encoder_from_spec
from feature_extraction.encoders.projected import pool_with_positions
from feature_extraction.encoders.weights import projection_sha256
from feature_extraction.errors import EncoderError
from feature_extraction.spec import FeatureSpec

# Of the tiny ResNet: 64 pixels are 2 x 2 cells.
CHANNELS, SIDE, WIDTH = 256, 2, 12
CONFIG, WEIGHTS = "image_encoder.json", "model.safetensors"
IDS = ["a", "b", "c"]


@pytest.fixture
def folder(resnet_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(resnet_folder, tmp_path / "inner")
    folder = tmp_path / "reader"
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps({"folder": "inner", "side": SIDE}))
    generator = torch.Generator().manual_seed(0)
    save_file(
        {
            "language_projection.weight": torch.randn(
                WIDTH, CHANNELS + 2 * SIDE, generator=generator
            ).half(),
            "language_projection.bias": torch.randn(WIDTH, generator=generator).half(),
            "language_model.shared.weight": torch.zeros(9, WIDTH),
        },
        folder / WEIGHTS,
    )
    return folder


def projection(folder: Path) -> dict[str, Tensor]:
    state = load_file(folder / WEIGHTS)
    return {name: state[f"language_projection.{name}"].float() for name in ("weight", "bias")}


def test_tokens_are_the_pooled_cells_after_the_projection(folder: Path) -> None:
    inner = build_encoder(folder.parent / "inner", image_size=128, device="cpu")
    built = build_encoder(folder, image_size=128, device="cpu")
    assert (built.spec.layer, built.spec.grid, built.spec.channels) == ("language", (2, 2), WIDTH)
    pixels = random_pixels(3, 128)[:, None]
    cells = torch.from_numpy(inner.encode(pixels, IDS)).float().unflatten(1, inner.spec.grid)
    weights = projection(folder)
    expected = []
    for row in range(SIDE):
        for column in range(SIDE):
            mean = cells[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean((1, 2))
            place = torch.zeros(3, 2 * SIDE)
            place[:, row] = place[:, SIDE + column] = 1
            expected.append(torch.cat((mean, place), 1) @ weights["weight"].T + weights["bias"])
    tokens = built.encode(pixels, IDS).astype(np.float32)
    np.testing.assert_allclose(tokens, torch.stack(expected, 1).numpy(), rtol=0.01, atol=0.02)


def test_it_can_be_built_again_from_its_spec(folder: Path) -> None:
    built = build_encoder(folder, device="cpu", name="own")
    spec = FeatureSpec.from_json(built.spec.to_json())
    again = encoder_from_spec(spec, folder, device="cpu")
    assert again.spec == built.spec
    pixels = random_pixels(3, 64)[:, None]
    assert np.array_equal(built.encode(pixels, IDS), again.encode(pixels, IDS))


def test_the_spec_identifies_the_projection_and_the_image_encoder(
    folder: Path, transformer_folder: Path
) -> None:
    built = build_encoder(folder, device="cpu").spec
    assert built.projection_sha256 == projection_sha256(projection(folder))
    state = load_file(folder / WEIGHTS)
    state["language_projection.bias"][0] += 1
    save_file(state, folder / WEIGHTS)
    changed = build_encoder(folder, device="cpu").spec
    assert changed.projection_sha256 != built.projection_sha256
    with pytest.raises(EncoderError, match="projection_sha256"):
        encoder_from_spec(built, folder, device="cpu")
    inner = folder.parent / "inner" / "open_clip_model.safetensors"
    other = {name: tensor + 1 for name, tensor in load_file(inner).items()}
    save_file(other, inner)
    changed_again = build_encoder(folder, device="cpu").spec
    assert changed_again.projection_sha256 == changed.projection_sha256
    assert changed_again.weights_sha256 != changed.weights_sha256


def test_positions_tell_cells_apart() -> None:
    cells = pool_with_positions(torch.zeros(1, 3, 7, 7), 4)
    assert cells.shape == (1, 11, 4, 4)
    assert len(cells.flatten(2)[0].T.unique(dim=0)) == 16


@pytest.mark.parametrize("layer", ["grid", "pooled"])
def test_it_has_no_other_layer(folder: Path, layer: str) -> None:
    with pytest.raises(EncoderError, match="language"):
        build_encoder(folder, device="cpu", layer=layer)


def test_other_weights_are_refused(folder: Path) -> None:
    with pytest.raises(EncoderError, match="Leave out --weights"):
        build_encoder(folder, device="cpu", weights=folder / WEIGHTS)


@pytest.mark.parametrize("name", ["..", "../inner", "/", "", "missing", "reader", 3, None])
def test_only_an_encoder_next_to_the_folder_is_read(folder: Path, name: object) -> None:
    (folder / CONFIG).write_text(json.dumps({"folder": name, "side": SIDE}))
    with pytest.raises(EncoderError, match=CONFIG):
        build_encoder(folder, device="cpu")


@pytest.mark.parametrize("side", [0, -1, 65, 10**12, 1.5, True, "4", None])
def test_a_side_that_is_no_number_of_rows_is_refused(folder: Path, side: object) -> None:
    (folder / CONFIG).write_text(json.dumps({"folder": "inner", "side": side}))
    with pytest.raises(EncoderError, match=f"{CONFIG}: side is"):
        build_encoder(folder, device="cpu")


def test_a_projection_that_does_not_fit_is_refused(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    weight = state.pop("language_projection.weight")
    save_file(state, folder / WEIGHTS)
    with pytest.raises(EncoderError, match=r"no matrix language_projection\.weight"):
        build_encoder(folder, device="cpu")
    save_file(state | {"language_projection.weight": weight[:, 1:].contiguous()}, folder / WEIGHTS)
    with pytest.raises(EncoderError, match="reader"):
        build_encoder(folder, device="cpu")
    bias = state.pop("language_projection.bias")
    save_file(state | {"language_projection.weight": weight}, folder / WEIGHTS)
    with pytest.raises(EncoderError, match="the projection in"):
        build_encoder(folder, device="cpu")
    save_file(
        {"language_projection.weight": weight, "language_projection.bias": bias[1:]},
        folder / WEIGHTS,
    )
    with pytest.raises(EncoderError, match="the projection in"):
        build_encoder(folder, device="cpu")
