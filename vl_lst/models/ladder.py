"""A frozen backbone, a visual embedding, a ladder side network and a head: one model.

B examples, U unique prompts, P unique (prompt, answer) pairs, T text tokens, S text and image
tokens, L answer tokens, D backbone width, R side width, V vocabulary, A answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vl_lst.models.backbone import BackboneCache, EncoderTaps, FrozenBackbone
from vl_lst.models.batch import DEFAULT_TASK, Batch
from vl_lst.models.config import HeadConfig, LadderConfig, VisualConfig
from vl_lst.models.heads import AnswerClassifier
from vl_lst.models.losses import answer_loss, average_token_losses, vocabulary_losses
from vl_lst.models.side_network import LadderSideNetwork, SideCache
from vl_lst.models.visual import VisualEmbedding

__all__ = ["DecodingState", "EncodedExamples", "LadderModel"]


@dataclass(frozen=True, slots=True)
class EncodedExamples:
    """Both encoders' view of a batch.

    Args:
        side_BSR: The side encoder's states.
        side_mask_BS: Which of them are not padding.
        taps: The backbone encoder's, of the unique prompts.
        prompt_index_B: Which prompt each example has.
    """

    side_BSR: Tensor
    side_mask_BS: Tensor
    taps: EncoderTaps
    prompt_index_B: Tensor

    def backbone_memory(self, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the backbone's decoder attends to, and its mask, for these examples (or all)."""
        index = self.prompt_index_B if rows is None else self.prompt_index_B.index_select(0, rows)
        return self.taps.final_UTD.index_select(0, index), self.taps.mask_UT.index_select(0, index)


