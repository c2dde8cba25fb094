"""Backbones in malicious or damaged folders: nothing runs, and damage is one message."""

import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import write_backbone

from feature_extraction.encoders import weights
from vl_lst.backbones.loading import load_backbone
from vl_lst.backbones.random_weights import backbone_config, random_backbone
from vl_lst.errors import ModelError

JSON_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
WEIGHTS = "model.safetensors"
# Too deep for the parser, or for a recursive function.
DEEP = "[" * 100_000
LYING_HEADER = (2**40).to_bytes(8, "little") + b"{}"
BEYOND_THE_END = json.dumps(
    {"shared.weight": {"dtype": "F32", "shape": [20, 16], "data_offsets": [0, 1280]}}
).encode()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("backbones") / "t5")


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "t5"))


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_weights(folder: Path, changed: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    changed(state)
    save_file(state, folder / WEIGHTS)


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_backbone(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.mark.parametrize("content", ["null", "[]", '""', "7", "", "{", '{"a": NaN}', DEEP, b"\xff"])
@pytest.mark.parametrize("name", JSON_FILES)
def test_json_that_is_not_an_object_is_named(folder: Path, name: str, content: str | bytes) -> None:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert name in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"\x80\x04garbage of a pickle",
        LYING_HEADER,
        len(BEYOND_THE_END).to_bytes(8, "little") + BEYOND_THE_END,
    ],
)
def test_weights_that_are_not_safetensors_are_named(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    assert f"{WEIGHTS} is damaged or truncated" in refusal(folder)


def test_truncated_or_missing_weights_are_named(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-1])
    assert f"{WEIGHTS} is damaged or truncated" in refusal(folder)
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "Its folder has pytorch_model.bin, which can run any code when read" in refusal(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 10**12}, "d_model: found 1000000000000, expected less"),
        ({"d_model": 17}, "does not fit config.json: found"),
        ({"d_model": "16"}, "d_model: found '16', expected a valid integer"),
        ({"d_model": None}, "d_model: found None"),
        ({"d_kv": 0}, "d_kv: found 0"),
        ({"d_ff": 2**20}, "does not fit config.json: found"),
        ({"num_layers": 10**9}, "num_layers: found 1000000000"),
        ({"num_layers": 3}, "lack 8 tensors, such as 'encoder.block.2"),
        ({"num_decoder_layers": 0}, "num_decoder_layers: found 0"),
        ({"num_heads": 0}, "num_heads: found 0"),
        ({"num_heads": [4]}, r"num_heads: found \[4\]"),
        ({"vocab_size": -1}, "vocab_size: found -1"),
        ({"vocab_size": 10}, "token ids up to 19, config.json has vocab_size 10"),
        ({"relative_attention_num_buckets": 0}, "relative_attention_num_buckets: found 0"),
        ({"relative_attention_max_distance": 15}, "max_distance is 15, expected more than half"),
        ({"dropout_rate": 2}, "dropout_rate: found 2"),
        ({"layer_norm_epsilon": -1.0}, "layer_norm_epsilon: found -1"),
        ({"feed_forward_proj": "sorcery"}, "'sorcery', which is not an activation"),
        ({"feed_forward_proj": {}}, "feed_forward_proj: found {}"),
        ({"feed_forward_proj": "gated-relu"}, "lack .*wi_0"),
        ({"pad_token_id": None}, "pad_token_id: found None"),
        ({"pad_token_id": 4}, "pad token has the id 0, config.json has pad_token_id 4"),
        ({"eos_token_id": [1, "2"]}, "eos_token_id: found"),
        ({"eos_token_id": 1000}, "eos_token_id is 1000, beyond the vocab_size 20"),
        ({"model_type": "gpt2"}, "its model_type is gpt2, a decoder without an encoder"),
        ({"model_type": None}, "it has no model_type; expected an encoder-decoder or an encoder"),
        ({"model_type": ["t5"]}, r"its model_type is \['t5'\]"),
    ],
)
def test_invalid_config_fields_are_named(
    folder: Path, fields: dict[str, object], message: str
) -> None:
    change(folder / "config.json", **fields)
    assert re.search(message, refusal(folder))


def test_a_missing_config_field_is_named(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "t5"}')
    assert "vocab_size is missing" in refusal(folder)


