"""Folders of encoders are untrusted: nothing in them is run, and damage is one message."""

import json
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import write_huggingface, write_timm
from tiny_open_clip import TIMM as OPEN_CLIP_TIMM
from tiny_open_clip import TRANSFORMER as OPEN_CLIP
from tiny_open_clip import write_open_clip

from feature_extraction.encoders import library_guard
from feature_extraction.encoders.encoder import build_encoder
from feature_extraction.errors import EncoderError

CONFIGS = {"hf": "config.json", "timm": "config.json", "open_clip": "open_clip_config.json"}
WEIGHTS = {
    "hf": "model.safetensors",
    "timm": "model.safetensors",
    "open_clip": "open_clip_model.safetensors",
}
KINDS = list(CONFIGS)
HUGE = 10**12
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("intact")
    write_huggingface(root / "hf", "dinov2")
    write_timm(root / "timm", "vit")
    write_open_clip(root / "open_clip", OPEN_CLIP)
    return root


@pytest.fixture
def encoders(intact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(intact, tmp_path / "encoders"))


@pytest.fixture(autouse=True)
def low_module_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_guard, "MAX_MODULES", 1000)


def change(path: Path, *place: str, **fields: object) -> None:
    """Set fields of a JSON object in a file, or of the object at `place` in it."""
    content = json.loads(path.read_text())
    inner = content
    for name in place:
        inner = inner[name]
    inner.update(fields)
    path.write_text(json.dumps(content))


def refusal(folder: Path, weights: Path | str | None = None) -> str:
    """Return the message for a folder that is refused."""
    with pytest.raises(EncoderError) as caught:
        build_encoder(folder, weights=weights, device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.mark.parametrize("content", ["null", "[]", '""', "3", "", "{", '{"a": NaN}', DEEP, "{}"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_invalid_configuration_is_named(encoders: Path, kind: str, content: str) -> None:
    (encoders / kind / CONFIGS[kind]).write_text(content)
    assert CONFIGS[kind] in refusal(encoders / kind)


@pytest.mark.parametrize("content", ["null", "[]", "", '{"image_processor": 3}', "{}"])
def test_invalid_preprocessing_is_named(encoders: Path, content: str) -> None:
    (encoders / "hf" / "preprocessor_config.json").write_text(content)
    assert "preprocessor_config.json" in refusal(encoders / "hf")


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04.", (2**50).to_bytes(8, "little")])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_not_safetensors_are_named(
    encoders: Path, tmp_path: Path, kind: str, content: bytes
) -> None:
    (tmp_path / "own.safetensors").write_bytes(content)
    assert "own.safetensors is damaged" in refusal(encoders / kind, tmp_path / "own.safetensors")
    (encoders / kind / WEIGHTS[kind]).write_bytes(content)
    assert f"{WEIGHTS[kind]} is damaged" in refusal(encoders / kind)


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_weights_are_named(encoders: Path, kind: str) -> None:
    path = encoders / kind / WEIGHTS[kind]
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{WEIGHTS[kind]} is damaged or truncated" in refusal(encoders / kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["config", "weights"])
@pytest.mark.parametrize("special", ["pipe", "device"])
def test_a_special_file_is_not_opened(encoders: Path, kind: str, which: str, special: str) -> None:
    path = encoders / kind / (CONFIGS if which == "config" else WEIGHTS)[kind]
    path.unlink()
    os.mkfifo(path) if special == "pipe" else path.symlink_to("/dev/zero")
    message = refusal(encoders / kind)
    assert path.name in message
    assert "expected a regular file" in message


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": HUGE},
        {"hidden_size": 2**21},
        {"hidden_size": 0},
        {"hidden_size": -32},
        {"hidden_size": None},
        {"num_hidden_layers": HUGE},
        {"num_hidden_layers": 4000},
        {"num_hidden_layers": "2"},
        {"num_attention_heads": 0},
        {"num_attention_heads": 7},
        {"patch_size": 0},
        {"patch_size": [16]},
        {"image_size": 2**22},
        {"image_size": []},
        {"num_channels": 5},
        {"hidden_act": "unknown"},
        {"hidden_act": 3},
        {"model_type": "unknown-model"},
        {"model_type": "t5"},
        {"model_type": ["dinov2"]},
        {"model_type": None},
        {"backbone": "owner/other", "model_type": "dpt"},
    ],
)
def test_a_wrong_configuration_of_transformers(encoders: Path, fields: dict[str, object]) -> None:
    change(encoders / "hf" / "config.json", **fields)
    refusal(encoders / "hf")


