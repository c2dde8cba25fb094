"""T5Gemma 2 (arXiv 2512.14856): an encoder and a decoder made of two Gemma 3, which reads images.

Unlike in T5Gemma, both stacks embed and scale tokens with one table, queries and keys are
normalised, and the decoder has one attention for its own tokens and the encoder's states. The image
encoder is left out: features hold the tokens that it makes of an image.

B examples, I images per example, N tokens per image, T text tokens, V = tokens of images and of
what surrounds them, S = V + T, D width.
"""

import re
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    SiglipVisionConfig,
    T5Gemma2Config,
    T5Gemma2ForConditionalGeneration,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from vl_lst.backbones.config_fields import NestedFields, TokenId, VocabularySize
from vl_lst.backbones.families.t5gemma import PairFields, RotaryFields, StackFields, T5Gemma

__all__ = ["FAMILY", "LanguageModel", "T5Gemma2", "T5Gemma2Fields"]

IMAGE_ENCODER = re.compile(r"^(model\.)?encoder\.(vision_tower|multi_modal_projector)\.")
PROJECTION = re.compile(r"^(?:model\.)?encoder\.multi_modal_projector\.(.+)$")
# In the published checkpoints, the encoder's blocks are outside `text_model`.
TEXT_MODEL = re.compile(r"^(?:model\.)?encoder\.(?:text_model\.)?(.+)$")

# What the stock processor writes before and after each image, and therefore between two images.
AROUND_IMAGE = "\n\n"
# Their ids in the tokenizer of the published checkpoints.
AROUND_IDS = (108,)
BETWEEN_IDS = (110,)


class RotaryByLayerFields(NestedFields):
    """Frequencies of rotary positions in blocks with and without a window."""

    full_attention: RotaryFields | None = None
    sliding_attention: RotaryFields | None = None


class TextFields(StackFields):
    """Fields of `T5Gemma2TextConfig` and `T5Gemma2DecoderConfig`."""

    vocab_size: VocabularySize = 262_208
    max_position_embeddings: int = Field(131_072, ge=1, le=2**30)
    attn_logit_softcapping: None = None
    final_logit_softcapping: float | None = Field(None, gt=0)
    sliding_window_pattern: int = Field(6, ge=1, le=512)
    rope_parameters: RotaryByLayerFields | None = None
    rope_scaling: RotaryFields | None = None
    rope_theta: float = Field(1_000_000.0, gt=0, le=1e12)
    rope_local_base_freq: float = Field(10_000.0, gt=0, le=1e12)


class EncoderFields(NestedFields):
    """Fields of `T5Gemma2EncoderConfig`, without those of the image encoder."""

    text_config: TextFields
    mm_tokens_per_image: int = Field(256, ge=1, le=2**14)
    boi_token_index: TokenId = 255_999
    eoi_token_index: TokenId = 256_000


class T5Gemma2Fields(PairFields):
    """Fields of `T5Gemma2Config`."""

    encoder: EncoderFields
    decoder: TextFields

    @property
    def vocab_size(self) -> int:
        """Number of tokens that both stacks embed."""
        return self.decoder.vocab_size

    @model_validator(mode="after")
    def _require_equal_stacks(self) -> Self:
        for name in ("hidden_size", "vocab_size"):
            encoder, decoder = getattr(self.encoder.text_config, name), getattr(self.decoder, name)
            if encoder != decoder:
                raise ValueError(
                    f"the encoder has a {name} of {encoder} and the decoder one of {decoder}: "
                    "expected the same, since they share the embedding"
                )
        return self


class LanguageModel(T5Gemma2ForConditionalGeneration):
    """Stock model without its image encoder."""

    def __init__(self, config: T5Gemma2Config) -> None:
        super().__init__(config)
        encoder = self.get_encoder()
        del encoder.vision_tower, encoder.multi_modal_projector