def test_the_decoders_start_token_is_checked(folder: Path) -> None:
    change(folder / "generation_config.json", decoder_start_token_id=2)
    change(folder / "config.json", decoder_start_token_id=0)
    assert load_backbone(str(folder)).backbone.start_token_id == 2
    change(folder / "generation_config.json", decoder_start_token_id="start")
    assert "decoder_start_token_id: found 'start'" in refusal(folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda s: s.update({"shared.weight": s["shared.weight"][:, :8].clone()}), "[20, 8]"),
        (lambda s: s.update({"shared.weight": s["shared.weight"].int()}), "shared.weight of I32"),
        (lambda s: s.pop("shared.weight"), "lack"),
        (lambda s: s.pop("decoder.final_layer_norm.weight"), "lack 1 tensors"),
        (lambda s: s["decoder.final_layer_norm.weight"].fill_(torch.nan), "not finite"),
        (lambda s: s["shared.weight"].fill_(torch.inf), "not finite"),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_named(
    folder: Path, changed: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    change_weights(folder, changed)
    assert message in refusal(folder)


@pytest.mark.parametrize("parts", [{}, [], {"a": 3}, {"a": "../t5/model.safetensors"}, {"a": "b"}])
def test_an_index_that_lists_files_elsewhere_is_refused(folder: Path, parts: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    refusal(folder)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("tokenizer_config.json", {"pad_token": None}),
        ("tokenizer_config.json", {"eos_token": "red"}),
        ("tokenizer_config.json", {"eos_token": "never seen"}),
        ("tokenizer_config.json", {"eos_token": {"content": 3}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5000": {"content": "<new>"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}),
        ("tokenizer_config.json", {"tokenizer_class": 5}),
        ("tokenizer_config.json", {"model_max_length": "long", "padding_side": "up"}),
        ("tokenizer.json", {"model": None}),
        ("tokenizer.json", {"model": {"type": "WordLevel", "vocab": {"a": 900}, "unk_token": "a"}}),
        ("tokenizer.json", {"added_tokens": 5}),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Sorcery"}}),
    ],
)
def test_a_tokenizer_that_does_not_fit_the_model_is_refused(
    folder: Path, name: str, fields: dict[str, object]
) -> None:
    change(folder / name, **fields)
    assert "tokenizer" in refusal(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer.json" in refusal(folder)


@pytest.mark.parametrize("name", [*JSON_FILES, WEIGHTS])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_special_files_are_not_opened(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    message = refusal(folder)
    assert name in message
    assert "expected a regular file" in message


@pytest.mark.parametrize("name", [*JSON_FILES, WEIGHTS, "spiece.model"])
@pytest.mark.parametrize("target", ["/nonexistent/blob", "itself"])
def test_a_broken_link_is_not_a_missing_file(folder: Path, name: str, target: str) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    path.symlink_to(name if target == "itself" else target)
    assert f"{path} is a broken link: expected a regular file" in refusal(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"pad_token": {"content": "<pad>", "__type": "AddedToken", "strange": 1}},
        {"added_tokens_decoder": {"0": {"content": "<pad>", "special": True, "strange": 1}}},
        {"additional_special_tokens": [{"content": "<pad>", "__type": "AddedToken", "strange": 1}]},
    ],
)
def test_unknown_token_fields_print_no_warnings(
    folder: Path, fields: dict[str, object], capfd: pytest.CaptureFixture[str]
) -> None:
    change(folder / "tokenizer_config.json", **fields)
    load_backbone(str(folder))
    printed = capfd.readouterr()
    assert "strange" not in printed.out + printed.err


def test_oversized_files_are_not_read(folder: Path) -> None:
    with (folder / "tokenizer_config.json").open("r+b") as file:
        file.truncate(2**40)
    assert "tokenizer_config.json has 1.0 TiB" in refusal(folder)


@pytest.fixture
def hostile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that tries every way to run code, download files or prompt the user."""
    marker = folder / "marker"
    (folder / "evil.py").write_text(
        f"open({str(marker)!r}, 'w').write('ran')\n"
        "class Config: pass\nclass Model: pass\nclass Tokenizer: pass\n"
    )
    change(
        folder / "config.json",
        auto_map={"AutoConfig": "evil.Config", "AutoModelForSeq2SeqLM": "evil.Model"},
        _attn_implementation="owner/kernel",
        attn_implementation="owner/kernel",
        quantization_config={"quant_method": "gptq", "bits": 4},
        dtype="evil.Type",
        torch_dtype="float8",
        _name_or_path="owner/other",
        tokenizer_class="EvilTokenizer",
        use_kernels=True,
    )
    change(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]},
        chat_template="{{ ''.__class__ }}",
        fast_tokenizer_files=["../../elsewhere.json"],
        vocab_file="/etc/passwd",
        tokenizer_file="/etc/passwd",
        init_inputs=["/etc/passwd"],
        name_or_path="owner/other",
    )
    change(folder / "generation_config.json", auto_map={"AutoConfig": "evil.Config"})
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "owner/other", "peft_type": "LORA"})
    )
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("asked the user, or the network")

    monkeypatch.setattr("builtins.input", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    monkeypatch.setattr(socket.socket, "connect", forbidden)
    return folder


def assert_nothing_ran(folder: Path) -> None:
    assert not (folder / "marker").exists()
    assert not any("evil" in name for name in sys.modules)


def test_nothing_in_a_folder_runs_or_is_downloaded(
    hostile: Path, sound: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = load_backbone(str(hostile))
    plain = load_backbone(str(sound))
    assert loaded.fingerprint == plain.fingerprint
    assert loaded.tokenizer("what color is it?") == plain.tokenizer("what color is it?")
    assert random_backbone(*backbone_config(str(hostile))).config.d_model == 16
    assert_nothing_ran(hostile)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_an_unknown_class_is_refused_without_a_prompt(
    hostile: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if name == "config.json":
        change(hostile / name, model_type="never-heard-of")
    else:
        change(hostile / name, tokenizer_class="NeverHeardOf", eos_token=None)
    refusal(hostile)
    assert_nothing_ran(hostile)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_layers": 10**9}, "num_layers: found"),
        ({"feed_forward_proj": "sorcery"}, "not an activation"),
        ({"model_type": "gpt2"}, "its model_type is gpt2, a decoder without an encoder"),
    ],
)
def test_profiling_checks_the_configuration_too(
    folder: Path, fields: dict[str, object], message: str
) -> None:
    change(folder / "config.json", **fields)
    with pytest.raises(ModelError, match=message):
        backbone_config(str(folder))


def test_profiling_refuses_a_model_that_is_too_large(folder: Path) -> None:
    change(folder / "config.json", d_model=2**17, d_ff=2**20, num_layers=512)
    with pytest.raises(ModelError, match="cannot build a t5 of these sizes"):
        random_backbone(*backbone_config(str(folder)))


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_current_folder(name: str) -> None:
    with pytest.raises(ModelError, match="the name of the backbone is empty"):
        load_backbone(name)


@pytest.mark.parametrize("name", ["~/t5", "C:\\t5", "a/b/c", "t5/", "../nowhere"])
def test_invalid_model_ids_are_not_looked_up(name: str) -> None:
    with pytest.raises(ModelError, match="not a folder on .*not a valid name on the hub") as raised:
        load_backbone(name)
    assert "Repo id" not in str(raised.value)


def test_a_file_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json is a file: expected the folder"):
        load_backbone(str(folder / "config.json"))


def test_only_known_files_of_a_repository_are_downloaded(
    sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fetched(name: str, *, revision: object, allow_patterns: list[str]) -> str:
        assert (name, revision) == ("owner/t5", None)
        asked.extend(allow_patterns)
        return str(sound)

    monkeypatch.setattr(weights, "snapshot_download", fetched)
    assert load_backbone("owner/t5").fingerprint == load_backbone(str(sound)).fingerprint
    assert all(name.endswith((".json", ".safetensors", ".txt", ".model")) for name in asked)
    asked.clear()
    assert backbone_config("owner/t5")[0].d_model == 16
    assert asked == ["config.json", "generation_config.json"]


def test_sharded_weights_are_the_same(folder: Path, sound: Path) -> None:
    state = load_file(folder / WEIGHTS)
    names = sorted(state)
    parts = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: state[key] for key in keys}, folder / file)
    (folder / WEIGHTS).unlink()
    index = {"weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load_backbone(str(folder)).fingerprint == load_backbone(str(sound)).fingerprint
    half = load_backbone(str(folder), precision="bf16")
    assert {parameter.dtype for parameter in half.backbone.parameters()} == {torch.bfloat16}
