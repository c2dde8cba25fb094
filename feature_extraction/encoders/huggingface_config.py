"""Read the configuration of a transformers checkpoint safely.

A checkpoint is untrusted: its code is not run, and fields that would download something or change
the arithmetic are removed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from feature_extraction.encoders.checkpoint_files import check_numbers
from feature_extraction.encoders.library_guard import guard_library_call
from feature_extraction.errors import EncoderError

__all__ = ["CONFIG_NAME", "create_config", "without_metadata"]

CONFIG_NAME = "config.json"

# Configuration fields that do not affect the computation.
METADATA_FIELDS = frozenset(
    "_commit_hash _name_or_path architectures auto_map dtype id2label label2id torch_dtype "
    "transformers_version".split()
)

# Configuration fields, at any depth, that would download or run code, or change the arithmetic.
REMOVED_FIELDS = frozenset(
    "_attn_implementation _attn_implementation_internal _commit_hash _experts_implementation "
    "_name_or_path attn_implementation auto_map dtype experts_implementation name_or_path "
    "quantization_config torch_dtype use_kernels".split()
)
# Configuration field that names another model, on the hub or in a folder.
OTHER_MODEL = "backbone"


def create_config(fields: Mapping[str, Any], path: Path) -> Any:
    """Create the configuration object for the fields of a `config.json`.

    Args:
        fields: Content of the file.
        path: The file, for messages.

    Raises:
        EncoderError: transformers has no such model, or a value is invalid.
    """
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise EncoderError(
            f"{path} has the model_type {kind!r:.80}, which transformers does not have. Code of a "
            "checkpoint is not run."
        )
    check_numbers(fields, path)

    def invalid_config(reason: str) -> EncoderError:
        return EncoderError(f"{path} is not a valid configuration of {kind}: {reason}")

    with guard_library_call(invalid_config):
        return CONFIG_MAPPING[kind].from_dict(_without_removed_fields(fields, path))


def without_metadata(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a configuration that affect the computation."""
    return {key: value for key, value in fields.items() if key not in METADATA_FIELDS}


def _without_removed_fields(value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        if isinstance(value.get(OTHER_MODEL), str):
            raise EncoderError(
                f"{path} names another model, {value[OTHER_MODEL]!r:.80}, as its {OTHER_MODEL}: "
                "expected a vision model with all its layers in one checkpoint"
            )
        return {
            key: _without_removed_fields(inner, path)
            for key, inner in value.items()
            if key not in REMOVED_FIELDS
        }
    if isinstance(value, list):
        return [_without_removed_fields(inner, path) for inner in value]
    return value
