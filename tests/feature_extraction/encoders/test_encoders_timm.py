import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import TIMM, normalised, random_pixels, write_timm
from torch import Tensor

from feature_extraction.encoders import weights
from feature_extraction.encoders.encoder import Encoder, build_encoder, encoder_from_spec
from feature_extraction.encoders.registry import find_architecture, output_shape
from feature_extraction.encoders.timm import TimmArchitecture
from feature_extraction.errors import EncoderError


def assert_features(encoder: Encoder, images: Tensor, expected: Tensor) -> None:
    found = torch.from_numpy(encoder.encode(images, ["a", "b"])).float()
    torch.testing.assert_close(found, expected.detach(), rtol=2e-3, atol=1e-3)


class TestNumbers:
    """Features equal the output of timm's own interface."""

    @pytest.mark.parametrize(("kind", "prefix"), [("vit", 1), ("dinov2-registers", 5)])
    def test_a_transformers_grid_has_no_class_and_register_tokens(
        self, kind: str, prefix: int, tmp_path: Path
    ) -> None:
        model = write_timm(tmp_path / "encoder", kind)
        encoder = build_encoder(tmp_path / "encoder", device="cpu")
        normal = normalised(random_pixels(2), encoder.spec)
        assert_features(encoder, random_pixels(2), model.forward_features(normal)[:, prefix:])

    def test_a_resnets_grid_is_its_last_map_row_by_row(self, tmp_path: Path) -> None:
        model = write_timm(tmp_path / "encoder", "resnet")
        encoder = build_encoder(tmp_path / "encoder", image_size=96, device="cpu")
        normal = normalised(random_pixels(2, 96), encoder.spec)
        assert_features(encoder, random_pixels(2, 96), model.forward_features(normal).flatten(2).mT)

    @pytest.mark.parametrize("kind", TIMM)
    def test_pooled_is_the_output_without_the_classifier(self, kind: str, tmp_path: Path) -> None:
        model = write_timm(tmp_path / "encoder", kind)
        encoder = build_encoder(tmp_path / "encoder", layer="pooled", device="cpu")
        normal = normalised(random_pixels(2), encoder.spec)
        expected = model.forward_head(model.forward_features(normal), pre_logits=True)
        assert_features(encoder, random_pixels(2), expected[:, None])

    def test_positions_are_resized_as_timm_does(self, tmp_path: Path) -> None:
        folder = tmp_path / "encoder"
        write_timm(folder, "vit")
        encoder = build_encoder(folder, image_size=96, device="cpu")
        plain = timm.create_model(f"local-dir:{folder}", pretrained=True, img_size=96).eval()
        normal = normalised(random_pixels(2, 96), encoder.spec)
        assert_features(encoder, random_pixels(2, 96), plain.forward_features(normal)[:, 1:])


