"""Loading the tokenizer of a backbone from a folder that may be malicious or damaged.

The tokenizer is loaded from a filtered copy of its known files, so that none can run code, download
anything, or refer to a file elsewhere.
"""

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from feature_extraction.encoders.checkpoint_files import (
    MAX_JSON_BYTES,
    is_present,
    read_json_object,
)
from feature_extraction.encoders.library_guard import guard_library_call
from feature_extraction.errors import EncoderError
from feature_extraction.store.disk import require_regular_file
from vl_lst.backbones.family import Family
from vl_lst.errors import ModelError

__all__ = ["TOKENIZER_FILES", "load_tokenizer"]

TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
TOKENIZER_NAME = "tokenizer.json"
TOKENIZER_JSON_NAMES = (
    TOKENIZER_CONFIG_NAME,
    "special_tokens_map.json",
    "added_tokens.json",
)
SENTENCEPIECE_NAMES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
# Vocabulary files; which of them is read depends on the tokenizer's class.
VOCABULARY_NAMES = (
    TOKENIZER_NAME,
    *SENTENCEPIECE_NAMES,
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
TOKENIZER_FILES = (*TOKENIZER_JSON_NAMES, *VOCABULARY_NAMES)
# Classes of tokenizers whose tokens are bytes, so that they have no vocabulary file.
BYTE_CLASSES = ("ByT5Tokenizer",)
# Removed from a tokenizer's configuration: code, templates, references to other files and models.
REMOVED_FIELDS = ("auto_map", "chat_template", "init_inputs", "name_or_path", "processor_class")
REMOVED_SUFFIXES = ("_file", "_files", "_path")

# Fields that a token in a tokenizer's configuration may have.
TOKEN_FIELDS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special", "__type")


def load_tokenizer(folder: Path, config: Any, family: Family) -> Any:
    """Load the tokenizer in a folder.

    Args:
        folder: Folder with `tokenizer.json`, with `vocab.json` and `merges.txt`, with another
            vocabulary file if sentencepiece is installed, or with the configuration of a tokenizer
            that needs none.
        config: Configuration of the model.
        family: Family of the model.

    Raises:
        EncoderError: A file is not a regular file or not a JSON object.
        ModelError: The tokenizer is missing, cannot be loaded, or does not fit the model.
    """

    def cannot_use(reason: str) -> ModelError:
        return ModelError(f"transformers cannot load the tokenizer in {folder}: {reason}")

    if not _has_vocabulary(folder):
        raise ModelError(
            f"no {TOKENIZER_NAME} in {folder}: expected the backbone's tokenizer. Copy it from the "
            "model's repository."
        )
    _require_sentencepiece(folder)
    with tempfile.TemporaryDirectory(prefix="vl-lst-tokenizer-") as temporary:
        _copy_tokenizer(folder, Path(temporary))
        with guard_library_call(cannot_use):
            tokenizer: Any = AutoTokenizer.from_pretrained(
                temporary,
                config=config,
                local_files_only=True,
                trust_remote_code=False,
                # A text with the name of the token that stands for an image is plain text.
                split_special_tokens=family.reads_images,
            )
            ids = set(tokenizer.get_vocab().values())
            if family.reads_images:
                ids -= {
                    token_id
                    for token_id, token in tokenizer.added_tokens_decoder.items()
                    if token.special
                }
            last_id = max(ids)
            tokenizer("vqa: is it 1?", add_special_tokens=False)
    special: dict[str, tuple[int | None, tuple[int, ...]]] = {
        "pad": (tokenizer.pad_token_id, (family.pad_token_id(config),))
    }
    if family.has_decoder:
        special["eos"] = (tokenizer.eos_token_id, family.end_token_ids(config))
    for name, (token_id, expected) in special.items():
        if token_id not in expected:
            raise ModelError(
                f"the tokenizer in {folder} does not fit the model: its {name} token has the id "
                f"{token_id}, config.json has {name}_token_id {' or '.join(map(str, expected))}"
            )
    vocabulary = family.vocabulary_size(config)
    if last_id >= vocabulary:
        raise ModelError(
            f"the tokenizer in {folder} does not fit the model: it has token ids up to {last_id}, "
            f"config.json has vocab_size {vocabulary}"
        )
    return tokenizer


def _has_vocabulary(folder: Path) -> bool:
    """Return whether a folder has a vocabulary file, or a tokenizer that needs none."""
    if any(is_present(folder / name) for name in VOCABULARY_NAMES):
        return True
    config = folder / TOKENIZER_CONFIG_NAME
    return is_present(config) and read_json_object(config).get("tokenizer_class") in BYTE_CLASSES


def _require_sentencepiece(folder: Path) -> None:
    """Check that a vocabulary can be read; transformers would name another missing package.

    Raises:
        ModelError: Only sentencepiece can read the vocabulary, and it is not installed.
    """
    present = [name for name in VOCABULARY_NAMES if is_present(folder / name)]
    is_needed = bool(present) and all(name in SENTENCEPIECE_NAMES for name in present)
    if is_needed and find_spec("sentencepiece") is None:
        raise ModelError(
            f"the vocabulary {folder / present[0]} cannot be read, since sentencepiece is not "
            f"installed. Install it with `pip install sentencepiece`, or add {TOKENIZER_NAME}."
        )


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
