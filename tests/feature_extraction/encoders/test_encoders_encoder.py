import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_checkpoints import random_pixels

from feature_extraction.encoders.encoder import (
    Encoder,
    build_encoder,
    encode_image,
    encoder_from_spec,
)
from feature_extraction.encoders.registry import find_architecture, output_shape
from feature_extraction.encoders.table import ENCODERS
from feature_extraction.errors import EncoderError, ImageError


class TestTable:
    @pytest.mark.parametrize("name", ENCODERS)
    def test_rows_have_the_shapes_of_the_encoders(self, name: str) -> None:
        row, architecture = ENCODERS[name], find_architecture(name)
        assert output_shape(architecture, 224, "grid") == (row.grid, row.channels)
        # The attention pool of RN50x4 requires its default image size.
        config = (open_clip.get_model_config(row.model) or {"vision_cfg": {}})["vision_cfg"]
        side = config.get("image_size", 224)
        assert output_shape(architecture, side, "pooled") == ((1, 1), row.pooled_channels)

    @pytest.mark.parametrize("name", ENCODERS)
    def test_default_weights_were_trained_with_the_encoders_activation(self, name: str) -> None:
        row, architecture = ENCODERS[name], find_architecture(name)
        assert (architecture.name, architecture.image_size) == (name, 224)
        assert architecture.default_weights == row.weights
        tag = open_clip.get_pretrained_cfg(row.model, row.weights)
        if tag:
            assert tag.get("quick_gelu", False) == architecture.quick_gelu
            assert architecture.normalisation == (tuple(tag["mean"]), tuple(tag["std"]))
        else:
            assert row.model.startswith("timm:")


class TestEncode:
    def test_bf16_is_close_and_recorded(self, resnet_folder: Path) -> None:
        exact = build_encoder(resnet_folder, device="cpu")
        fast = build_encoder(resnet_folder, precision="bf16", device="cpu")
        expected = exact.encode(random_pixels(), ["a", "b", "c"]).astype(np.float32)
        found = fast.encode(random_pixels(), ["a", "b", "c"]).astype(np.float32)
        assert 0 < np.abs(found - expected).mean() < 0.02 * np.abs(expected).mean()
        assert fast.spec.digest != exact.spec.digest

    def test_features_that_are_not_finite_name_the_image(self, resnet_folder: Path) -> None:
        encoder = build_encoder(resnet_folder, device="cpu")
        encoder._module.layer4[0].conv1.weight.fill_(torch.inf)
        with pytest.raises(EncoderError, match="'a'.*not finite"):
            encoder.encode(random_pixels(), ["a", "b", "c"])


