"""What every model of this package is, whatever its transfer method: text and images to answers.

B examples, P unique (prompt, answer) pairs, L answer tokens, R width of a decoder state, D backbone
width, V vocabulary, A answers.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from vl_lst.backbones.backbone import Backbone
from vl_lst.errors import ModelError
from vl_lst.models.batch import DEFAULT_TASK, Batch
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.heads import AnswerClassifier
from vl_lst.models.losses import answer_loss, average_token_losses, vocabulary_losses
from vl_lst.models.visual import VisualEmbedding

__all__ = ["DecodingState", "VisionLanguageModel"]

Encoded = TypeVar("Encoded")


class DecodingState(ABC):
    """Everything that grows, or shrinks to fewer rows, while answers are generated."""

    @abstractmethod
    def next_logits(self, tokens_B: Tensor) -> Tensor:
        """Logits [B, V] of the token after `tokens_B`, which are read and remembered."""

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be taken several times."""

    @abstractmethod
    def reorder(self, rows: Tensor) -> None:
        """Like `select`, where each row stays within its example, as beams do."""


class VisionLanguageModel(nn.Module, ABC, Generic[Encoded]):
    """A backbone, a visual embedding and heads; a subclass says how the image meets the text.

    Args:
        backbone: The pretrained encoder-decoder.
        visual: How image features become tokens.

    Raises:
        ModelError: The backbone is none of the kind this model is built on.
    """

    backbone_kind: ClassVar[type[Backbone]] = Backbone

    def __init__(self, backbone: Backbone, *, visual: VisualConfig) -> None:
        super().__init__()
        kind = self.backbone_kind
        if not isinstance(backbone, kind):
            hint = (
                "a LoadedBackbone has one as .backbone"
                if hasattr(backbone, "backbone")
                else (f"wrap a Hugging Face T5 in it: {kind.__name__}(model)")
            )
            raise ModelError(
                f"the backbone of a {type(self).__name__} is a {type(backbone).__name__}: expected "
                f"a {kind.__name__}; {hint}"
            )
        self.backbone = backbone
        self.visual = VisualEmbedding(
            visual, width=backbone.width, epsilon=float(backbone.config.layer_norm_epsilon)
        )
        self.classifiers = nn.ModuleDict()
        self.generates = False

    def add_heads(self, head: HeadConfig | Mapping[str, HeadConfig], *, width: int) -> None:
        """Put heads on the decoder's states.

        Args:
            head: Classification over an answer list, or generation; or one head for each task, by
                name, of which `Batch.task` says whose turn it is. Tasks that generate share the
                backbone's output layer.
            width: R.
        """
        heads = {DEFAULT_TASK: head} if isinstance(head, HeadConfig) else head
        for task, config in heads.items():
            if config.kind == "classify":
                self.classifiers[task] = AnswerClassifier(width, config.answers)
        self.generates = len(self.classifiers) < len(heads)

    @property
    def device(self) -> torch.device:
        """Where the part that always trains lives."""
        return self.visual.feature_projection.weight.device

    @abstractmethod
    def encode(self, batch: Batch) -> Encoded:
        """Read prompts and images."""

    @abstractmethod
    def decode(
        self,
        encoded: Encoded,
        decoder_ids_BL: Tensor,
        pair_rows_P: Tensor | None,
        pair_index_B: Tensor | None,
    ) -> Tensor:
        """Decoder states [B, L, R] for known answers.

        Args:
            encoded: From `encode`.
            decoder_ids_BL: Start token, then the answer without its last token.
            pair_rows_P: An example for each distinct (prompt, answer) pair; `None`: all differ.
            pair_index_B: Which pair each example has.
        """

    @abstractmethod
    def start_states(self, encoded: Encoded) -> Tensor:
        """Decoder states [B, R] at the start token, on which the classifier stands."""

    @abstractmethod
    def start_decoding(self, encoded: Encoded, capacity: int) -> DecodingState:
        """Begin to generate.

        Args:
            encoded: What to generate from, a row for each answer to come.
            capacity: Most tokens an answer can have, the start token included.
        """

    @abstractmethod
    def vocabulary_states(self, states_BLR: Tensor) -> Tensor:
        """States at the backbone's width, scaled as its output layer expects: [B, L, D]."""

    def logits(self, states_BLR: Tensor) -> Tensor:
        """Logits [B, L, V] over the vocabulary; training does not need them whole."""
        states_BLD = self.vocabulary_states(states_BLR)
        weight_VD, bias_V = self.backbone.vocabulary_weight, self.backbone.vocabulary_bias
        dtype = states_BLD.dtype
        return nn.functional.linear(
            states_BLD, weight_VD.to(dtype), None if bias_V is None else bias_V.to(dtype)
        )

    def classify(self, batch: Batch) -> Tensor:
        """Logits [B, A] over the answer list of the batch's task."""
        if batch.task not in self.classifiers:
            raise RuntimeError(f"{batch.task} generates: it has no answer list to classify over")
        classifier = self.classifiers[batch.task]
        logits_BA: Tensor = classifier(self.start_states(self.encode(batch)))
        return logits_BA

    def token_losses(self, batch: Batch) -> Tensor:
        """Cross-entropy [B, L] of each answer token; zero where the label is `IGNORED`."""
        if batch.labels_BL is None:
            raise ModelError("the batch has no labels (labels_BL) to take a loss against")
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
        )
        return losses_N.view_as(batch.labels_BL)

    def forward(self, batch: Batch, loss_average: str = "examples") -> Tensor:
        """Training loss of a batch.

        Args:
            batch: With `scores_BA` to classify, with `labels_BL` and `weights_B` to generate.
            loss_average: See `losses.average_token_losses`.
        """
        if not isinstance(batch, Batch):
            raise ModelError(f"the model was given a {type(batch).__name__}: expected a Batch")
        # What only training reads may be of other examples while generating.
        batch.require_rows("labels_BL", "pair_index_B", "weights_B", "scores_BA")
        if batch.task in self.classifiers:
            if batch.scores_BA is None:
                raise ModelError("the batch has no soft scores (scores_BA) to classify against")
            return answer_loss(self.classify(batch), batch.scores_BA)
        if batch.labels_BL is None:
            raise ModelError("the batch has no labels (labels_BL) to generate against")
        if batch.weights_B is None:
            raise ModelError(
                "the batch has labels but no weights (weights_B): expected the weight of each "
                "example's loss, such as torch.ones(len(batch))"
            )
        return average_token_losses(
            self.token_losses(batch), batch.labels_BL, batch.weights_B, over=loss_average
        )
