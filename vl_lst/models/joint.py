"""A backbone that reads text and image together: what the ladder's rivals train.

B examples, T text tokens, V image tokens, P prefix tokens, S = P + T + V, L answer tokens,
D backbone width.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration

from vl_lst.backbones.backbone import Backbone, BackboneCache
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.vision_language_model import DecodingState, VisionLanguageModel

__all__ = ["EncodedPairs", "JointBackbone", "JointDecoding", "JointModel"]


class JointBackbone(Backbone):
    """A stock Hugging Face T5 through which gradients flow, whichever of its weights train.

    Args:
        model: See `Backbone`.
        dropout: Probability in training, everywhere T5 has dropout.
    """

    def __init__(self, model: T5ForConditionalGeneration, *, dropout: float) -> None:
        super().__init__(model)
        self.set_dropout(dropout)

    def embed(self, ids_BT: Tensor) -> Tensor:
        """Token embeddings [B, T, D]."""
        embedded_BTD: Tensor = self.model.get_input_embeddings()(ids_BT)
        return embedded_BTD

    def encode(self, embedding_BSD: Tensor, mask_BS: Tensor, *, text: int) -> Tensor:
        """Encoder states [B, S, D] after the final norm.

        Args:
            embedding_BSD: Text first, then whatever has no place in the order of the text.
            mask_BS: Which of them are not padding.
            text: How many of the S have a relative position.
        """
        encoder = self.model.get_encoder()
        with _positions_among_first(encoder, text):
            states_BSD: Tensor = encoder(
                inputs_embeds=embedding_BSD, attention_mask=mask_BS.long()
            ).last_hidden_state
        return states_BSD

    def decode(
        self,
        ids_BL: Tensor,
        encoder_states_BSD: Tensor,
        encoder_mask_BS: Tensor,
        cache: BackboneCache | None = None,
    ) -> Tensor:
        """Decoder states [B, L, D] after the final norm.

        Args:
            ids_BL: Decoder inputs (the newest ones only where a cache holds the rest).
            encoder_states_BSD: From `encode`.
            encoder_mask_BS: Which of them are not padding.
            cache: Grows by the tokens of `ids_BL`.
        """
        states_BLD: Tensor = self.model.get_decoder()(
            inputs_embeds=self.embed(ids_BL),
            encoder_hidden_states=encoder_states_BSD,
            encoder_attention_mask=encoder_mask_BS.long(),
            past_key_values=None if cache is None else cache.entries,
            use_cache=cache is not None,
        ).last_hidden_state
        return states_BLD


@contextmanager
def _positions_among_first(encoder: Any, text: int) -> Iterator[None]:
    """Give pairs of the first `text` tokens their relative position bias, all other pairs none.

    T5 looks the bias of every pair up in one table, in its first layer, for all layers. A hook on
    that table blanks the pairs with an image token, as the reference does.
    """

    def blank(_table: nn.Module, _inputs: Any, bias_SSH: Tensor) -> Tensor:
        others = bias_SSH.shape[0] - text
        return nn.functional.pad(bias_SSH[:text, :text], (0, 0, 0, others, 0, others))

    table = encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    handle = table.register_forward_hook(blank)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """The encoder's view of prompts with their images.

    Args:
        states_BSD: Text first, then the image.
        mask_BS: Which of them are not padding.
    """

    states_BSD: Tensor
    mask_BS: Tensor


class JointDecoding(DecodingState):
    """The decoder's cache, and what it attends to.

    Args:
        model: The model that generates.
        encoded: What it generates from, a row for each answer to come.
    """

    def __init__(self, model: "JointModel", encoded: EncodedPairs) -> None:
        self._model = model
        self._encoded = encoded
        self._cache = BackboneCache()

    def next_logits(self, tokens_B: Tensor) -> Tensor:
        states_B1D = self._model.backbone.decode(
            tokens_B[:, None], self._encoded.states_BSD, self._encoded.mask_BS, self._cache
        )
        return self._model.logits(states_B1D)[:, 0]

    def select(self, rows: Tensor) -> None:
        self._encoded = EncodedPairs(
            self._encoded.states_BSD.index_select(0, rows),
            self._encoded.mask_BS.index_select(0, rows),
        )
        self._cache.select(rows)

    def reorder(self, rows: Tensor) -> None:
        self._cache.reorder(rows)


class JointModel(VisionLanguageModel[EncodedPairs]):
    """Image tokens enter the backbone's own encoder behind the text (VL-T5).

    What the encoder says of a prompt depends on the image, so equal prompts share no work.

    Args:
        backbone: Reads text and image.
        visual: How image features become tokens.
        head: See `VisionLanguageModel`.
    """

    backbone: JointBackbone
    backbone_kind = JointBackbone

    def __init__(
        self,
        backbone: JointBackbone,
        *,
        visual: VisualConfig,
        head: HeadConfig | Mapping[str, HeadConfig],
    ) -> None:
        super().__init__(backbone, visual=visual)
        self.prefix: nn.Module | None = None
        """Called without arguments for tokens [P, D] that stand before every prompt."""
        self.add_heads(head, width=backbone.width)

    def encode(self, batch: Batch) -> EncodedPairs:
        """Run the encoder over prefix, text and image."""
        ids_UT, index_B = batch.prompt_ids_UT, batch.prompt_index_B
        text_BTD = self.backbone.embed(ids_UT).index_select(0, index_B)
        mask_BT = (ids_UT != self.backbone.pad_token_id).index_select(0, index_B)
        if self.prefix is not None:
            prefix_PD: Tensor = self.prefix().to(text_BTD.dtype)
            prefix_BPD = prefix_PD.expand(len(batch), -1, -1)
            text_BTD = torch.cat((prefix_BPD, text_BTD), 1)
            mask_BT = nn.functional.pad(mask_BT, (len(prefix_PD), 0), value=True)
        image_BVD = self.visual(batch.features_BINF).to(text_BTD.dtype)
        states_BSD = self.backbone.encode(
            torch.cat((text_BTD, image_BVD), 1),
            mask_BS := nn.functional.pad(mask_BT, (0, image_BVD.shape[1]), value=True),
            text=text_BTD.shape[1],
        )
        return EncodedPairs(states_BSD, mask_BS)

    def decode(
        self,
        encoded: EncodedPairs,
        decoder_ids_BL: Tensor,
        pair_rows_P: Tensor | None = None,
        pair_index_B: Tensor | None = None,
    ) -> Tensor:
        """Decoder states [B, L, D] for known answers; examples share nothing."""
        return self.backbone.decode(decoder_ids_BL, encoded.states_BSD, encoded.mask_BS)

    def start_states(self, encoded: EncodedPairs) -> Tensor:
        """Decoder states [B, D] at the start token."""
        rows, start = len(encoded.mask_BS), self.backbone.start_token_id
        return self.decode(encoded, torch.full((rows, 1), start, device=self.device))[:, 0]

    def start_decoding(self, encoded: EncodedPairs, capacity: int) -> JointDecoding:
        """An empty cache; it grows as it is filled."""
        return JointDecoding(self, encoded)

    def vocabulary_states(self, states_BLR: Tensor) -> Tensor:
        """Decoder states scaled as the output layer expects: [B, L, D]."""
        return states_BLR * self.backbone.vocabulary_scale
