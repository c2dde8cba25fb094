"""Tests for encoders of every library, and for finding one by name."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import MEAN, STD, random_pixels, write_huggingface, write_timm
from torch import Tensor

from feature_extraction.encoders.encoder import build_encoder, encoder_from_spec
from feature_extraction.encoders.registry import find_architecture, is_known_name, output_shape
from feature_extraction.errors import EncoderError
from feature_extraction.spec import FeatureSpec

KINDS = [
    "open_clip-resnet",
    "open_clip-transformer",
    "timm-vit",
    "timm-resnet",
    "hf-dinov2-registers",
    "hf-clip",
    "hf-convnext",
]
IDS = ["a", "b", "c"]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    library, _, kind = request.param.partition("-")
    if library == "open_clip":
        return request.getfixturevalue(f"{kind}_folder")
    folder = tmp_path_factory.mktemp("encoders") / request.param
    (write_timm if library == "timm" else write_huggingface)(folder, kind)
    return folder


def weights_of(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def pixels(side: int = 64) -> Tensor:
    drawn = random_pixels(3, side)[:, None]
    drawn[1] //= 8
    drawn[2, ..., : side // 2] = 255
    return drawn


class TestEveryEncoder:
    def test_it_can_be_built_again_from_its_spec(self, folder: Path) -> None:
        built = build_encoder(folder, device="cpu")
        spec = FeatureSpec.from_json(built.spec.to_json())
        assert spec == built.spec
        assert (spec.mean, spec.std, spec.image_size) == (MEAN, STD, 64)
        again = encoder_from_spec(spec, folder, device="cpu")
        features = built.encode(pixels(), IDS)
        assert features.shape == (3, spec.tokens, spec.channels)
        assert np.array_equal(features, again.encode(pixels(), IDS))

    def test_features_do_not_depend_on_other_images_of_the_batch(self, folder: Path) -> None:
        encoder = build_encoder(folder, device="cpu")
        together = encoder.encode(pixels(), IDS).astype(np.float32)
        assert np.abs(together[0] - together[1]).max() > 1e-3
        for row in range(3):
            alone = encoder.encode(pixels()[row : row + 1], ["a"]).astype(np.float32)
            np.testing.assert_allclose(alone[0], together[row], rtol=4e-3, atol=2e-3)

    def test_a_larger_image_size_gives_more_cells_with_the_same_weights(self, folder: Path) -> None:
        default = build_encoder(folder, device="cpu")
        large = build_encoder(folder, image_size=128, device="cpu")
        assert large.spec.grid == (2 * default.spec.grid[0], 2 * default.spec.grid[1])
        assert large.spec.weights_sha256 == default.spec.weights_sha256
        assert large.spec.architecture_sha256 == default.spec.architecture_sha256
        assert large.encode(pixels(128), IDS).shape == (3, large.spec.tokens, default.spec.channels)

    def test_an_image_size_that_is_no_multiple_of_a_cell_is_refused(self, folder: Path) -> None:
        with pytest.raises(EncoderError, match="use a multiple of"):
            build_encoder(folder, image_size=70, device="cpu")

    def test_random_weights_are_the_same_every_time(self, folder: Path) -> None:
        before = torch.random.get_rng_state()
        first = build_encoder(folder, weights="random", device="cpu")
        assert torch.equal(before, torch.random.get_rng_state())
        torch.rand(7)
        assert encoder_from_spec(first.spec, folder, device="cpu").spec == first.spec

    def test_changed_weights_differ_from_the_spec(self, folder: Path, tmp_path: Path) -> None:
        spec = build_encoder(folder, device="cpu").spec
        changed = shutil.copytree(folder, tmp_path / "changed")
        state = load_file(weights_of(folder))
        name = next(key for key, t in state.items() if t.is_floating_point() and t.dim() == 4)
        state[name][0, 0, 0, 0] += 1
        save_file(state, weights_of(changed))
        with pytest.raises(EncoderError, match="weights_sha256"):
            encoder_from_spec(spec, changed, device="cpu")

    def test_weights_with_a_missing_tensor_are_refused(self, folder: Path, tmp_path: Path) -> None:
        """A library that initialises it at random would give meaningless features."""
        state = load_file(weights_of(folder))
        name = next(key for key, t in state.items() if t.is_floating_point() and t.dim() == 4)
        del state[name]
        save_file(state, tmp_path / "incomplete.safetensors")
        with pytest.raises(EncoderError, match="do not fit"):
            build_encoder(folder, weights=tmp_path / "incomplete.safetensors", device="cpu")

    def test_weights_with_another_shape_are_refused(self, folder: Path, tmp_path: Path) -> None:
        state = load_file(weights_of(folder))
        name = next(key for key, t in state.items() if t.is_floating_point() and t.dim() == 4)
        state[name] = torch.cat([state[name], state[name]])
        save_file(state, tmp_path / "other.safetensors")
        with pytest.raises(EncoderError, match="do not fit"):
            build_encoder(folder, weights=tmp_path / "other.safetensors", device="cpu")

    def test_pickles_are_refused(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "weights.bin").write_bytes(b"\x80\x04.")
        with pytest.raises(EncoderError, match="any code.*save_file"):
            build_encoder(folder, weights=tmp_path / "weights.bin", device="cpu")

    def test_a_folder_with_only_a_pickle_is_refused(self, folder: Path, tmp_path: Path) -> None:
        copied = shutil.copytree(folder, tmp_path / "copied")
        weights_of(copied).rename(copied / "pytorch_model.bin")
        with pytest.raises(EncoderError, match=r"no such file"):
            build_encoder(copied, device="cpu")

    def test_damaged_weights_are_refused(self, folder: Path, tmp_path: Path) -> None:
        content = weights_of(folder).read_bytes()
        (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
        with pytest.raises(EncoderError, match="damaged or truncated"):
            build_encoder(folder, weights=tmp_path / "cut.safetensors", device="cpu")

    def test_crops_are_encoded_one_by_one(self, folder: Path) -> None:
        """First the whole photograph, then the tiles, each with the features it has alone."""
        encoder = build_encoder(folder, crops=2, device="cpu")
        alone = build_encoder(folder, device="cpu")
        squares = pixels().expand(3, 5, 3, 64, 64).clone()
        squares[:, 3] = pixels().flip(-1)[:, 0]
        features = encoder.encode(squares, IDS)
        assert features.shape == (3, encoder.spec.tokens, encoder.spec.channels)
        each = np.split(features, 5, axis=1)
        plain, flipped = (alone.encode(p, IDS) for p in (pixels(), pixels().flip(-1)))
        for number in (0, 1, 2, 4):
            assert np.array_equal(each[number], plain)
        assert np.array_equal(each[3], flipped)


class TestFinding:
    @pytest.mark.parametrize(
        ("encoder", "message"),
        [
            ("RN51", "did you mean RN50"),
            ("ViT-L-14-366", "did you mean ViT-L-14-336"),
            ("open_clip:ViT-H-15", "did you mean ViT-H-16 or ViT-H-14"),
            ("timm:vit_tiny_patch16_225", "did you mean timm:vit_tiny_patch16_224"),
            ("timm:resnet18.no_such_tag", "timm has no model"),
        ],
    )
    def test_an_unknown_name_lists_the_most_similar(self, encoder: str, message: str) -> None:
        with pytest.raises(EncoderError, match=message):
            find_architecture(encoder)

    @pytest.mark.parametrize("prefix", ["timm:owner/name", "hf:owner/name"])
    def test_a_failed_download_of_a_repository_says_what_to_do(
        self, prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def offline(*_: object, **__: object) -> str:
            raise OSError("no connection")

        monkeypatch.setattr("feature_extraction.encoders.weights.snapshot_download", offline)
        with pytest.raises(EncoderError, match=r"owner/name is not on this machine.*give a folder"):
            find_architecture(prefix)

    def test_an_invalid_name_on_the_hub_is_refused(self) -> None:
        with pytest.raises(EncoderError, match="could not be downloaded"):
            find_architecture("hf:no/such/name/as/this")

    def test_a_prefix_can_precede_a_folder(self, resnet_folder: Path) -> None:
        assert find_architecture(f"open_clip:{resnet_folder}").name == "tiny-resnet"

    def test_a_folder_without_an_encoder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(EncoderError, match=r"no open_clip_config\.json and no config\.json"):
            find_architecture(tmp_path)
        (tmp_path / "config.json").write_text("[")
        with pytest.raises(EncoderError, match="cannot be read as JSON"):
            find_architecture(tmp_path)
        (tmp_path / "config.json").write_text("[]")
        with pytest.raises(EncoderError, match="is not a JSON object"):
            find_architecture(tmp_path)

    def test_a_known_name_needs_no_folder(self) -> None:
        assert all(map(is_known_name, ("RN101", "ViT-H-14", "timm:resnet18", "hf:owner/name")))
        assert not is_known_name("tiny-resnet")

    def test_missing_features_are_an_encoder_error(self) -> None:
        """For any exception that the library raises."""
        architecture = find_architecture("timm:mixer_s32_224")
        assert output_shape(architecture, 224, "grid") == ((7, 7), 512)
        with pytest.raises(EncoderError, match="has no grid features for images of 288"):
            output_shape(architecture, 288, "grid")
