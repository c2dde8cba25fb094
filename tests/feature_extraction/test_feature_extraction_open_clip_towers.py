from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from feature_extraction.encoders.encoder import Encoder, build_encoder
from feature_extraction.encoders.registry import find_tower, output_shape
from feature_extraction.errors import EncoderError


def plain_tower(folder: Path) -> nn.Module:
    """The tower as open_clip itself loads the folder."""
    visual: nn.Module = open_clip.create_model(f"local-dir:{folder}").visual
    return visual.eval()


def pixels(count: int = 3, side: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def normalised(encoder: Encoder, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (encoder.spec.mean, encoder.spec.std))
    return (images / 255 - mean) / std


def assert_stored(found: np.ndarray, expected: Tensor) -> None:
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=2e-3, atol=1e-3)


class TestNumbers:
    """Features equal those of a plain forward of the same tower, as open_clip loads it."""

    def test_resnet_grid_is_layer4_row_by_row(self, resnet_folder: Path) -> None:
        encoder = build_encoder(resnet_folder, image_size=96, device="cpu")
        seen: list[Tensor] = []
        visual = build_plain = plain_tower(resnet_folder)
        visual.layer4.register_forward_hook(lambda _, __, output: seen.append(output))
        build_plain.attnpool = nn.Identity()  # its positions are of another size
        visual(normalised(encoder, pixels(side=96)))
        expected = torch.stack([seen[0][:, :, row, col] for row in range(3) for col in range(3)], 1)
        assert encoder.spec.grid == (3, 3)
        assert expected.abs().max() > 0.1
        assert_stored(encoder.encode(pixels(side=96), ["a", "b", "c"]), expected)

    def test_transformer_grid_is_the_normalised_patch_tokens(
        self, transformer_folder: Path
    ) -> None:
        encoder = build_encoder(transformer_folder, device="cpu")
        _, tokens = plain_tower(transformer_folder)(normalised(encoder, pixels()))
        assert (encoder.spec.grid, encoder.spec.quick_gelu) == ((4, 4), True)
        assert_stored(encoder.encode(pixels(), ["a", "b", "c"]), tokens)

    @pytest.mark.parametrize("kind", ["resnet", "transformer"])
    def test_pooled_is_the_towers_own_output(
        self, kind: str, request: pytest.FixtureRequest
    ) -> None:
        folder = request.getfixturevalue(f"{kind}_folder")
        encoder = build_encoder(folder, layer="pooled", device="cpu")
        output = plain_tower(folder)(normalised(encoder, pixels()))
        pooled = output[0] if isinstance(output, tuple) else output
        found = encoder.encode(pixels(), ["a", "b", "c"])
        assert found.shape == (3, 1, 16)
        assert_stored(found[:, 0], pooled)

    def test_transformer_positions_are_resized_as_open_clip_does(
        self, transformer_folder: Path
    ) -> None:
        encoder = build_encoder(transformer_folder, image_size=96, device="cpu")
        plain = open_clip.create_model(f"local-dir:{transformer_folder}", force_image_size=96)
        _, tokens = plain.visual.eval()(normalised(encoder, pixels(side=96)))
        assert_stored(encoder.encode(pixels(side=96), ["a", "b", "c"]), tokens)

    def test_timm_grid_is_the_normalised_patch_tokens(self, timm_folder: Path) -> None:
        """SigLIP's kind of tower, at a size that is not its own."""
        encoder = build_encoder(timm_folder, image_size=64, device="cpu")
        plain = plain_tower(timm_folder)
        plain.set_input_size(64)
        tokens = plain.trunk.forward_features(normalised(encoder, pixels()))[:, 1:]
        assert encoder.spec.grid == (4, 4)
        assert_stored(encoder.encode(pixels(), ["a", "b", "c"]), tokens)


class TestOpenClipByName:
    def test_any_model_of_its_list_is_built_at_its_own_size(self) -> None:
        tower = find_tower("ViT-L-14-336-quickgelu")
        assert (tower.image_size, tower.default_weights, tower.quick_gelu) == (336, "openai", True)
        assert output_shape(tower, 336, "grid") == ((24, 24), 1024)

    @pytest.mark.parametrize(
        ("name", "side", "grid", "channels"),
        [
            ("convnext_base", 224, 7, 1024),
            ("coca_ViT-B-32", 224, 7, 768),
            ("MobileCLIP-S1", 256, 8, 512),
            ("ViT-SO400M-14-SigLIP-384", 384, 27, 1152),
        ],
    )
    def test_towers_of_every_kind_have_a_grid(
        self, name: str, side: int, grid: int, channels: int
    ) -> None:
        """Convolutions, a norm after the pool, and a side that is no multiple of the patch."""
        tower = find_tower(name)
        assert tower.image_size == side
        assert output_shape(tower, side, "grid") == ((grid, grid), channels)

    def test_a_prefix_takes_open_clips_model_where_the_table_has_the_name(self) -> None:
        of_table, of_open_clip = find_tower("ViT-B-32"), find_tower("open_clip:ViT-B-32")
        assert (of_table.quick_gelu, of_open_clip.quick_gelu) == (True, False)
        assert of_table.architecture_sha256 != of_open_clip.architecture_sha256

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"encoder": "open_clip:ViT-B-32"}, "several pretrained weights .*laion2b.* --weights"),
            (
                {"encoder": "ViT-L-14-336"},
                "computes GELU, and openai were trained with QuickGELU, which "
                "ViT-L-14-336-quickgelu is for",
            ),
            ({"encoder": "ViT-S-16"}, "no pretrained weights in open_clip"),
            (
                {"encoder": "open_clip:ViT-B-32", "weights": "openai"},
                "trained with QuickGELU.*computes GELU",
            ),
        ],
    )
    def test_weights_that_would_be_a_guess_are_asked_for(
        self, settings: dict[str, str], message: str
    ) -> None:
        with pytest.raises(EncoderError, match=message):
            build_encoder(**settings, device="cpu")  # type: ignore[arg-type]

    def test_a_normalisation_that_would_be_a_guess_is_asked_for(self, tmp_path: Path) -> None:
        """open_clip's weights for this one were trained with two different ones."""
        (tmp_path / "w.safetensors").write_bytes(b"")
        save_file({"visual.proj": torch.zeros(2)}, tmp_path / "w.safetensors")
        with pytest.raises(EncoderError, match=r"differ in their normalisation.*beside it"):
            build_encoder("open_clip:ViT-L-14", weights=tmp_path / "w.safetensors", device="cpu")
