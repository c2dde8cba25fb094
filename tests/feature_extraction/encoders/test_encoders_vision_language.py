"""The tokens that the language model of a vision-language model reads of an image."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_checkpoints import normalised, random_pixels, write_huggingface
from tiny_vision_language import (
    MODELS,
    OPT,
    SIDE,
    WIDTH,
    blip2,
    t5gemma2,
    tokens_read,
    write_preprocessing,
    write_vision_language,
)
from torch import Tensor

from feature_extraction.encoders import weights
from feature_extraction.encoders.encoder import Encoder, build_encoder, encoder_from_spec
from feature_extraction.encoders.registry import find_architecture, output_shape
from feature_extraction.encoders.weights import projection_sha256
from feature_extraction.errors import EncoderError

GRIDS = {"blip2": (1, 5), "t5gemma2": (2, 2)}
PROJECTIONS = {
    "blip2": "language_projection.",
    "t5gemma2": "model.encoder.multi_modal_projector.",
}
IMAGE_PARTS = ("vision", "query_tokens", "qformer", "projection", "projector")
WEIGHTS = "model.safetensors"


@pytest.fixture(params=list(MODELS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(kind: str) -> transformers.PreTrainedModel:
    return MODELS[kind]()


@pytest.fixture
def folder(model: transformers.PreTrainedModel, tmp_path: Path) -> Path:
    return write_vision_language(tmp_path / "checkpoint", model)


def exact_tokens(encoder: Encoder, pixels_B3SS: Tensor) -> Tensor:
    """Return the features before they are rounded to float16, `[B, tokens, channels]`."""
    normal = normalised(pixels_B3SS, encoder.spec)
    with torch.no_grad():
        map_BCHW = encoder._architecture.features(encoder._module, normal, "language")
    return map_BCHW.flatten(2).mT


def is_image_part(name: str) -> bool:
    return any(part in name for part in IMAGE_PARTS)


def change(folder: Path, *place: str, **fields: object) -> None:
    """Set fields of `config.json`, or of the object at `place` in it."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    inner = content
    for name in place:
        inner = inner[name]
    inner.update(fields)
    path.write_text(json.dumps(content))


class TestNumbers:
    def test_features_are_what_the_language_model_is_given(
        self, kind: str, model: transformers.PreTrainedModel, folder: Path
    ) -> None:
        encoder = build_encoder(folder, device="cpu")
        spec, pixels = encoder.spec, random_pixels(3, SIDE)
        expected = tokens_read(model, normalised(pixels, spec), spec.tokens)
        torch.testing.assert_close(exact_tokens(encoder, pixels), expected, rtol=0, atol=1e-5)
        stored = torch.from_numpy(encoder.encode(pixels, ["a", "b", "c"])).float()
        torch.testing.assert_close(stored, expected, rtol=2e-3, atol=2e-3)
        assert (spec.layer, spec.grid, spec.channels) == ("language", GRIDS[kind], WIDTH)

    def test_bf16_features_are_near(self, folder: Path) -> None:
        exact = build_encoder(folder, device="cpu")
        half = build_encoder(folder, precision="bf16", device="cpu")
        images = random_pixels(2, SIDE)
        expected, found = (e.encode(images, ["a", "b"]).astype(float) for e in (exact, half))
        assert np.abs(found - expected).mean() < 0.05 * np.abs(expected).mean()

    def test_another_image_size_interpolates_the_positions(self, tmp_path: Path) -> None:
        model = blip2()
        encoder = build_encoder(
            write_vision_language(tmp_path / "checkpoint", model), image_size=48, device="cpu"
        )
        pixels = random_pixels(2, 48)
        with torch.no_grad():
            expected = model.get_image_features(
                normalised(pixels, encoder.spec), interpolate_pos_encoding=True
            ).pooler_output
        torch.testing.assert_close(exact_tokens(encoder, pixels), expected, rtol=0, atol=1e-5)
        assert encoder.spec.grid == GRIDS["blip2"]


@pytest.mark.parametrize(
    ("config", "side", "expected"),
    [
        (
            transformers.Blip2Config(text_config={"model_type": "t5", "d_model": 2048}),
            224,
            ((1, 32), 2048),
        ),
        (
            transformers.T5Gemma2Config(
                encoder={
                    "text_config": {"hidden_size": 1152},
                    "vision_config": {"hidden_size": 1152, "image_size": 896, "patch_size": 14},
                },
                decoder={"hidden_size": 1152},
            ),
            896,
            ((16, 16), 1152),
        ),
    ],
)
def test_shapes_of_published_models(
    config: transformers.PreTrainedConfig,
    side: int,
    expected: tuple[tuple[int, int], int],
    tmp_path: Path,
) -> None:
    config.save_pretrained(tmp_path)
    write_preprocessing(tmp_path, side)
    architecture = find_architecture(tmp_path)
    assert output_shape(architecture, architecture.image_size, "language") == expected


