"""Loading a T5 from a folder that may be malicious or damaged.

JSON files are read with size limits. Of `config.json`, only the fields below are used, and the
shapes of the weights are compared with them before memory is allocated. The tokenizer is loaded
from a filtered copy of its known files. As a result, no file can run code, download anything, or
refer to a file elsewhere.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration
from transformers.activations import ACT2FN

from feature_extraction.encoders.checkpoint_files import (
    MAX_JSON_BYTES,
    WEIGHTS_FILES,
    is_present,
    read_json_object,
    read_safetensors,
    read_shapes,
    weights_in_folder,
)
from feature_extraction.encoders.library_guard import guard_library_call
from feature_extraction.encoders.weights import fetch_from_hub
from feature_extraction.errors import EncoderError, FeatureError
from feature_extraction.store.disk import require_regular_file
from vl_lst.errors import ModelError

__all__ = [
    "CONFIG_NAME",
    "GENERATION_NAME",
    "backbone_folder",
    "load_tokenizer",
    "load_weights",
    "model_errors",
    "read_config",
]

CONFIG_NAME = "config.json"
GENERATION_NAME = "generation_config.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
TOKENIZER_NAME = "tokenizer.json"
SENTENCEPIECE_NAME = "spiece.model"
TOKENIZER_JSON_NAMES = (
    TOKENIZER_CONFIG_NAME,
    "special_tokens_map.json",
    "added_tokens.json",
)
# Vocabulary files; which of them is read depends on the tokenizer's class.
VOCABULARY_NAMES = (TOKENIZER_NAME, SENTENCEPIECE_NAME, "vocab.txt", "vocab.json", "merges.txt")
# Removed from a tokenizer's configuration: code, templates, references to other files and models.
REMOVED_FIELDS = ("auto_map", "chat_template", "init_inputs", "name_or_path", "processor_class")
REMOVED_SUFFIXES = ("_file", "_files", "_path")

# Fields that a token in a tokenizer's configuration may have.
TOKEN_FIELDS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special", "__type")

FLOAT_TYPES = ("F64", "F32", "F16", "BF16")
# Names of one tensor; a file contains at least one of them.
EMBEDDING_NAMES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
OUTPUT_NAME = "lm_head.weight"

Width = Annotated[int, Field(ge=1, le=2**17)]
Layers = Annotated[int, Field(ge=1, le=512)]
TokenId = Annotated[int, Field(ge=0)]


class _T5Fields(BaseModel):
    """Fields of `config.json` that are used, with the names and defaults of `T5Config`."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    model_type: Literal["t5"]
    vocab_size: int = Field(ge=3, le=2**22)
    d_model: Width
    d_kv: Width
    d_ff: Annotated[int, Field(ge=1, le=2**20)]
    num_layers: Layers
    num_decoder_layers: Layers | None = None
    num_heads: int = Field(ge=1, le=2**10)
    relative_attention_num_buckets: int = Field(32, ge=4, le=2**14)
    relative_attention_max_distance: int = Field(128, ge=4, le=2**20)
    dropout_rate: float = Field(0.1, ge=0, lt=1)
    layer_norm_epsilon: float = Field(1e-6, gt=0)
    initializer_factor: float = Field(1.0, ge=0, le=2**10)
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool | None = None
    pad_token_id: TokenId = 0
    eos_token_id: TokenId = 1
    decoder_start_token_id: TokenId | None = None

    @model_validator(mode="after")
    def _require_consistent_fields(self) -> Self:
        if self.relative_attention_num_buckets >= 2 * self.relative_attention_max_distance:
            raise ValueError(
                f"relative_attention_max_distance is {self.relative_attention_max_distance}, "
                "expected more than half of relative_attention_num_buckets, which is "
                f"{self.relative_attention_num_buckets}"
            )
        activation = self.feed_forward_proj.removeprefix("gated-")
        if activation not in ACT2FN:
            raise ValueError(
                f"feed_forward_proj is {self.feed_forward_proj!r:.80}, which is not "
                "an activation of transformers; T5 has relu or gated-gelu"
            )
        for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
            chosen = getattr(self, name)
            if chosen is not None and chosen >= self.vocab_size:
                raise ValueError(f"{name} is {chosen}, beyond the vocab_size {self.vocab_size}")
        return self