class DecodingState:
    """Everything that grows, or shrinks to fewer rows, while answers are generated.

    Args:
        model: The model that generates.
        encoded: What it generates from, a row for each answer to come.
        capacity: Most tokens an answer can have, the start token included.
    """

    def __init__(self, model: "LadderModel", encoded: EncodedExamples, capacity: int) -> None:
        self._model = model
        self._side_BSR = encoded.side_BSR
        self._side_mask_BS = encoded.side_mask_BS
        self._memory_BTD, self._memory_mask_BT = encoded.backbone_memory()
        self._backbone_cache = BackboneCache()
        self._side_cache: SideCache = model.side.decoder.new_cache(encoded.side_BSR, capacity)

    def next_logits(self, tokens_B: Tensor) -> Tensor:
        """Logits [B, V] of the token after `tokens_B`, which are read and remembered."""
        model = self._model
        taps = model.backbone.decode(
            tokens_B[:, None],
            model.side.decoder.layers,
            encoder_states_PTD=self._memory_BTD,
            encoder_mask_PT=self._memory_mask_BT,
            cache=self._backbone_cache,
        )
        states_B1R = model.side.decoder(
            taps, None, self._side_BSR, self._side_mask_BS, self._side_cache
        )
        return model.logits(states_B1R)[:, 0]

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be taken several times."""
        self._side_BSR = self._side_BSR.index_select(0, rows)
        self._side_mask_BS = self._side_mask_BS.index_select(0, rows)
        self._memory_BTD = self._memory_BTD.index_select(0, rows)
        self._memory_mask_BT = self._memory_mask_BT.index_select(0, rows)
        self._backbone_cache.select(rows)
        self._side_cache.select(rows)

    def reorder(self, rows: Tensor) -> None:
        """Like `select`, where each row stays within its example, as beams do."""
        self._backbone_cache.reorder(rows)
        self._side_cache.reorder(rows)


class LadderModel(nn.Module):
    """Ladder Side-Tuning of a frozen encoder-decoder for vision and language.

    Args:
        backbone: Runs without autograd; reads text only.
        visual: How image features become tokens of the side network.
        ladder: The side network.
        head: Classification over an answer list, or generation; or one head for each task, by
            name, of which `Batch.task` says whose turn it is. Tasks that generate share the
            backbone's output layer.
    """

    def __init__(
        self,
        backbone: FrozenBackbone,
        *,
        visual: VisualConfig,
        ladder: LadderConfig,
        head: HeadConfig | Mapping[str, HeadConfig],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.visual = VisualEmbedding(
            visual, width=backbone.width, epsilon=float(backbone.config.layer_norm_epsilon)
        )
        self.side = LadderSideNetwork(backbone, ladder)
        heads = {DEFAULT_TASK: head} if isinstance(head, HeadConfig) else head
        self.classifiers = nn.ModuleDict(
            {
                task: AnswerClassifier(self.side.shape.width, config.answers)
                for task, config in heads.items()
                if config.kind == "classify"
            }
        )
        self.generates = len(self.classifiers) < len(heads)

    @property
    def device(self) -> torch.device:
        """Where the side network lives."""
        return self.side.upsample.weight.device

    def trainable(self) -> dict[str, nn.Parameter]:
        """What trains, by name: everything but the backbone, and only what the heads use."""
        unused = () if self.generates else tuple(self.side.upsample.parameters())
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if not name.startswith("backbone.") and all(parameter is not other for other in unused)
        }

    def encode(self, batch: Batch) -> EncodedExamples:
        """Run both encoders."""
        taps = self.backbone.encode(batch.prompt_ids_UT, self.side.encoder.layers)
        image_tokens_BVD = self.visual(batch.features_BINF, batch.boxes_BIM4)
        side_BSR, mask_BS = self.side.encoder(taps, batch.prompt_index_B, image_tokens_BVD)
        return EncodedExamples(side_BSR, mask_BS, taps, batch.prompt_index_B)

    def decode(
        self,
        encoded: EncodedExamples,
        decoder_ids_BL: Tensor,
        pair_rows_P: Tensor | None,
        pair_index_B: Tensor | None,
    ) -> Tensor:
        """States [B, L, R] of the side decoder for known answers.

        Args:
            encoded: From `encode`.
            decoder_ids_BL: Start token, then the answer without its last token.
            pair_rows_P: An example for each distinct (prompt, answer) pair; `None`: all differ.
            pair_index_B: Which pair each example has.
        """
        ids_PL = decoder_ids_BL if pair_rows_P is None else decoder_ids_BL[pair_rows_P]
        memory_PTD, memory_mask_PT = encoded.backbone_memory(pair_rows_P)
        taps = self.backbone.decode(
            ids_PL,
            self.side.decoder.layers,
            encoder_states_PTD=memory_PTD,
            encoder_mask_PT=memory_mask_PT,
        )
        states_BLR: Tensor = self.side.decoder(
            taps, pair_index_B, encoded.side_BSR, encoded.side_mask_BS
        )
        return states_BLR

    def vocabulary_states(self, states_BLR: Tensor) -> Tensor:
        """Side states at the backbone's width, scaled as its output layer expects: [B, L, D]."""
        widened: Tensor = self.side.upsample(states_BLR)
        return widened * self.backbone.vocabulary_scale

    def logits(self, states_BLR: Tensor) -> Tensor:
        """Logits [B, L, V] over the vocabulary; training does not need them whole."""
        states_BLD = self.vocabulary_states(states_BLR)
        weight_VD = self.backbone.vocabulary_weight.to(states_BLD.dtype)
        return nn.functional.linear(states_BLD, weight_VD)

    def start_states(self, encoded: EncodedExamples) -> Tensor:
        """Side decoder states [B, R] at the start token, on which the classifier stands.

        They depend on the prompt and the image, so the backbone's part runs once a prompt.
        """
        prompts = encoded.taps.final_UTD.shape[0]
        device = encoded.prompt_index_B.device
        start = self.backbone.start_token_id
        taps = self.backbone.decode(
            torch.full((prompts, 1), start, device=device),
            self.side.decoder.layers,
            encoder_states_PTD=encoded.taps.final_UTD,
            encoder_mask_PT=encoded.taps.mask_UT,
        )
        states_B1R: Tensor = self.side.decoder(
            taps, encoded.prompt_index_B, encoded.side_BSR, encoded.side_mask_BS
        )
        return states_B1R[:, 0]

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
            raise ValueError("the batch has no labels to take a loss against")
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
        )
        return losses_N.view_as(batch.labels_BL)

    def forward(self, batch: Batch, loss_average: str = "examples") -> Tensor:
        """Training loss of a batch.

        Args:
            batch: With `scores_BA` to classify, with `labels_BL` and `weights_B` to generate.
            loss_average: See `losses.average_token_losses`.
        """
        if self.training and self.backbone.noisy:
            # Each example has noise of its own, though another has the same text.
            batch = batch.unshared()
        if batch.task in self.classifiers:
            if batch.scores_BA is None:
                raise ValueError("the batch has no soft scores to classify against")
            return answer_loss(self.classify(batch), batch.scores_BA)
        if batch.labels_BL is None or batch.weights_B is None:
            raise ValueError("the batch has no labels and weights to generate against")
        return average_token_losses(
            self.token_losses(batch), batch.labels_BL, batch.weights_B, over=loss_average
        )
