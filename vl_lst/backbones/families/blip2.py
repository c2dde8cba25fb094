"""BLIP-2 (arXiv 2301.12597) with a Flan-T5, and its relatives with other models of that family.

Only the language model is loaded: a stock T5, which reads the projected query tokens of each image
and then the text.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator
from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from vl_lst.backbones.config_fields import ConfigFields
from vl_lst.backbones.families.t5 import T5, T5Fields

__all__ = ["FAMILY", "Blip2", "Blip2Fields"]

LANGUAGE_MODEL = "language_model."
PROJECTION = "language_projection."
START = "decoder_start_token_id"


class Blip2Fields(ConfigFields):
    """Fields of `Blip2Config`."""

    text_config: T5Fields
    num_query_tokens: int = Field(32, ge=1, le=2**14)

    @model_validator(mode="before")
    @classmethod
    def _complete_language_model(cls, values: Any) -> Any:
        """Add the language model's default sizes, which a file leaves out, and its start token."""
        text = values.get("text_config")
        if not isinstance(text, dict):
            raise ValueError("text_config is missing: expected the configuration of a T5")
        kind = text.get("model_type")
        if kind not in T5.model_types:
            raise ValueError(
                f"its language model is of the type {kind!r:.60}: expected an encoder-decoder of "
                f"the type {' or '.join(T5.model_types)}, such as that of "
                "Salesforce/blip2-flan-t5-xl; a decoder without an encoder is not supported"
            )
        default = CONFIG_MAPPING[kind]()
        sizes = {
            name: getattr(default, name)
            for name, field in T5Fields.model_fields.items()
            if field.is_required()
        }
        text = {**sizes, **text}
        if values.get(START) is not None:
            text[START] = values[START]
        return {**values, "text_config": text}


class Blip2(T5):
    """Language model of a BLIP-2."""

    model_types = ("blip-2",)
    fields = Blip2Fields
    reads_images = True

    def build_config(self, values: Mapping[str, Any]) -> PretrainedConfig:
        """Return the configuration of the language model, with the number of query tokens."""
        config = super().build_config(values["text_config"])
        config.num_query_tokens = values["num_query_tokens"]
        return config

    def tensor_name(self, name: str) -> str | None:
        """Return the name of a tensor of the language model; others are not needed."""
        if not name.startswith(LANGUAGE_MODEL):
            return None
        return super().tensor_name(name.removeprefix(LANGUAGE_MODEL))

    def tokens_per_image(self, config: Any) -> int:
        """Return the number of query tokens."""
        return int(config.num_query_tokens)

    def projection_tensor_name(self, name: str) -> str | None:
        """Return the name of a tensor of the linear layer after the Q-Former."""
        return name.removeprefix(PROJECTION) if name.startswith(PROJECTION) else None


FAMILY = Blip2()