@contextmanager
def model_errors(problem: str) -> Iterator[None]:
    """Convert errors from reading a model's files to `ModelError`s that start with `problem`."""
    try:
        yield
    except FeatureError as error:
        raise ModelError(f"{problem}: {error}") from error


def backbone_folder(name: str, files: tuple[str, ...] = ()) -> Path:
    """Return the folder of a backbone, after downloading it from the Hugging Face Hub if needed.

    Args:
        name: Local folder or model ID; `OWNER/NAME@REVISION` selects a revision.
        files: Names or patterns of the files needed; default: all files that loading reads.

    Raises:
        EncoderError: There is no such folder or model.
        ModelError: The name is empty or that of a file.
    """
    if not name.strip():
        raise ModelError(
            "the name of the backbone is empty: expected a folder or a Hugging Face model ID"
        )
    if Path(name).is_dir():
        return Path(name)
    if Path(name).exists():
        raise ModelError(f"{name} is a file: expected the folder of a backbone")
    wanted = files or (
        CONFIG_NAME,
        GENERATION_NAME,
        *TOKENIZER_JSON_NAMES,
        *VOCABULARY_NAMES,
        *WEIGHTS_FILES,
    )
    return fetch_from_hub(name, wanted)


def read_config(folder: Path) -> T5Config:
    """Read the configuration of a T5.

    Args:
        folder: Folder with `config.json`, and optionally `generation_config.json`, which may set
            the start token of the decoder.

    Raises:
        EncoderError: A file is missing or not a JSON object.
        ModelError: The model is not a T5, or a field is missing or out of range.
    """
    path = folder / CONFIG_NAME
    content = read_json_object(path)
    kind = content.get("model_type")
    if kind != "t5":
        found = "has no model_type" if kind is None else f"is a {kind!s:.60}"
        raise ModelError(f"{path} {found}: expected a T5 (v1.0, v1.1, Flan)")
    generation = folder / GENERATION_NAME
    if is_present(generation):
        start = read_json_object(generation).get("decoder_start_token_id")
        if start is not None:
            content["decoder_start_token_id"] = start
    try:
        fields = _T5Fields.model_validate(content)
    except ValidationError as error:
        raise ModelError(f"{path}: {_describe(error)}") from None
    values = fields.model_dump(exclude_none=True, exclude={"model_type"})

    def config_error(reason: str) -> ModelError:
        return ModelError(f"{path}: transformers cannot use it: {reason}")

    with guard_library_call(config_error):
        return T5Config(**values)


def load_weights(folder: Path, config: T5Config, dtype: torch.dtype) -> T5ForConditionalGeneration:
    """Load a T5 with the weights in a folder.

    Args:
        folder: Folder with `model.safetensors`, or its shards and their index.
        config: Configuration from `read_config`.
        dtype: Data type of the weights in memory.

    Raises:
        EncoderError: A file is missing, damaged or not in safetensors format.
        ModelError: The tensors do not fit the configuration, or are not finite.
    """
    paths = weights_in_folder(folder)
    _compare_shapes(paths, config, folder)
    state: dict[str, Tensor] = {}
    for path in paths:
        state.update(read_safetensors(path))
    loading: Any = T5ForConditionalGeneration
    with guard_library_call(_cannot_use(folder)):
        # Without a folder, transformers cannot look for other files in it, such as adapters.
        model, report = loading.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
        )
    if missing := sorted(report["missing_keys"]):
        raise _missing_tensors(folder, missing)
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ModelError(
                f"the weights in {folder} are damaged: {name} has values that are not finite. "
                "Download or save them again"
            )
    loaded: T5ForConditionalGeneration = model
    return loaded