class TestWeights:
    def test_random_weights_are_recorded_and_repeatable_and_keep_the_callers_random_state(
        self, resnet_folder: Path
    ) -> None:
        before = torch.random.get_rng_state()
        first = build_encoder(resnet_folder, weights="random", device="cpu")
        assert torch.equal(before, torch.random.get_rng_state())
        torch.rand(7)
        second = build_encoder(resnet_folder, weights="random", device="cpu")
        assert first.spec.weights == "random"
        assert first.spec.digest == second.spec.digest

    def test_the_hash_depends_on_the_weights_not_on_their_file(
        self, resnet_folder: Path, tmp_path: Path
    ) -> None:
        state = load_file(resnet_folder / "open_clip_model.safetensors")
        save_file(dict(reversed(state.items())), tmp_path / "other.safetensors", {"a": "b"})
        own = build_encoder(resnet_folder, device="cpu").spec
        copied = build_encoder(
            resnet_folder, weights=tmp_path / "other.safetensors", image_size=96, device="cpu"
        ).spec
        assert (own.weights, copied.weights) == (
            "file:open_clip_model.safetensors",
            "file:other.safetensors",
        )
        assert own.weights_sha256 == copied.weights_sha256
        state["visual.conv1.weight"][0, 0, 0, 0] += 1
        save_file(state, tmp_path / "changed.safetensors")
        changed = build_encoder(
            resnet_folder, weights=tmp_path / "changed.safetensors", device="cpu"
        )
        assert changed.spec.weights_sha256 != own.weights_sha256

    @pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth"])
    def test_pickles_are_refused(self, tmp_path: Path, suffix: str) -> None:
        (tmp_path / f"weights{suffix}").write_bytes(b"\x80\x04.")
        with pytest.raises(EncoderError, match="any code.*save_file"):
            build_encoder("RN50", weights=tmp_path / f"weights{suffix}", device="cpu")

    def test_a_damaged_file_is_an_error(self, resnet_folder: Path, tmp_path: Path) -> None:
        content = (resnet_folder / "open_clip_model.safetensors").read_bytes()
        (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
        with pytest.raises(EncoderError, match="damaged or truncated"):
            build_encoder(resnet_folder, weights=tmp_path / "cut.safetensors", device="cpu")

    def test_weights_of_another_architecture_are_an_error(
        self, resnet_folder: Path, transformer_folder: Path, tmp_path: Path
    ) -> None:
        shutil.copy(transformer_folder / "open_clip_model.safetensors", tmp_path / "w.safetensors")
        with pytest.raises(EncoderError, match="do not fit"):
            build_encoder(resnet_folder, weights=tmp_path / "w.safetensors", device="cpu")

    def test_a_tag_with_another_activation_is_an_error_before_any_download(self) -> None:
        with pytest.raises(EncoderError, match="trained with GELU.*computes QuickGELU"):
            build_encoder("ViT-B-32", weights="laion2b_s34b_b79k", device="cpu")

    def test_a_file_next_to_a_config_with_another_activation_is_an_error(
        self, resnet_folder: Path
    ) -> None:
        with pytest.raises(EncoderError, match=r"open_clip_config\.json next to it.*GELU"):
            build_encoder(
                "ViT-B-32", weights=resnet_folder / "open_clip_model.safetensors", device="cpu"
            )

    def test_the_activation_of_the_text_tower_is_ignored_for_a_resnet(
        self, resnet_folder: Path, tmp_path: Path
    ) -> None:
        config = json.loads((resnet_folder / "open_clip_config.json").read_text())
        config["model_cfg"]["quick_gelu"] = True
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        shutil.copy(resnet_folder / "open_clip_model.safetensors", tmp_path / "w.safetensors")
        built = build_encoder(resnet_folder, weights=tmp_path / "w.safetensors", device="cpu")
        assert not built.spec.quick_gelu

    def test_a_tag_uses_the_file_that_open_clip_downloads(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`--weights openai`, with a local file instead of the download."""
        with torch.device("cpu"):
            visual = find_architecture("RN50").build(224)
        state = {f"visual.{name}": tensor for name, tensor in visual.state_dict().items()}
        save_file(state, tmp_path / "fetched.safetensors")
        monkeypatch.setattr(
            open_clip, "download_pretrained", lambda _: str(tmp_path / "fetched.safetensors")
        )
        spec = build_encoder("RN50", weights="openai", device="cpu").spec
        assert (spec.encoder, spec.weights) == ("RN50", "openai")
        assert spec.mean == pytest.approx(open_clip.OPENAI_DATASET_MEAN)

    def test_a_failed_download_says_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def offline(_: object) -> str:
            raise FileNotFoundError("no connection")

        monkeypatch.setattr(open_clip, "download_pretrained", offline)
        with pytest.raises(EncoderError, match=r"not on this machine.*\.safetensors"):
            build_encoder("RN101", device="cpu")


class TestWrongRequests:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"encoder": "RN51"}, "expected one of: RN50, RN101"),
            ({"encoder": "RN50", "weights": "opnai"}, "its tags: openai"),
            ({"encoder": "RN50", "image_size": 230}, "such as 224"),
            ({"encoder": "ViT-L-14", "image_size": 5}, "multiple of 14"),
            ({"encoder": "RN50", "image_size": 288, "layer": "pooled"}, "--image-size 224"),
            ({"encoder": "RN50", "layer": "last"}, "grid, pooled"),
            ({"encoder": "RN50", "precision": "fp16"}, "fp32, bf16"),
            ({"encoder": "RN50", "resize": "stretch"}, "squash, letterbox, center-crop"),
            ({"encoder": "RN50", "device": "abacus"}, "cannot be used here"),
        ],
    )
    def test_messages_list_the_choices(self, settings: dict[str, object], message: str) -> None:
        with pytest.raises(EncoderError, match=message):
            build_encoder(**{"device": "cpu", **settings})  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ("{", "JSON"),
            ("[]", "is not a JSON object"),
            ("{}", "has no model_cfg"),
            (
                json.dumps({"model_cfg": {"embed_dim": 4, "vision_cfg": {"size": 3}}}),
                "cannot build",
            ),
            (
                json.dumps(
                    {
                        "model_cfg": {"embed_dim": 4, "vision_cfg": {"layers": [1, 1, 1, 1]}},
                        "preprocess_cfg": {"mean": [1]},
                    }
                ),
                "three numbers",
            ),
        ],
    )
    def test_a_folder_with_a_wrong_config(self, tmp_path: Path, config: str, message: str) -> None:
        (tmp_path / "open_clip_config.json").write_text(config)
        with pytest.raises(EncoderError, match=message):
            build_encoder(tmp_path, device="cpu")

    def test_a_folder_without_config_or_weights(self, resnet_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(EncoderError, match="no .*open_clip_config"):
            build_encoder(tmp_path, device="cpu")
        shutil.copy(resnet_folder / "open_clip_config.json", tmp_path)
        with pytest.raises(EncoderError, match="no such file"):
            build_encoder(tmp_path, device="cpu")


class TestFromSpec:
    def test_an_encoder_from_a_folder_needs_the_folder_and_is_verified(
        self, resnet_folder: Path, transformer_folder: Path, tmp_path: Path
    ) -> None:
        built = build_encoder(resnet_folder, layer="pooled", device="cpu", name="demo")
        again = encoder_from_spec(built.spec, resnet_folder, device="cpu")
        assert again.spec == built.spec
        with pytest.raises(EncoderError, match="'demo'.*give its folder"):
            encoder_from_spec(built.spec, device="cpu")
        with pytest.raises(EncoderError, match="weights_sha256"):
            encoder_from_spec(built.spec, transformer_folder, device="cpu")

    def test_an_encoder_of_the_table_is_built_again_from_its_name(self) -> None:
        built = build_encoder("RN50", weights="random", image_size=32, device="cpu")
        again = encoder_from_spec(built.spec, device="cpu")
        assert again.spec == built.spec
        from_file = dataclasses.replace(built.spec, weights="file:mine.safetensors")
        with pytest.raises(EncoderError, match="give the path of this file"):
            encoder_from_spec(from_file, device="cpu")
        changed = dataclasses.replace(built.spec, weights_sha256="0" * 64)
        with pytest.raises(EncoderError, match="weights_sha256"):
            encoder_from_spec(changed, device="cpu")


class TestEncodeImage:
    def test_a_file_and_a_pillow_image_have_equal_features(
        self, encoder: Encoder, tmp_path: Path
    ) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        from_file = encode_image(tmp_path / "a.png", encoder)
        assert from_file.shape == (encoder.spec.tokens, encoder.spec.channels)
        assert from_file.dtype == np.float16
        assert np.array_equal(from_file, encode_image(Image.fromarray(pixels), encoder))

    def test_an_unreadable_file_is_named(self, encoder: Encoder, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"")
        with pytest.raises(ImageError, match=r"a\.png: the file is empty"):
            encode_image(tmp_path / "a.png", encoder)
