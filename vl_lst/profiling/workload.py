"""The batch on which methods are measured."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from vl_lst.errors import ModelError
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig, VisualConfig

__all__ = ["Workload"]

# 16 GiB in float32.
MAX_VALUES = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Shapes of a batch without padding and without equal prompts or answers.

    The reference implementation was measured at the default shapes.

    Args:
        batch_size: Number of examples.
        text_tokens: Tokens per prompt.
        answer_tokens: Tokens per answer.
        images: Images per example; 0 for text alone.
        image_tokens: Feature vectors per image, before pooling.
        channels: Width of a feature vector.
        pooled_grid: Side of the grid to max-pool the feature vectors to; `None` does not pool.
        has_visual_embedding: Whether a visual embedding reads the features; otherwise, they are
            tokens that the backbone reads, or there are none.
        answers: Length of the answer list from which a backbone without a decoder picks; the
            default is that of VQA v2.
    """

    batch_size: int = 16
    text_tokens: int = 15
    answer_tokens: int = 4
    images: int = 1
    image_tokens: int = 49
    channels: int = 2048
    pooled_grid: int | None = 6
    has_visual_embedding: bool = True
    answers: int = 3_129

    def visual(self) -> VisualConfig | None:
        """Return the settings of a visual embedding for these features; `None` if there is none.

        Raises:
            ModelError: The features do not fit the grid.
        """
        if not self.has_visual_embedding or not self.images:
            return None
        return VisualConfig(
            channels=self.channels,
            tokens=self.image_tokens,
            pooled_grid=self.pooled_grid,
            max_images=max(2, self.images),
        )

    def head(self, *, has_decoder: bool) -> HeadConfig:
        """Return the head to measure, which generates if the backbone has a decoder."""
        if has_decoder:
            return HeadConfig(kind="generate")
        return HeadConfig(kind="classify", answers=self.answers)

    def batch(self, vocabulary: int, *, has_decoder: bool = True) -> Batch:
        """Return a random batch on the CPU.

        Args:
            vocabulary: Vocabulary size. No token is padding or end-of-sequence.
            has_decoder: See `head`.

        Raises:
            ModelError: The features have more than `MAX_VALUES` values.
        """
        values = self.batch_size * self.images * self.image_tokens * self.channels
        if values > MAX_VALUES:
            raise ModelError(
                f"the features of a batch have {values:,} values; expected at most {MAX_VALUES:,}. "
                "Lower --batch-size, --images, --image-tokens or --channels."
            )
        rows, token_ids = torch.arange(self.batch_size), (2, vocabulary)
        image_fields: dict[str, Any] = {}
        if self.images:
            shape = (self.batch_size, self.images, self.image_tokens, self.channels)
            image_fields["features_BINF"] = torch.randn(shape)
            if not self.has_visual_embedding:
                image_fields["prompt_rows_U"] = rows
        prompts = Batch(
            prompt_ids_UT=torch.randint(*token_ids, (self.batch_size, self.text_tokens)),
            prompt_index_B=rows,
            **image_fields,
        )
        if not has_decoder:
            return replace(prompts, scores_BA=torch.rand(self.batch_size, self.answers))
        return replace(
            prompts,
            labels_BL=torch.randint(*token_ids, (self.batch_size, self.answer_tokens)),
            pair_rows_P=rows,
            pair_index_B=rows,
            weights_B=torch.ones(self.batch_size),
        )
