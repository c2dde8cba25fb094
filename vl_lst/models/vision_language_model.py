"""Base class of all models: text and images in, answers out.

B examples, P unique (prompt, answer) pairs, L answer tokens, R width of a decoder state, D backbone
width, V vocabulary, N = B * L, A answers.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from vl_lst.backbones.backbone import Backbone
from vl_lst.errors import ModelError
from vl_lst.models.batch import DEFAULT_TASK, Batch
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.heads import AnswerClassifier, AnswerRegressor
from vl_lst.models.losses import (
    answer_loss,
    average_token_losses,
    bound_logits,
    value_loss,
    vocabulary_losses,
)
from vl_lst.models.visual import VisualEmbedding

__all__ = ["CachedDecoding", "DecodingState", "VisionLanguageModel"]

Encoded = TypeVar("Encoded")
Model = TypeVar("Model", bound="VisionLanguageModel[Any]")
Rows = TypeVar("Rows", bound="_Rows")


class _Rows(Protocol):
    """Encoder states with one row per example."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the states of other rows, which `change` makes of each part."""


class DecodingState(ABC):
    """State of a model while it generates answers."""

    @abstractmethod
    def next_logits(self, tokens_B: Tensor) -> Tensor:
        """Read the next tokens and return the logits [B, V] of the tokens after them."""

    @abstractmethod
    def branch(self, beams: int) -> None:
        """Repeat every row, for the beams of an example; called once, before any `select`."""

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may occur several times.

        After `branch`, all beams of an example are kept, in any order.
        """

    @abstractmethod
    def reorder(self, rows: Tensor) -> None:
        """Do the same as `select` if every row stays within its example, as in beam search."""


class CachedDecoding(DecodingState, Generic[Model, Rows]):
    """Cache of the backbone's decoder, and the encoder states to which it attends.

    Args:
        model: Model that generates.
        encoded: Encoder states, one row per answer.
    """

    def __init__(self, model: Model, encoded: Rows) -> None:
        self._model = model
        self._encoded = encoded
        self._cache = model.backbone.new_cache()

    def branch(self, beams: int) -> None:
        repeats = self._cache.branch(beams)
        self._encoded = self._encoded.map(lambda part: part.repeat_interleave(repeats, 0))

    def select(self, rows: Tensor) -> None:
        kept = self._cache.select(rows)
        self._encoded = self._encoded.map(lambda part: part.index_select(0, kept))

    def reorder(self, rows: Tensor) -> None:
        self._cache.reorder(rows)


class VisionLanguageModel(nn.Module, ABC, Generic[Encoded]):
    """Backbone, visual embedding and heads; subclasses define how image and text are combined.

    Args:
        backbone: Pretrained encoder-decoder, or encoder.
        visual: Settings of the visual embedding; `None` if the backbone reads the images, or if
            there are none.

    Raises:
        ModelError: The backbone is not an instance of `backbone_kind`.
    """

    backbone_kind: ClassVar[type[Backbone]] = Backbone

    def __init__(self, backbone: Backbone, *, visual: VisualConfig | None) -> None:
        super().__init__()
        kind = self.backbone_kind
        if not isinstance(backbone, kind):
            hint = (
                "a LoadedBackbone has one as .backbone"
                if hasattr(backbone, "backbone")
                else (f"wrap a Hugging Face model in it: {kind.__name__}(model)")
            )
            raise ModelError(
                f"the backbone of a {type(self).__name__} is a {type(backbone).__name__}: expected "
                f"a {kind.__name__}; {hint}"
            )
        self.backbone = backbone
        self.visual = (
            None
            if visual is None
            else VisualEmbedding(visual, width=backbone.width, epsilon=backbone.epsilon)
        )
        self.classifiers = nn.ModuleDict()
        self.regressors = nn.ModuleDict()
        self.generates = False

    def add_heads(self, head: HeadConfig | Mapping[str, HeadConfig], *, width: int) -> None:
        """Add heads on the decoder's states, or without a decoder on the encoder's.

        Args:
            head: Settings of the head, or of one head per task name, selected by `Batch.task`.
                Tasks that generate share the backbone's output layer.
            width: R.

        Raises:
            ModelError: A head generates, and the backbone has no decoder.
        """
        heads = {DEFAULT_TASK: head} if isinstance(head, HeadConfig) else head
        for task, config in heads.items():
            if config.kind == "classify":
                self.classifiers[task] = AnswerClassifier(width, config.answers)
            elif config.value_range is not None:
                self.regressors[task] = AnswerRegressor(width, config.value_range)
            elif not self.backbone.has_decoder:
                raise ModelError(
                    f"the head of {task} generates text, and a backbone of type "
                    f"{self.backbone.model_type} has an encoder only: expected one that "
                    "classifies or regresses (head: classify or regress), or an encoder-decoder"
                )
        self.generates = len(self.classifiers) + len(self.regressors) < len(heads)

    def own_parameters(self) -> list[list[nn.Parameter]]:
        """Return the parameters of the visual embedding, if there is one, and of the heads.

        They train in every method.
        """
        parts = (self.visual, self.classifiers, self.regressors)
        return [list(part.parameters()) for part in parts if part is not None]

    def trained_blocks(self) -> list[nn.Module]:
        """Return the blocks that the gradients of a training step pass; by default, none."""
        return []

    def num_encoder_tokens(self, prompt: int, images: int, image_tokens: int) -> int:
        """Return the number of tokens that the backbone's encoder reads of an example.

        Args:
            prompt: Number of prompt tokens.
            images: Number of images.
            image_tokens: Number of stored feature vectors per image.
        """
        return prompt if self.visual is not None else images * image_tokens + prompt

    @property
    def backbone_reads_images(self) -> bool:
        """Whether the backbone reads the images, and there is no visual embedding."""
        return self.visual is None and self.backbone.reads_images

    def require_image_reader(self, batch: Batch) -> None:
        """Refuse images that neither a visual embedding nor the backbone reads.

        Raises:
            ModelError: The batch has images.
        """
        is_read = self.visual is not None or self.backbone.reads_images
        if batch.features_BINF is not None and not is_read:
            raise ModelError(
                f"the batch has images, which a backbone of type {self.backbone.model_type} does "
                "not read, and the visual embedding is None: expected the settings of a visual "
                "embedding, or a batch without images"
            )

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.parameters()).device

    @abstractmethod
    def encode(self, batch: Batch) -> Encoded:
        """Encode prompts and images."""

    @abstractmethod
    def decode(
        self,
        encoded: Encoded,
        decoder_ids_BL: Tensor,
        pair_rows_P: Tensor | None,
        pair_index_B: Tensor | None,
    ) -> Tensor:
        """Return the decoder states [B, L, R] for given answers.

        Args:
            encoded: Output of `encode`.
            decoder_ids_BL: Start token, then the answer without its last token.
            pair_rows_P: See `Batch`.
            pair_index_B: See `Batch`.
        """

    @abstractmethod
    def start_states(self, encoded: Encoded) -> Tensor:
        """Return the states [B, R] that the classifier reads.

        These are the decoder's at the start token, or without a decoder those at the first token of
        the text.
        """

    @abstractmethod
    def start_decoding(self, encoded: Encoded, capacity: int) -> DecodingState:
        """Return the initial state for generating answers.

        Args:
            encoded: Output of `encode`, one row per answer.
            capacity: Maximum number of tokens per answer, including the start token.
        """

    def vocabulary_states(self, states_BLR: Tensor) -> Tensor:
        """Return states at the backbone's width [B, L, D], scaled for its output layer.

        By default, R is that width.
        """
        return states_BLR * self.backbone.vocabulary_scale

    def logits(self, states_BLR: Tensor) -> Tensor:
        """Return the logits [B, L, V] over the vocabulary; training never stores all of them."""
        states_BLD = self.vocabulary_states(states_BLR)
        weight_VD, bias_V = self.backbone.vocabulary_weight, self.backbone.vocabulary_bias
        if not torch.is_autocast_enabled(states_BLD.device.type):  # it keeps cast weights
            weight_VD = weight_VD.to(states_BLD.dtype)
            bias_V = None if bias_V is None else bias_V.to(states_BLD.dtype)
        logits_BLV = nn.functional.linear(states_BLD, weight_VD, bias_V)
        return bound_logits(logits_BLV, self.backbone.vocabulary_softcap)

    def classify(self, batch: Batch) -> Tensor:
        """Return the logits [B, A] over the answer list of the batch's task."""
        if batch.task not in self.classifiers:
            raise RuntimeError(
                f"the head of {batch.task} does not classify: expected a classification head"
            )
        classifier = self.classifiers[batch.task]
        logits_BA: Tensor = classifier(self.start_states(self.encode(batch)))
        return logits_BA

    def regress(self, batch: Batch) -> Tensor:
        """Return the answers [B] of the batch's task, which are numbers."""
        if batch.task not in self.regressors:
            raise RuntimeError(f"the head of {batch.task} gives no numbers: expected a regressor")
        values_B: Tensor = self.regressors[batch.task](self.start_states(self.encode(batch)))
        return values_B

    def token_losses(self, batch: Batch) -> Tensor:
        """Return the cross-entropy [B, L] of each answer token; zero for the label `IGNORED`."""
        if batch.labels_BL is None:
            raise ModelError("the batch has no labels (labels_BL) for the loss")
        encoded = self.encode(batch)
        states_BLR = self.decode(
            encoded,
            self.backbone.shift_right(batch.labels_BL),
            batch.pair_rows_P,
            batch.pair_index_B,
        )
        losses_N = vocabulary_losses(
            self.vocabulary_states(states_BLR).flatten(0, 1),
            self.backbone.vocabulary_weight,
            batch.labels_BL.flatten(),
            bias_V=self.backbone.vocabulary_bias,
            softcap=self.backbone.vocabulary_softcap,
        )
        return losses_N.view_as(batch.labels_BL)

    def forward(self, batch: Batch, loss_average: str = "examples") -> Tensor:
        """Return the training loss of a batch.

        Args:
            batch: Batch with `scores_BA` for a classification head, with `values_B` for a
                regression head, or with `labels_BL` and `weights_B` for a generation head.
            loss_average: See `losses.average_token_losses`.

        Raises:
            ModelError: The batch lacks what the head needs.
        """
        if not isinstance(batch, Batch):
            raise ModelError(f"the model was given a {type(batch).__name__}: expected a Batch")
        # Not checked in `Batch`: generation ignores these fields, so they may have other rows.
        batch.require_rows("labels_BL", "pair_index_B", "weights_B", "scores_BA", "values_B")
        if batch.task in self.classifiers:
            if batch.scores_BA is None:
                raise ModelError(
                    "the batch has no soft scores (scores_BA) for the classification loss"
                )
            return answer_loss(self.classify(batch), batch.scores_BA)
        if batch.task in self.regressors:
            if batch.values_B is None:
                raise ModelError("the batch has no numbers (values_B) for the regression loss")
            regressor = self.regressors[batch.task]
            assert isinstance(regressor, AnswerRegressor)
            return value_loss(self.regress(batch), batch.values_B, unit=regressor.unit)
        if batch.labels_BL is None:
            raise ModelError("the batch has no labels (labels_BL) for the loss")
        if batch.weights_B is None:
            raise ModelError(
                "the batch has labels but no weights (weights_B): expected the weight of each "
                "example's loss, such as torch.ones(len(batch))"
            )
        return average_token_losses(
            self.token_losses(batch), batch.labels_BL, batch.weights_B, over=loss_average
        )
