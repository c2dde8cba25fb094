import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_checkpoints import DINOV2, SIDE, TRANSFORMER, normalised, random_pixels, write_huggingface

from feature_extraction.encoders import weights
from feature_extraction.encoders.encoder import build_encoder, encoder_from_spec
from feature_extraction.errors import EncoderError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_huggingface(tmp_path / "encoder", "dinov2")
    return tmp_path / "encoder"


def change(folder: Path, file: str, **fields: object) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **fields}))


class TestNumbers:
    """Features equal the output of the model itself."""

    @pytest.mark.parametrize(
        ("kind", "num_prefix_tokens"),
        [
            ("dinov2", 1),
            ("dinov2-registers", 5),
            ("dinov3", 5),
            ("clip", 1),
            ("siglip", 0),
            ("vit-classifier", 1),
        ],
    )
    @pytest.mark.parametrize("side", [SIDE, 96])
    def test_a_transformers_grid_is_the_last_hidden_state_of_its_patches(
        self, kind: str, num_prefix_tokens: int, side: int, tmp_path: Path
    ) -> None:
        model = write_huggingface(tmp_path / "encoder", kind)
        encoder = build_encoder(tmp_path / "encoder", image_size=side, device="cpu")
        body = getattr(model, "vision_model", getattr(model, "vit", model))
        normal = normalised(random_pixels(2, side), encoder.spec)
        settings = {"interpolate_pos_encoding": True} if body is not model and side != SIDE else {}
        states = body(pixel_values=normal, **settings).last_hidden_state
        expected = states[:, num_prefix_tokens:]
        assert encoder.spec.grid == (side // 16, side // 16)
        found = torch.from_numpy(encoder.encode(random_pixels(2, side), ["a", "b"])).float()
        torch.testing.assert_close(found, expected.detach(), rtol=2e-3, atol=2e-3)

    def test_a_convolutional_grid_is_row_by_row(self, tmp_path: Path) -> None:
        model = write_huggingface(tmp_path / "encoder", "convnext")
        encoder = build_encoder(tmp_path / "encoder", image_size=96, device="cpu")
        normal = normalised(random_pixels(2, 96), encoder.spec)
        expected = model(pixel_values=normal).last_hidden_state.flatten(2).mT
        found = torch.from_numpy(encoder.encode(random_pixels(2, 96), ["a", "b"])).float()
        torch.testing.assert_close(found, expected.detach(), rtol=2e-3, atol=2e-3)

    @pytest.mark.parametrize("kind", ["dinov2", "clip", "siglip", "convnext"])
    def test_pooled_is_the_pooler_output(self, kind: str, tmp_path: Path) -> None:
        model = write_huggingface(tmp_path / "encoder", kind)
        encoder = build_encoder(tmp_path / "encoder", layer="pooled", device="cpu")
        body = getattr(model, "vision_model", model)
        normal = normalised(random_pixels(2), encoder.spec)
        expected = body(pixel_values=normal).pooler_output
        found = torch.from_numpy(encoder.encode(random_pixels(2), ["a", "b"])[:, 0]).float()
        torch.testing.assert_close(found, expected.detach(), rtol=2e-3, atol=2e-3)


class TestWeights:
    def test_the_vision_part_saved_alone_is_the_same_encoder(self, tmp_path: Path) -> None:
        model = write_huggingface(tmp_path / "clip", "clip")
        shutil.copytree(tmp_path / "clip", tmp_path / "vision")
        alone = transformers.CLIPVisionModel.from_pretrained(tmp_path / "clip")
        alone.save_pretrained(tmp_path / "vision")
        assert model.config.vision_config.hidden_act == "quick_gelu"
        whole = build_encoder(tmp_path / "clip", device="cpu")
        part = build_encoder(tmp_path / "vision", device="cpu")
        assert whole.spec.quick_gelu
        assert part.spec.quick_gelu
        assert part.spec.weights_sha256 == whole.spec.weights_sha256
        images = random_pixels(2)
        assert np.array_equal(part.encode(images, ["a", "b"]), whole.encode(images, ["a", "b"]))

    def test_half_precision_weights_compute_in_float32(self, folder: Path) -> None:
        exact = build_encoder(folder, device="cpu")
        state = load_file(folder / "model.safetensors")
        save_file({k: t.to(torch.bfloat16) for k, t in state.items()}, folder / "model.safetensors")
        change(folder, "config.json", dtype="bfloat16")
        half = build_encoder(folder, device="cpu")
        assert half.spec.architecture_sha256 == exact.spec.architecture_sha256
        assert half.spec.weights_sha256 != exact.spec.weights_sha256
        assert {p.dtype for p in half._module.parameters()} == {torch.float32}

    def test_a_sharded_checkpoint_is_the_same(self, folder: Path) -> None:
        whole = build_encoder(folder, device="cpu").spec
        state = load_file(folder / "model.safetensors")
        names = sorted(state)
        shards = {
            "model-00001-of-00002.safetensors": names[::2],
            "model-00002-of-00002.safetensors": names[1::2],
        }
        for file, keys in shards.items():
            save_file({key: state[key] for key in keys}, folder / file)
        (folder / "model.safetensors").unlink()
        index = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        assert build_encoder(folder, device="cpu").spec == whole

    def test_an_index_cannot_list_files_outside_its_folder(self, folder: Path) -> None:
        index = {"weight_map": {"a": "../encoder/model.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(EncoderError, match="does not list files of its folder"):
            build_encoder(folder, device="cpu")

    def test_weights_with_more_layers_are_refused(self, folder: Path, tmp_path: Path) -> None:
        deeper = transformers.Dinov2Config(**{**DINOV2, "num_hidden_layers": 3})
        transformers.Dinov2Model(deeper).save_pretrained(tmp_path / "deeper")
        with pytest.raises(EncoderError, match="layers that the encoder does not have"):
            build_encoder(folder, weights=tmp_path / "deeper" / "model.safetensors", device="cpu")

    def test_a_pooler_missing_from_the_checkpoint_is_not_initialised(self, tmp_path: Path) -> None:
        write_huggingface(tmp_path / "encoder", "vit-classifier")
        with pytest.raises(EncoderError, match=r"missing tensors: pooler.*grid layer"):
            build_encoder(tmp_path / "encoder", layer="pooled", device="cpu")

    def test_a_repository_is_read_like_a_folder(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        requests: list[list[str]] = []

        def download(name: str, *, revision: object, allow_patterns: list[str]) -> str:
            assert (name, revision) == ("owner/name", "v1")
            requests.append(allow_patterns)
            return str(folder)

        monkeypatch.setattr(weights, "snapshot_download", download)
        built = build_encoder("hf:owner/name@v1", device="cpu")
        assert (built.spec.encoder, built.spec.weights) == ("hf:owner/name@v1", "hub:owner/name@v1")
        assert built.spec.digest == build_encoder(folder, device="cpu").spec.digest
        assert encoder_from_spec(built.spec, device="cpu").spec == built.spec
        assert all(n.endswith((".json", ".safetensors")) for names in requests for n in names)


@pytest.mark.parametrize(
    ("fields", "side"),
    [
        ({"do_center_crop": False, "size": {"height": 96, "width": 96}}, 96),
        ({"do_center_crop": None, "crop_size": None, "size": {"height": 96, "width": 96}}, 96),
        ({"do_center_crop": False, "size": 96}, 96),
        ({"crop_size": 32}, 32),
        ({"do_center_crop": False, "size": {"shortest_edge": 96}}, SIDE),
    ],
)
def test_the_image_size_is_the_size_after_cropping(
    folder: Path, fields: dict[str, object], side: int
) -> None:
    change(folder, "preprocessor_config.json", **fields)
    assert build_encoder(folder, device="cpu").spec.image_size == side


class TestRefused:
    def test_a_checkpoint_with_code(self, folder: Path) -> None:
        (folder / "evil.py").write_text("raise SystemExit('code of the checkpoint was run')")
        automatic = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
        change(folder, "config.json", auto_map=automatic, model_type="never-heard-of")
        with pytest.raises(EncoderError, match="Code of a checkpoint is not run"):
            build_encoder(folder, device="cpu")

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"image_mean": [0.5]}, "three numbers"),
            ({"image_mean": None}, "three numbers"),
            ({"rescale_factor": 1.0}, r"scale pixels to \[0, 1\]"),
            ({"crop_size": {"height": 64, "width": 32}}, "expected a square"),
            ({"crop_size": "large"}, "expected a square"),
        ],
    )
    def test_other_preprocessing(
        self, folder: Path, fields: dict[str, object], message: str
    ) -> None:
        change(folder, "preprocessor_config.json", **fields)
        with pytest.raises(EncoderError, match=message):
            build_encoder(folder, device="cpu")

    def test_a_folder_without_its_normalisation(self, folder: Path) -> None:
        (folder / "preprocessor_config.json").unlink()
        with pytest.raises(EncoderError, match=r"no preprocessor_config\.json, which states"):
            build_encoder(folder, device="cpu")

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (
                transformers.Siglip2VisionConfig(
                    hidden_size=32,
                    intermediate_size=64,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    patch_size=16,
                ),
                "naflex",
            ),
            (
                transformers.BertConfig(
                    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=8
                ),
                "expected a vision model",
            ),
            (transformers.ViTMAEConfig(**TRANSFORMER), "are not a grid"),
        ],
    )
    def test_models_without_a_grid_of_a_square(
        self, folder: Path, config: transformers.PreTrainedConfig, message: str
    ) -> None:
        config.save_pretrained(folder)
        with pytest.raises(EncoderError, match=message):
            build_encoder(folder, device="cpu")


def test_nothing_is_printed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """For CLIP, transformers would report each weight of the text tower."""
    write_huggingface(folder.parent / "clip", "clip")
    capfd.readouterr()
    build_encoder(folder.parent / "clip", device="cpu")
    assert capfd.readouterr() == ("", "")