def load_tokenizer(folder: Path, config: T5Config) -> Any:
    """Load the tokenizer in a folder.

    Args:
        folder: Folder with `tokenizer.json`, or with `spiece.model` if sentencepiece is installed.
        config: Configuration of the model.

    Raises:
        EncoderError: A file is not a regular file or not a JSON object.
        ModelError: The tokenizer is missing, cannot be loaded, or does not fit the model.
    """
    if not any(is_present(folder / name) for name in VOCABULARY_NAMES):
        raise ModelError(f"no {TOKENIZER_NAME} in {folder}: a backbone needs its tokenizer")
    with tempfile.TemporaryDirectory(prefix="vl-lst-tokenizer-") as temporary:
        _copy_tokenizer(folder, Path(temporary))
        with guard_library_call(_cannot_use(folder, "the tokenizer")):
            tokenizer: Any = AutoTokenizer.from_pretrained(
                temporary, config=config, local_files_only=True, trust_remote_code=False
            )
            last_id = max(tokenizer.get_vocab().values())
            tokenizer("vqa: is it 1?", add_special_tokens=False)
            special = {"pad": tokenizer.pad_token_id, "eos": tokenizer.eos_token_id}
    for name, token_id in special.items():
        expected = getattr(config, f"{name}_token_id")
        if token_id != expected:
            raise ModelError(
                f"the tokenizer in {folder} does not fit the model: its {name} token has the id "
                f"{token_id}, {CONFIG_NAME} has {name}_token_id {expected}"
            )
    if last_id >= config.vocab_size:
        raise ModelError(
            f"the tokenizer in {folder} does not fit the model: it has token ids up to {last_id}, "
            f"{CONFIG_NAME} has vocab_size {config.vocab_size}"
        )
    return tokenizer


def _copy_tokenizer(folder: Path, target: Path) -> None:
    for name in TOKENIZER_JSON_NAMES:
        if is_present(folder / name):
            content = read_json_object(folder / name)
            kept = {
                key: _plain_tokens(value)
                for key, value in content.items()
                if key not in REMOVED_FIELDS and not key.endswith(REMOVED_SUFFIXES)
            }
            (target / name).write_text(json.dumps(kept), encoding="utf-8")
    for name in VOCABULARY_NAMES:
        if is_present(folder / name):
            if name == TOKENIZER_NAME:
                read_json_object(folder / name)
            require_regular_file(
                folder / name, max_bytes=MAX_JSON_BYTES, must_exist=True, error=EncoderError
            )
            (target / name).write_bytes((folder / name).read_bytes())


def _plain_tokens(value: Any) -> Any:
    """Remove unknown fields of tokens, about which the tokenizer library would print warnings."""
    if isinstance(value, list):
        return list(map(_plain_token, value))
    value = _plain_token(value)
    if isinstance(value, dict):
        return {key: _plain_token(field) for key, field in value.items()}
    return value


def _plain_token(value: Any) -> Any:
    if isinstance(value, dict) and "content" in value:
        return {key: field for key, field in value.items() if key in TOKEN_FIELDS}
    return value


def _compare_shapes(paths: list[Path], config: T5Config, folder: Path) -> None:
    """Refuse tensors that do not fit the configuration, before reading any of them."""
    with guard_library_call(_cannot_use(folder)), torch.device("meta"):
        expected = {
            name: tuple(tensor.shape)
            for name, tensor in T5ForConditionalGeneration(config).state_dict().items()
        }
    found: set[str] = set()
    for path in paths:
        for name, entry in read_shapes(path).items():
            found.add(name)
            if name not in expected:
                continue
            if entry.shape != expected[name] or entry.dtype not in FLOAT_TYPES:
                raise ModelError(
                    f"{path} does not fit {CONFIG_NAME}: found {name} of {entry.dtype} "
                    f"{list(entry.shape)}, expected floating-point numbers of "
                    f"{list(expected[name])}"
                )
    optional = {OUTPUT_NAME, *EMBEDDING_NAMES} if found & set(EMBEDDING_NAMES) else set()
    if missing := sorted(set(expected) - found - optional):
        raise _missing_tensors(folder, missing)


def _missing_tensors(folder: Path, missing: list[str]) -> ModelError:
    return ModelError(
        f"the weights in {folder} lack {len(missing)} tensors, such as {missing[0]!r}: the file is "
        "incomplete or belongs to another model"
    )


def _cannot_use(folder: Path, what: str = "the model") -> Callable[[str], ModelError]:
    return lambda reason: ModelError(f"transformers cannot load {what} in {folder}: {reason}")


def _describe(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{first['loc'][0]} is missing: expected the configuration of a T5"
    if not first["loc"]:
        return message
    expected = message.replace("Input should be", "expected", 1)
    return f"{first['loc'][0]}: found {first['input']!r:.60}, {expected}"