@pytest.mark.parametrize(
    ("place", "fields"),
    [
        (["model_args"], {"embed_dim": HUGE}),
        (["model_args"], {"embed_dim": 2**21}),
        (["model_args"], {"embed_dim": 0}),
        (["model_args"], {"depth": 2**21}),
        (["model_args"], {"depth": 4000}),
        (["model_args"], {"depth": [2]}),
        (["model_args"], {"num_heads": 0}),
        (["model_args"], {"img_size": 2**22}),
        (["model_args"], {"act_layer": "unknown"}),
        (["model_args"], {"unknown_argument": 1}),
        (["pretrained_cfg"], {"input_size": 3}),
        (["pretrained_cfg"], {"input_size": [3, "a", "a"]}),
        (["pretrained_cfg"], {"input_size": [3, 2**20, 2**20]}),
        (["pretrained_cfg"], {"mean": "grey"}),
        (["pretrained_cfg"], {"std": [1, 2]}),
        ([], {"architecture": ["vit"]}),
        ([], {"architecture": "hf-hub:owner/other"}),
        ([], {"num_classes": "many"}),
    ],
)
def test_a_wrong_configuration_of_timm(
    encoders: Path, place: list[str], fields: dict[str, object]
) -> None:
    if "input_size" in fields:
        change(encoders / "timm" / "config.json", "model_args", img_size=None)
    change(encoders / "timm" / "config.json", *place, **fields)
    refusal(encoders / "timm")


@pytest.mark.parametrize(
    ("place", "fields"),
    [
        (["model_cfg"], {"embed_dim": HUGE}),
        (["model_cfg"], {"embed_dim": "16"}),
        (["model_cfg"], {"vision_cfg": []}),
        (["model_cfg", "vision_cfg"], {"width": HUGE}),
        (["model_cfg", "vision_cfg"], {"width": 2**21}),
        (["model_cfg", "vision_cfg"], {"width": 0}),
        (["model_cfg", "vision_cfg"], {"layers": 4000}),
        (["model_cfg", "vision_cfg"], {"layers": None}),
        (["model_cfg", "vision_cfg"], {"layers": [2**20, 1, 1, 1]}),
        (["model_cfg", "vision_cfg"], {"head_width": 0}),
        (["model_cfg", "vision_cfg"], {"patch_size": 0}),
        (["model_cfg", "vision_cfg"], {"image_size": 2**22}),
        (["model_cfg", "vision_cfg"], {"image_size": -64}),
        (["model_cfg", "vision_cfg"], {"pool_type": "unknown"}),
        (["model_cfg", "vision_cfg"], {"timm_model_name": "hf-hub:owner/other"}),
        (["model_cfg", "vision_cfg"], {"timm_model_name": "local-dir:/tmp"}),
        (["model_cfg", "vision_cfg"], {"timm_model_name": 3}),
        (["preprocess_cfg"], {"mean": [1]}),
        ([], {"preprocess_cfg": []}),
    ],
)
def test_a_wrong_configuration_of_open_clip(
    encoders: Path, place: list[str], fields: dict[str, object]
) -> None:
    change(encoders / "open_clip" / "open_clip_config.json", *place, **fields)
    refusal(encoders / "open_clip")


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_with_other_shapes_are_refused(encoders: Path, kind: str) -> None:
    path = encoders / kind / WEIGHTS[kind]
    state = load_file(path)
    name = max(state, key=lambda key: state[key].numel())
    save_file({**state, name: torch.zeros(3)}, path)
    assert "do not fit" in refusal(encoders / kind)
    save_file({}, path)
    refusal(encoders / kind)


