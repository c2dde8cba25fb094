from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoints import normalised, random_pixels
from torch import Tensor, nn

from feature_extraction.encoders.encoder import build_encoder
from feature_extraction.encoders.registry import find_architecture, output_shape
from feature_extraction.errors import EncoderError


def load_with_open_clip(folder: Path) -> nn.Module:
    """Return the image tower as open_clip itself loads the folder."""
    visual: nn.Module = open_clip.create_model(f"local-dir:{folder}").visual
    return visual.eval()


def assert_stored(found: np.ndarray, expected: Tensor) -> None:
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=2e-3, atol=1e-3)


class TestNumbers:
    """Features equal the output of the same image tower, loaded by open_clip."""

    def test_resnet_grid_is_layer4_row_by_row(self, resnet_folder: Path) -> None:
        encoder = build_encoder(resnet_folder, image_size=96, device="cpu")
        seen: list[Tensor] = []
        visual = load_with_open_clip(resnet_folder)
        visual.layer4.register_forward_hook(lambda _, __, output: seen.append(output))
        visual.attnpool = nn.Identity()  # its positions have another size
        visual(normalised(random_pixels(side=96), encoder.spec))
        expected = torch.stack([seen[0][:, :, row, col] for row in range(3) for col in range(3)], 1)
        assert encoder.spec.grid == (3, 3)
        assert expected.abs().max() > 0.1
        assert_stored(encoder.encode(random_pixels(side=96), ["a", "b", "c"]), expected)

    def test_transformer_grid_is_the_normalised_patch_tokens(
        self, transformer_folder: Path
    ) -> None:
        encoder = build_encoder(transformer_folder, device="cpu")
        _, tokens = load_with_open_clip(transformer_folder)(
            normalised(random_pixels(), encoder.spec)
        )
        assert (encoder.spec.grid, encoder.spec.quick_gelu) == ((4, 4), True)
        assert_stored(encoder.encode(random_pixels(), ["a", "b", "c"]), tokens)

    @pytest.mark.parametrize("kind", ["resnet", "transformer"])
    def test_pooled_is_the_output_of_the_image_tower(
        self, kind: str, request: pytest.FixtureRequest
    ) -> None:
        folder = request.getfixturevalue(f"{kind}_folder")
        encoder = build_encoder(folder, layer="pooled", device="cpu")
        output = load_with_open_clip(folder)(normalised(random_pixels(), encoder.spec))
        pooled = output[0] if isinstance(output, tuple) else output
        found = encoder.encode(random_pixels(), ["a", "b", "c"])
        assert found.shape == (3, 1, 16)
        assert_stored(found[:, 0], pooled)

    def test_transformer_positions_are_resized_as_open_clip_does(
        self, transformer_folder: Path
    ) -> None:
        encoder = build_encoder(transformer_folder, image_size=96, device="cpu")
        plain = open_clip.create_model(f"local-dir:{transformer_folder}", force_image_size=96)
        _, tokens = plain.visual.eval()(normalised(random_pixels(side=96), encoder.spec))
        assert_stored(encoder.encode(random_pixels(side=96), ["a", "b", "c"]), tokens)

    def test_timm_grid_is_the_normalised_patch_tokens(self, timm_folder: Path) -> None:
        """As in SigLIP, at another image size than the default."""
        encoder = build_encoder(timm_folder, image_size=64, device="cpu")
        plain = load_with_open_clip(timm_folder)
        plain.set_input_size(64)
        tokens = plain.trunk.forward_features(normalised(random_pixels(), encoder.spec))[:, 1:]
        assert encoder.spec.grid == (4, 4)
        assert_stored(encoder.encode(random_pixels(), ["a", "b", "c"]), tokens)


class TestOpenClipByName:
    def test_any_model_of_its_list_is_built_at_its_default_size(self) -> None:
        architecture = find_architecture("ViT-L-14-336-quickgelu")
        assert architecture.image_size == 336
        assert architecture.default_weights == "openai"
        assert architecture.quick_gelu
        assert output_shape(architecture, 336, "grid") == ((24, 24), 1024)

    @pytest.mark.parametrize(
        ("name", "side", "grid", "channels"),
        [
            ("convnext_base", 224, 7, 1024),
            ("coca_ViT-B-32", 224, 7, 768),
            ("MobileCLIP-S1", 256, 8, 512),
            ("ViT-SO400M-14-SigLIP-384", 384, 27, 1152),
        ],
    )
    def test_encoders_of_every_kind_have_a_grid(
        self, name: str, side: int, grid: int, channels: int
    ) -> None:
        """Convolutions, a norm after the pool, and a size that is no multiple of the patch."""
        architecture = find_architecture(name)
        assert architecture.image_size == side
        assert output_shape(architecture, side, "grid") == ((grid, grid), channels)

    def test_a_prefix_takes_open_clips_model_where_the_table_has_the_name(self) -> None:
        table_row = find_architecture("ViT-B-32")
        model = find_architecture("open_clip:ViT-B-32")
        assert (table_row.quick_gelu, model.quick_gelu) == (True, False)
        assert table_row.architecture_sha256 != model.architecture_sha256

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                {"encoder": "open_clip:ViT-B-32"},
                "several pretrained weights: .*laion2b",
            ),
            (
                {"encoder": "ViT-L-14-336"},
                "computes GELU, but openai were trained with QuickGELU. Use "
                "ViT-L-14-336-quickgelu with them",
            ),
            ({"encoder": "ViT-S-16"}, "no pretrained weights in open_clip"),
            (
                {"encoder": "open_clip:ViT-B-32", "weights": "openai"},
                "trained with QuickGELU.*computes GELU",
            ),
        ],
    )
    def test_ambiguous_weights_are_an_error(self, settings: dict[str, str], message: str) -> None:
        with pytest.raises(EncoderError, match=message):
            build_encoder(**settings, device="cpu")  # type: ignore[arg-type]

    def test_an_ambiguous_normalisation_is_an_error(self, tmp_path: Path) -> None:
        """open_clip has weights of this model with different normalisations."""
        save_file({"visual.proj": torch.zeros(2)}, tmp_path / "w.safetensors")
        with pytest.raises(EncoderError, match=r"differ in their normalisation.*same folder"):
            build_encoder("open_clip:ViT-L-14", weights=tmp_path / "w.safetensors", device="cpu")
