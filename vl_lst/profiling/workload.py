"""The batch that every method is measured on."""

from dataclasses import dataclass

import torch

from vl_lst.errors import ModelError
from vl_lst.models.batch import Batch
from vl_lst.models.config import VisualConfig

__all__ = ["Workload"]

# 16 GiB in float32.
MAX_VALUES = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Shapes of a batch: nothing padded, no two examples alike, so that no work can be shared.

    The defaults are those at which the reference implementation was measured.

    Args:
        batch_size: Examples.
        text_tokens: Of each prompt.
        answer_tokens: Of each answer.
        images: Of each example.
        image_tokens: Feature vectors of each image, as stored.
        channels: Width of a feature vector.
        pooled_grid: Side of the grid they are max-pooled to; `None` keeps them.
    """

    batch_size: int = 16
    text_tokens: int = 15
    answer_tokens: int = 4
    images: int = 1
    image_tokens: int = 49
    channels: int = 2048
    pooled_grid: int | None = 6

    def visual(self) -> VisualConfig:
        """Settings of the visual embedding these features need.

        Raises:
            ModelError: The features do not fit the grid.
        """
        return VisualConfig(
            channels=self.channels,
            tokens=self.image_tokens,
            pooled_grid=self.pooled_grid,
            max_images=max(2, self.images),
        )

    def batch(self, vocabulary: int) -> Batch:
        """Random inputs on the CPU.

        Args:
            vocabulary: Token ids are below it, and none is padding or end-of-sequence.

        Raises:
            ModelError: The batch would have more values than any device holds.
        """
        values = self.batch_size * self.images * self.image_tokens * self.channels
        if values > MAX_VALUES:
            raise ModelError(
                f"the features of a batch have {values:,} values; expected at most {MAX_VALUES:,}. "
                "Lower --batch-size, --images, --image-tokens or --channels."
            )
        rows, words = torch.arange(self.batch_size), (2, vocabulary)
        return Batch(
            features_BINF=torch.randn(
                self.batch_size, self.images, self.image_tokens, self.channels
            ),
            prompt_ids_UT=torch.randint(*words, (self.batch_size, self.text_tokens)),
            prompt_index_B=rows,
            labels_BL=torch.randint(*words, (self.batch_size, self.answer_tokens)),
            pair_rows_P=rows,
            pair_index_B=rows,
            weights_B=torch.ones(self.batch_size),
        )