@pytest.fixture
def no_prompt_or_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbid prompts and network connections."""

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("used a prompt or the network")

    monkeypatch.setattr("builtins.input", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    monkeypatch.setattr(socket.socket, "connect", forbidden)


def write_code(folder: Path) -> Path:
    marker = folder / "marker"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').write('ran')\nclass Any: pass\n")
    return marker


@pytest.mark.usefixtures("no_prompt_or_network")
def test_a_folder_of_transformers_runs_and_downloads_nothing(
    encoders: Path, intact: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = encoders / "hf"
    marker = write_code(folder)
    auto_map = dict.fromkeys(("AutoConfig", "AutoModel", "AutoImageProcessor"), "evil.Any")
    change(
        folder / "config.json",
        auto_map=auto_map,
        _attn_implementation="owner/kernel",
        attn_implementation="owner/kernel",
        quantization_config={"quant_method": "gptq", "bits": 4},
        dtype="float8",
        _name_or_path="owner/other",
    )
    change(folder / "preprocessor_config.json", auto_map=auto_map, processor_class="evil.Any")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/other"}')
    changed, original = (
        build_encoder(folder, device="cpu"),
        build_encoder(intact / "hf", device="cpu"),
    )
    assert changed.spec.weights_sha256 == original.spec.weights_sha256
    assert (
        changed._module.config._attn_implementation == original._module.config._attn_implementation
    )
    change(folder / "config.json", model_type="unknown-model")
    assert "Code of a checkpoint is not run" in refusal(folder)
    assert not marker.exists()
    assert "evil" not in sys.modules
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("no_prompt_or_network")
@pytest.mark.parametrize(
    "source",
    [
        {"file": "elsewhere.pth"},
        {"url": "http://example.com/weights.pth"},
        {"source": "hf-hub", "hf_hub_id": "owner/other"},
        {"hf_hub_id": "owner/other", "hf_hub_filename": "weights.bin"},
        {"state_dict": {"a": 1}},
        {"custom_load": True},
    ],
)
def test_a_folder_of_timm_uses_only_its_own_weights(
    encoders: Path, intact: Path, source: dict[str, object]
) -> None:
    change(encoders / "timm" / "config.json", "pretrained_cfg", **source)
    changed = build_encoder(encoders / "timm", device="cpu")
    original = build_encoder(intact / "timm", device="cpu")
    assert changed.spec.digest == original.spec.digest
    for one, other in zip(changed._module.parameters(), original._module.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.usefixtures("no_prompt_or_network")
@pytest.mark.parametrize(
    "argument",
    [
        {"checkpoint_path": "elsewhere.pth"},
        {"pretrained": True},
        {"pretrained_cfg_overlay": {"file": "elsewhere.pth"}},
        {"cache_dir": "/tmp"},
    ],
)
def test_arguments_of_timm_that_load_weights_are_refused(
    encoders: Path, argument: dict[str, object]
) -> None:
    change(encoders / "timm" / "config.json", "model_args", **argument)
    assert "would load weights from elsewhere" in refusal(encoders / "timm")


@pytest.mark.usefixtures("no_prompt_or_network")
def test_a_timm_model_in_open_clip_is_not_downloaded(encoders: Path, tmp_path: Path) -> None:
    folder = write_open_clip(tmp_path / "trunk", OPEN_CLIP_TIMM)
    place = ("model_cfg", "vision_cfg")
    change(folder / "open_clip_config.json", *place, timm_model_pretrained=True)
    assert build_encoder(folder, image_size=32, device="cpu").spec.channels == 192
    change(folder / "open_clip_config.json", "model_cfg", text_cfg={"hf_model_name": "owner/other"})
    assert build_encoder(folder, image_size=32, device="cpu").spec.channels == 192


@pytest.mark.parametrize("name", ["", "timm:", "hf:", "open_clip:"])
def test_an_empty_name_is_not_the_current_folder(
    encoders: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(encoders / "hf")
    with pytest.raises(EncoderError):
        build_encoder(name, weights="random", device="cpu")
