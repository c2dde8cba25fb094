"""The networks that turn an image into tokens for the language model of a vision-language model.

Each network is made of the stock modules of transformers, under the names that they have in a
checkpoint, but without the language model, which is far larger.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

# B images, T patch tokens, Q image tokens, C channels, H rows and W columns, S image size

__all__ = ["IMAGE_TOKENS", "ImageTokens"]


class ImageTokens(PreTrainedModel, ABC):
    """A network from pixels to the tokens that a language model reads, as a map."""

    # Names of the network's parts in a checkpoint; the last one is the projection.
    parts: ClassVar[tuple[str, ...]]
    main_input_name = "pixel_values"

    @classmethod
    @abstractmethod
    def is_encoder_decoder(cls, config: Any) -> bool:
        """Return whether the language model of a configuration is an encoder-decoder."""

    @classmethod
    @abstractmethod
    def vision_config(cls, config: Any) -> Any:
        """Return the configuration of the vision model."""

    @classmethod
    @abstractmethod
    def tokens_per_image(cls, config: Any) -> int:
        """Return the number of tokens of an image."""

    @classmethod
    @abstractmethod
    def relevant_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the fields of a `config.json` that determine the network."""

    @property
    def projection(self) -> nn.Module:
        """The projection into the embeddings of the language model."""
        projection: nn.Module = getattr(self, self.parts[-1])
        return projection


class QueryTokens(ImageTokens):
    """The vision model, the Q-Former and the projection of BLIP-2.

    The query tokens of the Q-Former have no place in the image: the map is one row.
    """

    parts = ("vision_model", "query_tokens", "qformer", "language_projection")

    def __init__(self, config: Any) -> None:
        # Imported here because most users extract the features of other encoders.
        from transformers import Blip2QFormerModel, Blip2VisionModel

        super().__init__(config)
        width = config.qformer_config.hidden_size
        self.vision_model = Blip2VisionModel(config.vision_config)
        # Random, because zeros would make all tokens equal in a model without a checkpoint.
        self.query_tokens = nn.Parameter(torch.randn(1, config.num_query_tokens, width))
        self.qformer = Blip2QFormerModel(config.qformer_config)
        self.language_projection = nn.Linear(width, config.text_config.hidden_size)
        cast(Any, self).post_init()

    @classmethod
    def is_encoder_decoder(cls, config: Any) -> bool:
        return bool(config.text_config.is_encoder_decoder)

    @classmethod
    def vision_config(cls, config: Any) -> Any:
        return config.vision_config

    @classmethod
    def tokens_per_image(cls, config: Any) -> int:
        return int(config.num_query_tokens)

    @classmethod
    def relevant_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        names = ("vision_config", "qformer_config", "num_query_tokens")
        return {name: fields.get(name) for name in names}

    def forward(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool = False
    ) -> BaseModelOutput:
        """Return the tokens as `last_hidden_state`, `[B, C, 1, Q]`."""
        states_BTC = self.vision_model(
            pixel_values=pixel_values, interpolate_pos_encoding=interpolate_pos_encoding
        ).last_hidden_state
        queries_BQC = self.query_tokens.expand(len(states_BTC), -1, -1)
        queries_BQC = self.qformer(
            query_embeds=queries_BQC, encoder_hidden_states=states_BTC
        ).last_hidden_state
        tokens_BQC = self.language_projection(queries_BQC)
        return BaseModelOutput(last_hidden_state=tokens_BQC.mT[:, :, None])


class PooledPatches(ImageTokens):
    """The vision model and the projection of T5Gemma 2, which pools the grid of patches."""

    parts = ("vision_tower", "multi_modal_projector")

    def __init__(self, config: Any) -> None:
        # Imported here because most users extract the features of other encoders.
        from transformers.models.t5gemma2.modeling_t5gemma2 import T5Gemma2MultiModalProjector

        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.encoder.vision_config)
        self.multi_modal_projector = T5Gemma2MultiModalProjector(config.encoder)
        # Random, because zeros would make all tokens zero in a model without a checkpoint.
        nn.init.normal_(self.multi_modal_projector.mm_input_projection_weight, std=0.02)
        cast(Any, self).post_init()

    @classmethod
    def is_encoder_decoder(cls, config: Any) -> bool:
        return True

    @classmethod
    def vision_config(cls, config: Any) -> Any:
        return config.encoder.vision_config

    @classmethod
    def tokens_per_image(cls, config: Any) -> int:
        return int(config.encoder.mm_tokens_per_image)

    @classmethod
    def relevant_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        encoder = fields.get("encoder") or {}
        return {name: encoder.get(name) for name in ("vision_config", "mm_tokens_per_image")}

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        """Return the tokens as `last_hidden_state`, `[B, C, H, W]`."""
        encoder, side = self.config.encoder, pixel_values.shape[-1]
        if side != encoder.vision_config.image_size:
            raise ValueError(
                f"its projection takes images of {encoder.vision_config.image_size} pixels only"
            )
        states_BTC = self.vision_tower(pixel_values=pixel_values).last_hidden_state
        tokens_BQC = self.multi_modal_projector(states_BTC)
        if tokens_BQC.shape[1] != encoder.mm_tokens_per_image:
            raise ValueError(
                f"its projection makes {tokens_BQC.shape[1]} tokens of an image, but "
                f"mm_tokens_per_image is {encoder.mm_tokens_per_image}"
            )
        rows = math.isqrt(tokens_BQC.shape[1])
        return BaseModelOutput(last_hidden_state=tokens_BQC.mT.unflatten(2, (rows, rows)))


# Networks by the `model_type` of the vision-language model.
IMAGE_TOKENS: Mapping[str, type[ImageTokens]] = {"blip-2": QueryTokens, "t5gemma2": PooledPatches}
