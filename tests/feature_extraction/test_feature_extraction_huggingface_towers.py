import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_towers import DINOV2, SIDE, TRANSFORMER, normalised, write_huggingface
from torch import Tensor

from feature_extraction.encoders import weights
from feature_extraction.encoders.encoder import build_encoder, encoder_from_spec
from feature_extraction.errors import EncoderError


def pixels(side: int = SIDE) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, side, side), generator=generator, dtype=torch.uint8)


@pytest.fixture
def tower(tmp_path: Path) -> Path:
    write_huggingface(tmp_path / "tower", "dinov2")
    return tmp_path / "tower"


def changed(folder: Path, file: str, **fields: object) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **fields}))


class TestNumbers:
    """Features equal what the model gives when called by hand."""

    @pytest.mark.parametrize(
        ("kind", "leading"),
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
        self, kind: str, leading: int, side: int, tmp_path: Path
    ) -> None:
        model = write_huggingface(tmp_path / "tower", kind)
        encoder = build_encoder(tmp_path / "tower", image_size=side, device="cpu")
        body = getattr(model, "vision_model", getattr(model, "vit", model))
        normal = normalised(pixels(side), encoder.spec)
        more = {"interpolate_pos_encoding": True} if body is not model and side != SIDE else {}
        expected = body(pixel_values=normal, **more).last_hidden_state[:, leading:]
        assert encoder.spec.grid == (side // 16, side // 16)
        found = torch.from_numpy(encoder.encode(pixels(side), ["a", "b"])).float()
        torch.testing.assert_close(found, expected.detach(), rtol=2e-3, atol=2e-3)

    def test_a_convolutional_grid_is_row_by_row(self, tmp_path: Path) -> None:
        model = write_huggingface(tmp_path / "tower", "convnext")
        encoder = build_encoder(tmp_path / "tower", image_size=96, device="cpu")
        normal = normalised(pixels(96), encoder.spec)
        expected = model(pixel_values=normal).last_hidden_state.flatten(2).mT
        found = torch.from_numpy(encoder.encode(pixels(96), ["a", "b"])).float()
        torch.testing.assert_close(found, expected.detach(), rtol=2e-3, atol=2e-3)

    @pytest.mark.parametrize("kind", ["dinov2", "clip", "siglip", "convnext"])
    def test_pooled_is_the_pooler_output(self, kind: str, tmp_path: Path) -> None:
        model = write_huggingface(tmp_path / "tower", kind)
        encoder = build_encoder(tmp_path / "tower", layer="pooled", device="cpu")
        body = getattr(model, "vision_model", model)
        normal = normalised(pixels(), encoder.spec)
        expected = body(pixel_values=normal).pooler_output
        found = torch.from_numpy(encoder.encode(pixels(), ["a", "b"])[:, 0]).float()
        torch.testing.assert_close(found, expected.detach(), rtol=2e-3, atol=2e-3)


class TestWeights:
    def test_the_vision_part_saved_alone_is_the_same_tower(self, tmp_path: Path) -> None:
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
        images = pixels()
        assert np.array_equal(part.encode(images, ["a", "b"]), whole.encode(images, ["a", "b"]))

    def test_half_precision_weights_compute_in_float32(self, tower: Path) -> None:
        exact = build_encoder(tower, device="cpu")
        state = load_file(tower / "model.safetensors")
        save_file({k: t.to(torch.bfloat16) for k, t in state.items()}, tower / "model.safetensors")
        changed(tower, "config.json", dtype="bfloat16")
        half = build_encoder(tower, device="cpu")
        assert half.spec.architecture_sha256 == exact.spec.architecture_sha256
        assert half.spec.weights_sha256 != exact.spec.weights_sha256
        assert {p.dtype for p in half._visual.parameters()} == {torch.float32}

    def test_a_checkpoint_in_parts_is_the_same(self, tower: Path) -> None:
        whole = build_encoder(tower, device="cpu").spec
        state = load_file(tower / "model.safetensors")
        names = sorted(state)
        parts = {
            "model-00001-of-00002.safetensors": names[::2],
            "model-00002-of-00002.safetensors": names[1::2],
        }
        for file, keys in parts.items():
            save_file({key: state[key] for key in keys}, tower / file)
        (tower / "model.safetensors").unlink()
        index = {"weight_map": {key: file for file, keys in parts.items() for key in keys}}
        (tower / "model.safetensors.index.json").write_text(json.dumps(index))
        assert build_encoder(tower, device="cpu").spec == whole

    def test_an_index_does_not_reach_out_of_its_folder(self, tower: Path) -> None:
        index = {"weight_map": {"a": "../tower/model.safetensors"}}
        (tower / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(EncoderError, match="does not list files of its folder"):
            build_encoder(tower, device="cpu")

    def test_weights_with_more_layers_are_refused(self, tower: Path, tmp_path: Path) -> None:
        deeper = transformers.Dinov2Config(**{**DINOV2, "num_hidden_layers": 3})
        transformers.Dinov2Model(deeper).save_pretrained(tmp_path / "deeper")
        with pytest.raises(EncoderError, match="layers it has not"):
            build_encoder(tower, weights=tmp_path / "deeper" / "model.safetensors", device="cpu")

    def test_a_pooler_the_checkpoint_lacks_is_not_made_up(self, tmp_path: Path) -> None:
        write_huggingface(tmp_path / "tower", "vit-classifier")
        with pytest.raises(EncoderError, match=r"lack pooler.*grid layer"):
            build_encoder(tmp_path / "tower", layer="pooled", device="cpu")

    def test_a_repository_is_read_like_a_folder(
        self, tower: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[list[str]] = []

        def fetched(name: str, *, revision: object, allow_patterns: list[str]) -> str:
            assert (name, revision) == ("owner/name", "v1")
            asked.append(allow_patterns)
            return str(tower)

        monkeypatch.setattr(weights, "snapshot_download", fetched)
        built = build_encoder("hf:owner/name@v1", device="cpu")
        assert (built.spec.encoder, built.spec.weights) == ("hf:owner/name@v1", "hub:owner/name@v1")
        assert built.spec.digest == build_encoder(tower, device="cpu").spec.digest
        assert encoder_from_spec(built.spec, device="cpu").spec == built.spec
        assert all(n.endswith((".json", ".safetensors")) for names in asked for n in names)


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
def test_the_image_size_is_what_the_tower_is_given(
    tower: Path, fields: dict[str, object], side: int
) -> None:
    changed(tower, "preprocessor_config.json", **fields)
    assert build_encoder(tower, device="cpu").spec.image_size == side


class TestRefused:
    def test_a_checkpoint_that_brings_code(self, tower: Path) -> None:
        (tower / "evil.py").write_text("raise SystemExit('code of a checkpoint was run')")
        automatic = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
        changed(tower, "config.json", auto_map=automatic, model_type="never-heard-of")
        with pytest.raises(EncoderError, match="Code that comes with a checkpoint is not run"):
            build_encoder(tower, device="cpu")

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
    def test_preprocessing_that_is_not_ours(
        self, tower: Path, fields: dict[str, object], message: str
    ) -> None:
        changed(tower, "preprocessor_config.json", **fields)
        with pytest.raises(EncoderError, match=message):
            build_encoder(tower, device="cpu")

    def test_a_folder_that_does_not_say_its_normalisation(self, tower: Path) -> None:
        (tower / "preprocessor_config.json").unlink()
        with pytest.raises(EncoderError, match=r"no preprocessor_config\.json, which says mean"):
            build_encoder(tower, device="cpu")

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
            (transformers.ViTMAEConfig(**TRANSFORMER), "so they are not its grid"),
        ],
    )
    def test_models_that_give_no_grid_of_a_square(
        self, tower: Path, config: transformers.PreTrainedConfig, message: str
    ) -> None:
        config.save_pretrained(tower)
        with pytest.raises(EncoderError, match=message):
            build_encoder(tower, device="cpu")


def test_nothing_is_printed(tower: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of a CLIP, transformers would report each weight of the text tower."""
    write_huggingface(tower.parent / "clip", "clip")
    capfd.readouterr()
    build_encoder(tower.parent / "clip", device="cpu")
    assert capfd.readouterr() == ("", "")