class TestWeights:
    def test_the_language_model_is_not_read(self, folder: Path) -> None:
        whole = build_encoder(folder, device="cpu")
        state = load_file(folder / WEIGHTS)
        save_file({k: t for k, t in state.items() if is_image_part(k)}, folder / WEIGHTS)
        part = build_encoder(folder, device="cpu")
        assert part.spec == whole.spec
        images = random_pixels(2, SIDE)
        assert np.array_equal(part.encode(images, ["a", "b"]), whole.encode(images, ["a", "b"]))

    def test_shards_of_the_language_model_are_not_needed(self, folder: Path) -> None:
        whole = build_encoder(folder, device="cpu")
        write_shards(folder)
        (folder / "model-00002-of-00002.safetensors").unlink()
        assert build_encoder(folder, device="cpu").spec == whole.spec

    def test_shards_of_the_language_model_are_not_downloaded(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        requested: list[str] = []

        def download(name: str, *, revision: object, allow_patterns: list[str]) -> str:
            requested.extend(allow_patterns)
            return str(folder)

        whole = build_encoder(folder, device="cpu")
        write_shards(folder)
        monkeypatch.setattr(weights, "snapshot_download", download)
        built = build_encoder("hf:owner/name@v1", device="cpu")
        assert (built.spec.encoder, built.spec.weights) == ("hf:owner/name@v1", "hub:owner/name@v1")
        assert built.spec.digest == whole.spec.digest
        assert [name for name in requested if name.endswith(".safetensors")] == [
            "model-00001-of-00002.safetensors"
        ]
        assert encoder_from_spec(built.spec, device="cpu").spec == built.spec

    def test_the_hash_of_the_projection_depends_on_nothing_else(
        self, kind: str, folder: Path
    ) -> None:
        state = load_file(folder / WEIGHTS)
        rounded = {k: t.to(torch.bfloat16) for k, t in state.items()}
        save_file({k: t.float() for k, t in rounded.items()}, folder / WEIGHTS)
        exact = build_encoder(folder, device="cpu").spec
        save_file(rounded, folder / WEIGHTS)
        half = build_encoder(folder, device="cpu").spec
        prefix = PROJECTIONS[kind]
        projection = {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
        assert projection
        rounded = {name: tensor.to(torch.bfloat16) for name, tensor in projection.items()}
        assert exact.projection_sha256 == half.projection_sha256 == projection_sha256(rounded)
        assert exact.weights_sha256 != half.weights_sha256

    def test_names_of_published_checkpoints_are_read(self, tmp_path: Path) -> None:
        """Their vision model has one module more around it than transformers has now."""
        folder = write_vision_language(tmp_path / "checkpoint", t5gemma2())
        expected = build_encoder(folder, device="cpu").spec
        state = load_file(folder / WEIGHTS)
        renamed = {
            k.replace("vision_tower.", "vision_tower.vision_model."): t for k, t in state.items()
        }
        assert set(renamed) != set(state)
        save_file(renamed, folder / WEIGHTS, {"format": "pt"})
        encoder = build_encoder(folder, device="cpu")
        assert encoder.spec == expected
        stock = transformers.T5Gemma2ForConditionalGeneration.from_pretrained(folder).eval()
        pixels = random_pixels(2, SIDE)
        given = tokens_read(stock, normalised(pixels, encoder.spec), encoder.spec.tokens)
        torch.testing.assert_close(exact_tokens(encoder, pixels), given, rtol=0, atol=1e-5)

    def test_random_weights_need_no_checkpoint(self, folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        encoder = build_encoder(folder, weights="random", device="cpu")
        spec, tokens = encoder.spec, encoder.encode(random_pixels(1, SIDE), ["a"])[0]
        assert (spec.layer, spec.weights) == ("language", "random")
        assert spec == build_encoder(folder, weights="random", device="cpu").spec
        assert len(np.unique(tokens, axis=0)) == spec.tokens

    def test_features_of_another_projection_are_told_apart(self, folder: Path) -> None:
        spec = build_encoder(folder, device="cpu").spec
        assert encoder_from_spec(spec, folder, device="cpu").spec == spec
        state = load_file(folder / WEIGHTS)
        save_file({k: t + 1 if "project" in k else t for k, t in state.items()}, folder / WEIGHTS)
        with pytest.raises(EncoderError, match="projection_sha256: found"):
            encoder_from_spec(spec, folder, device="cpu")


class TestRefused:
    @pytest.mark.parametrize("layer", ["grid", "pooled"])
    def test_other_layers_of_a_vision_language_model(self, folder: Path, layer: str) -> None:
        with pytest.raises(EncoderError, match=f"has no {layer} features: use --layer language"):
            build_encoder(folder, layer=layer, device="cpu")

    def test_encoders_without_a_language_model(self, tmp_path: Path) -> None:
        write_huggingface(tmp_path / "encoder", "dinov2")
        with pytest.raises(EncoderError, match=r"no language features.*--layer grid or pooled"):
            build_encoder(tmp_path / "encoder", layer="language", device="cpu")

    def test_a_decoder_as_language_model(self, tmp_path: Path) -> None:
        folder = write_vision_language(tmp_path / "checkpoint", blip2(OPT))
        with pytest.raises(EncoderError, match=r"\(opt\): encoder-decoders and encoders are taken"):
            build_encoder(folder, device="cpu")

    def test_crops(self, folder: Path) -> None:
        with pytest.raises(EncoderError, match="crops is 2, expected 1 for the layer language"):
            build_encoder(folder, crops=2, device="cpu")

    def test_a_missing_tensor(self, kind: str, folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        left_out = next(name for name in state if name.startswith(PROJECTIONS[kind]))
        save_file({k: t for k, t in state.items() if k != left_out}, folder / WEIGHTS)
        with pytest.raises(EncoderError, match=f"missing tensors: .*{left_out.rpartition('.')[2]}"):
            build_encoder(folder, device="cpu")

    def test_a_checkpoint_of_the_language_model_alone(self, folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        save_file({k: t for k, t in state.items() if not is_image_part(k)}, folder / WEIGHTS)
        with pytest.raises(EncoderError, match="missing tensors"):
            build_encoder(folder, device="cpu")

    def test_other_sizes_than_the_configuration_says(self, tmp_path: Path) -> None:
        folder = write_vision_language(tmp_path / "checkpoint", blip2())
        change(folder, num_query_tokens=7)
        with pytest.raises(EncoderError, match="tensors with other shapes: query_tokens"):
            build_encoder(folder, device="cpu")

    def test_a_size_of_images_that_the_projection_cannot_pool(self, tmp_path: Path) -> None:
        folder = write_vision_language(tmp_path / "checkpoint", t5gemma2())
        with pytest.raises(EncoderError, match=rf"images of {SIDE} pixels only\): use its default"):
            build_encoder(folder, image_size=64, device="cpu")

    def test_a_number_of_tokens_that_the_projection_does_not_make(self, tmp_path: Path) -> None:
        folder = write_vision_language(tmp_path / "checkpoint", t5gemma2())
        change(folder, "encoder", mm_tokens_per_image=9)
        with pytest.raises(EncoderError, match="makes 16 tokens of an image, but"):
            build_encoder(folder, device="cpu")

    @pytest.mark.parametrize("tokens", [0, -3])
    def test_a_number_of_tokens_below_one(self, tmp_path: Path, tokens: int) -> None:
        for name, model, place, field in (
            ("one", blip2(), (), "num_query_tokens"),
            ("two", t5gemma2(), ("encoder",), "mm_tokens_per_image"),
        ):
            folder = write_vision_language(tmp_path / name, model)
            change(folder, *place, **{field: tokens})
            with pytest.raises(EncoderError, match=f"{name} makes {tokens} tokens of an image"):
                build_encoder(folder, device="cpu")

    def test_a_huge_number_of_tokens(self, tmp_path: Path) -> None:
        """It is refused before memory is allocated for it."""
        folder = write_vision_language(tmp_path / "checkpoint", blip2())
        change(folder, num_query_tokens=2**22)
        change(folder, "qformer_config", hidden_size=2**12)
        with pytest.raises(EncoderError, match="do not fit the encoder"):
            build_encoder(folder, device="cpu")

    def test_tokens_beyond_the_range_of_float16(self, kind: str, folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        state = {k: t * 1e7 if k.startswith(PROJECTIONS[kind]) else t for k, t in state.items()}
        save_file(state, folder / WEIGHTS)
        encoder = build_encoder(folder, device="cpu")
        with pytest.raises(EncoderError, match="not finite in float16"):
            encoder.encode(random_pixels(1, SIDE), ["a"])


def test_nothing_is_printed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    build_encoder(folder, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_preprocessing_does_not_change_the_architecture(folder: Path) -> None:
    before = build_encoder(folder, device="cpu").spec
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_mean": [0.5] * 3}))
    after = build_encoder(folder, device="cpu").spec
    assert after == dataclasses.replace(before, mean=(0.5, 0.5, 0.5))


def write_shards(folder: Path) -> None:
    """Divide the weights into the tensors of images and those of the language model."""
    state = load_file(folder / WEIGHTS)
    shards = {name: f"model-0000{1 if is_image_part(name) else 2}-of-00002" for name in state}
    for shard in set(shards.values()):
        tensors = {name: tensor for name, tensor in state.items() if shards[name] == shard}
        save_file(tensors, folder / f"{shard}.safetensors")
    index = {"weight_map": {name: f"{shard}.safetensors" for name, shard in shards.items()}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / WEIGHTS).unlink()
