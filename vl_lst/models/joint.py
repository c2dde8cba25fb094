"""Model whose backbone reads text and image together, for all methods that change the backbone.

B examples, U unique prompts, T text tokens, V image tokens, P prefix tokens, S = P + T + V,
L answer tokens, H attention heads, D backbone width; R, the width of decoder states, is D.
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

__all__ = ["JointBackbone", "JointDecoding", "JointEncoding", "JointModel"]


class JointBackbone(Backbone):
    """Backbone with gradients, whose encoder reads text and image tokens.

    Args:
        model: See `Backbone`.
        dropout: Dropout probability while training.
    """

    def __init__(self, model: T5ForConditionalGeneration, *, dropout: float) -> None:
        super().__init__(model)
        self.set_dropout(dropout)

    def embed(self, ids_BT: Tensor) -> Tensor:
        """Return the token embeddings [B, T, D]."""
        embedded_BTD: Tensor = self.model.get_input_embeddings()(ids_BT)
        return embedded_BTD

    def encode(self, embedding_BSD: Tensor, mask_BS: Tensor, *, text: int) -> Tensor:
        """Return the encoder states [B, S, D] after the final norm.

        Args:
            embedding_BSD: Embeddings, text first.
            mask_BS: False for padding.
            text: Number of text tokens; only these have relative positions.
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
        """Return the decoder states [B, L, D] after the final norm.

        Args:
            ids_BL: Decoder input ids; with a cache, only the new ones.
            encoder_states_BSD: Output of `encode`.
            encoder_mask_BS: False for padding.
            cache: Keys and values of earlier tokens; extended by those of `ids_BL`.
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
    """Limit the relative position bias to pairs among the first `text` tokens.

    T5 looks up the bias of all pairs once, in its first layer. A hook on that table sets pairs with
    an image token to zero, as the reference does.
    """

    def zero_others(_table: nn.Module, _inputs: Any, bias_SSH: Tensor) -> Tensor:
        others = bias_SSH.shape[0] - text
        return nn.functional.pad(bias_SSH[:text, :text], (0, 0, 0, others, 0, others))

    table = encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    handle = table.register_forward_hook(zero_others)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True, slots=True)
class JointEncoding:
    """Encoder states of examples: prompts with their images.

    Args:
        states_BSD: States, text first.
        mask_BS: False for padding.
    """

    states_BSD: Tensor
    mask_BS: Tensor


class JointDecoding(DecodingState):
    """Decoder cache, and the encoder states to which the decoder attends.

    Args:
        model: Model that generates.
        encoded: Encoder states, one row per answer.
    """

    def __init__(self, model: "JointModel", encoded: JointEncoding) -> None:
        self._model = model
        self._encoded = encoded
        self._cache = BackboneCache()

    def next_logits(self, tokens_B: Tensor) -> Tensor:
        states_B1D = self._model.backbone.decode(
            tokens_B[:, None], self._encoded.states_BSD, self._encoded.mask_BS, self._cache
        )
        return self._model.logits(states_B1D)[:, 0]

    def select(self, rows: Tensor) -> None:
        self._encoded = JointEncoding(
            self._encoded.states_BSD.index_select(0, rows),
            self._encoded.mask_BS.index_select(0, rows),
        )
        self._cache.select(rows)

    def reorder(self, rows: Tensor) -> None:
        self._cache.reorder(rows)


class JointModel(VisionLanguageModel[JointEncoding]):
    """Model whose backbone's encoder reads image tokens after the text (VL-T5).

    The encoder states of a prompt depend on the image, so equal prompts share no computation.

    Args:
        backbone: Backbone for text and image.
        visual: Settings of the visual embedding.
        head: See `VisionLanguageModel.add_heads`.
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
        """Module without inputs whose output [P, D] is prepended to every prompt."""
        self.add_heads(head, width=backbone.width)

    def encode(self, batch: Batch) -> JointEncoding:
        """Run the encoder on prefix, text and image."""
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
        return JointEncoding(states_BSD, mask_BS)

    def decode(
        self,
        encoded: JointEncoding,
        decoder_ids_BL: Tensor,
        pair_rows_P: Tensor | None = None,
        pair_index_B: Tensor | None = None,
    ) -> Tensor:
        """Return the decoder states [B, L, D] for given answers; the pair arguments are unused."""
        return self.backbone.decode(decoder_ids_BL, encoded.states_BSD, encoded.mask_BS)

    def start_states(self, encoded: JointEncoding) -> Tensor:
        """Return the decoder states [B, D] at the start token."""
        rows, start = len(encoded.mask_BS), self.backbone.start_token_id
        return self.decode(encoded, torch.full((rows, 1), start, device=self.device))[:, 0]

    def start_decoding(self, encoded: JointEncoding, capacity: int) -> JointDecoding:
        """Return a state with an empty cache, which grows without limit."""
        return JointDecoding(self, encoded)

    def vocabulary_states(self, states_BLR: Tensor) -> Tensor:
        """Return the decoder states [B, L, D], scaled for the output layer."""
        return states_BLR * self.backbone.vocabulary_scale