class TestWeights:
    def test_a_file_without_a_classifier_is_accepted(self, tmp_path: Path) -> None:
        write_timm(tmp_path / "encoder", "vit")
        state = load_file(tmp_path / "encoder" / "model.safetensors")
        body = {key: t for key, t in state.items() if not key.startswith("head.")}
        save_file(body, tmp_path / "body.safetensors")
        whole = build_encoder(tmp_path / "encoder", device="cpu")
        part = build_encoder(
            tmp_path / "encoder", weights=tmp_path / "body.safetensors", device="cpu"
        )
        assert part.spec.weights == "file:body.safetensors"
        images = random_pixels(2)
        assert (whole.encode(images, ["a", "b"]) == part.encode(images, ["a", "b"])).all()

    def test_a_tag_uses_the_safetensors_file_of_its_repository(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`--encoder timm:NAME`, with a local folder instead of the download."""
        requests: list[tuple[str, list[str]]] = []

        def download(name: str, *, revision: object, allow_patterns: list[str]) -> str:
            requests.append((name, allow_patterns))
            return str(tmp_path)

        model = timm.create_model("test_vit")
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        monkeypatch.setattr(weights, "snapshot_download", download)
        built = build_encoder("timm:test_vit", device="cpu")
        assert (built.spec.encoder, built.spec.weights) == ("timm:test_vit", "r160_in1k")
        assert requests[0][0] == "timm/test_vit.r160_in1k"
        assert all(pattern.endswith(".safetensors") for pattern in requests[0][1])
        assert encoder_from_spec(built.spec, device="cpu").spec == built.spec
        by_tag = build_encoder("timm:test_vit", weights="r160_in1k", device="cpu")
        assert by_tag.spec == built.spec
        named = build_encoder("timm:test_vit.r160_in1k", device="cpu")
        assert named.spec.digest == built.spec.digest

    def test_a_repository_without_safetensors_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(weights, "snapshot_download", lambda *_, **__: str(tmp_path))
        (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
        with pytest.raises(EncoderError, match="not on the hub as safetensors"):
            build_encoder("timm:test_vit", device="cpu")

    def test_a_repository_is_read_like_a_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_timm(tmp_path / "encoder", "vit")
        monkeypatch.setattr(
            weights, "snapshot_download", lambda *_, **__: str(tmp_path / "encoder")
        )
        built = build_encoder("timm:owner/name", device="cpu")
        assert (built.spec.encoder, built.spec.weights) == ("timm:owner/name", "hub:owner/name")
        assert built.spec.digest == build_encoder(tmp_path / "encoder", device="cpu").spec.digest
        assert encoder_from_spec(built.spec, device="cpu").spec == built.spec

    def test_weights_trained_with_quick_gelu_need_an_architecture_that_computes_it(self) -> None:
        with pytest.raises(EncoderError, match="trained with QuickGELU.*have quickgelu in their"):
            build_encoder("timm:vit_base_patch32_clip_224.openai", device="cpu")
        assert find_architecture("timm:vit_base_patch32_clip_quickgelu_224.openai").quick_gelu
        assert not find_architecture("timm:vit_tiny_patch16_224").quick_gelu

    def test_an_unknown_tag_lists_the_known_ones(self) -> None:
        with pytest.raises(EncoderError, match="its tags: r160_in1k"):
            build_encoder("timm:test_vit", weights="imagenet", device="cpu")

    def test_an_architecture_without_weights_says_so(self) -> None:
        with pytest.raises(EncoderError, match="timm:mixer_s32_224 has no pretrained weights"):
            build_encoder("timm:mixer_s32_224", device="cpu")


@pytest.mark.parametrize(
    ("name", "side", "grid", "channels"),
    [
        ("vit_small_patch14_dinov2", 518, 37, 384),
        ("vit_small_patch16_dinov3", 256, 16, 384),
        ("swin_tiny_patch4_window7_224", 224, 7, 768),
        ("convnext_tiny", 224, 7, 768),
        ("efficientnet_b0", 224, 7, 320),
    ],
)
def test_encoders_of_many_kinds_have_grids(name: str, side: int, grid: int, channels: int) -> None:
    architecture = find_architecture(f"timm:{name}")
    assert architecture.image_size == side
    assert output_shape(architecture, side, "grid") == ((grid, grid), channels)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"architecture": "unknown_vit"}, "no architecture 'unknown_vit'"),
        ({"architecture": 3}, "has no architecture"),
        ({"pretrained_cfg": []}, "not a JSON object"),
        (
            {"pretrained_cfg": {"input_size": [3, 64, 32]}},
            "expected an encoder of square RGB",
        ),
        ({"model_args": {"depth": "many"}}, "timm cannot build"),
    ],
)
def test_a_folder_with_a_wrong_config(
    tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    write_timm(tmp_path / "encoder", "vit")
    path = tmp_path / "encoder" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(EncoderError, match=message):
        TimmArchitecture.from_folder(tmp_path / "encoder")