class T5Gemma2(T5Gemma):
    """Language model of a T5Gemma 2."""

    model_types = ("t5gemma2",)
    fields = T5Gemma2Fields
    merges_attention = True
    reads_images = True
    encoder_prefix = "model.encoder.text_model"

    def build_config(self, values: Mapping[str, Any]) -> PretrainedConfig:
        """Return the configuration of the model, with an image encoder of no size."""
        values = dict(values)
        # The stock model builds one, which is then removed.
        nothing = SiglipVisionConfig(
            hidden_size=1,
            intermediate_size=1,
            num_hidden_layers=0,
            num_attention_heads=1,
            image_size=1,
            patch_size=1,
            vision_use_head=False,
        )
        values["encoder"] = {**values["encoder"], "vision_config": nothing}
        config: PretrainedConfig = CONFIG_MAPPING[values.pop("model_type")](**values)
        return config

    def model_class(self, config: PretrainedConfig) -> type[PreTrainedModel]:
        """Return the stock class without an image encoder."""
        return LanguageModel

    def tensor_name(self, name: str) -> str | None:
        """Return the name of a tensor of the language model; others are not needed."""
        if IMAGE_ENCODER.match(name):
            return None
        if (encoder := TEXT_MODEL.match(name)) is not None:
            return f"{self.encoder_prefix}.{encoder[1]}"
        return super().tensor_name(name)

    def read_tokenizer(self, config: Any, tokenizer: Any) -> None:
        """Add the ids of what the stock processor writes around an image and between two."""
        config.around_image_ids, config.between_images_ids = (
            tokenizer(text, add_special_tokens=False).input_ids
            for text in (AROUND_IMAGE, 2 * AROUND_IMAGE)
        )

    def encoder_config(self, config: Any) -> Any:
        """Return the configuration of the encoder's blocks."""
        return config.encoder.text_config

    def input_scale(self, config: Any) -> float:
        """Return 1, since the embedding itself scales."""
        return 1.0

    def tokens_per_image(self, config: Any) -> int:
        """Return the number of tokens that the image encoder pools an image to."""
        return int(config.encoder.mm_tokens_per_image)

    def projection_tensor_name(self, name: str) -> str | None:
        """Return the name of a tensor of the norm and the projection after the image encoder."""
        found = PROJECTION.match(name)
        return None if found is None else found[1]

    def join_images(self, model: Any, images_BIND: Tensor, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and text as the stock processor lays them out.

        The images come first, after the token that begins a text, if there is one. Around each are
        tokens for its beginning and its end, and empty lines.
        """
        config = model.config
        images, tokens = images_BIND.shape[1:3]
        surroundings = list(_layout(config, images, tokens))
        ids_1V = ids_BT.new_tensor([[0 if token is None else token for token in surroundings]])
        is_image_1V = ids_BT.new_tensor([[token is None for token in surroundings]]).bool()

        def insert(inserted_1V: Tensor, text_BT: Tensor) -> Tensor:
            inserted_BV = inserted_1V.expand(len(text_BT), -1)
            return torch.where(
                ids_BT[:, :1] == config.decoder.bos_token_id,
                torch.cat((text_BT[:, :1], inserted_BV, text_BT[:, 1:]), 1),
                torch.cat((inserted_BV, text_BT), 1),
            )

        is_image_BS = insert(is_image_1V, torch.zeros_like(ids_BT, dtype=torch.bool))
        mask_BS = insert(torch.ones_like(is_image_1V), ids_BT != self.pad_token_id(config))
        embedding_BSD = self.embed(model, insert(ids_1V, ids_BT))
        images_BVD = images_BIND.flatten(1, 2).to(embedding_BSD.dtype)
        return embedding_BSD.masked_scatter(is_image_BS[:, :, None], images_BVD), mask_BS

    def replace_memory(
        self, arguments: MutableMapping[str, Any], states_BSD: Tensor, mask_BS: Tensor
    ) -> None:
        """Keep the mask, which is one with that of the answer, since the tokens are the same."""
        arguments["encoder_hidden_states"] = states_BSD


def _layout(config: Any, images: int, tokens: int) -> Iterator[int | None]:
    """Yield the ids of the tokens around images, and `None` for each token of an image.

    Ids beyond a vocabulary that is smaller than the published one are left out.
    """
    around = getattr(config, "around_image_ids", AROUND_IDS)
    between = getattr(config, "between_images_ids", BETWEEN_IDS)
    layout: list[int | None] = [*around]
    for image in range(images):
        layout += between if image else ()
        layout.append(config.encoder.boi_token_index)
        layout += [None] * tokens
        layout.append(config.encoder.eoi_token_index)
    layout += around
    for token in layout:
        if token is None or token < config.decoder.vocab_size:
            yield token


FAMILY = T5Gemma2()
