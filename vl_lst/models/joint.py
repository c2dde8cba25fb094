"""Model whose backbone reads text and image together, for all methods that change the backbone.

B examples, U unique prompts, T text tokens, V image tokens, P prefix tokens, S = P + T + V,
L answer tokens, H attention heads, D backbone width; R, the width of decoder states, is D.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vl_lst.backbones.backbone import Backbone, BackboneCache
from vl_lst.backbones.family import Family
from vl_lst.backbones.gradient_checkpointing import recomputed
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.vision_language_model import CachedDecoding, VisionLanguageModel

__all__ = ["EncoderMask", "JointBackbone", "JointDecoding", "JointEncoding", "JointModel"]


class EncoderMask:
    """Mask of the tokens that an encoder reads, while it runs.

    A module within the encoder's blocks that needs the mask keeps this object.
    """

    def __init__(self) -> None:
        self._mask_BS: Tensor | None = None

    @property
    def current(self) -> Tensor:
        """Mask [B, S], False for padding."""
        assert self._mask_BS is not None, "the encoder is not running"
        return self._mask_BS

    @contextmanager
    def set(self, mask_BS: Tensor) -> Iterator[None]:
        """Set the mask in a context."""
        before, self._mask_BS = self._mask_BS, mask_BS
        try:
            yield
        finally:
            self._mask_BS = before


class JointBackbone(Backbone):
    """Backbone with gradients, whose encoder reads text and image tokens.

    Args:
        model: See `Backbone`.
        dropout: Dropout probability while training.
        recompute: Whether each block saves only its input for the backward pass and computes the
            rest again (gradient checkpointing).
        family: See `Backbone`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        dropout: float,
        recompute: bool = False,
        family: Family | None = None,
    ) -> None:
        super().__init__(model, family)
        self.recompute = recompute
        self.encoder_mask = EncoderMask()
        self.set_dropout(dropout)

    def encode(self, embedding_BSD: Tensor, mask_BS: Tensor, *, text: int | None) -> Tensor:
        """Return the encoder's output [B, S, D].

        Args:
            embedding_BSD: Embeddings of the tokens.
            mask_BS: False for padding.
            text: Number of text tokens, which come first and are the only ones with positions (see
                `Family.limit_positions`); `None` if all tokens have positions.
        """
        reading = partial(self._reading, mask_BS, text)
        # Also when blocks run again, because some compute positions and some need the mask.
        with reading(), self._saving_inputs(self._encoder_blocks(), reading):
            return self.run_encoder(embedding_BSD, mask_BS)

    def decode(
        self,
        ids_BL: Tensor,
        encoder_states_BSD: Tensor,
        encoder_mask_BS: Tensor,
        cache: BackboneCache | None = None,
    ) -> Tensor:
        """Return the decoder's output [B, L, D].

        Args:
            ids_BL: Decoder input ids; with a cache, only the new ones.
            encoder_states_BSD: Output of `encode`.
            encoder_mask_BS: False for padding.
            cache: Keys and values of earlier tokens; extended by those of `ids_BL`.
        """
        with self._saving_inputs(self._decoder_blocks()):
            return self.run_decoder(
                self.embed_answer(ids_BL), encoder_states_BSD, encoder_mask_BS, cache
            )

    @contextmanager
    def _reading(self, mask_BS: Tensor, text: int | None) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self.encoder_mask.set(mask_BS))
            if text is not None:
                stack.enter_context(self.family.limit_positions(self.model, text))
            yield

    def _saving_inputs(
        self,
        blocks: Sequence[nn.Module],
        context: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> AbstractContextManager[None]:
        return recomputed(blocks, context) if self.recompute else nullcontext()


@dataclass(frozen=True, slots=True)
class JointEncoding:
    """Encoder states of examples: prompts with their images.

    Args:
        states_BSD: States: prefix, then text and image tokens in the backbone's order.
        mask_BS: False for padding.
        prefix: Number of prefix tokens.
    """

    states_BSD: Tensor
    mask_BS: Tensor
    prefix: int

    def map(self, change: Callable[[Tensor], Tensor]) -> "JointEncoding":
        """Return the states of other rows, which `change` makes of each part."""
        return JointEncoding(change(self.states_BSD), change(self.mask_BS), self.prefix)


class JointDecoding(CachedDecoding["JointModel", JointEncoding]):
    """Decoding that runs the whole decoder."""

    def next_logits(self, tokens_B: Tensor) -> Tensor:
        states_B1D = self._model.backbone.decode(
            tokens_B[:, None], self._encoded.states_BSD, self._encoded.mask_BS, self._cache
        )
        return self._model.logits(states_B1D)[:, 0]


class JointModel(VisionLanguageModel[JointEncoding]):
    """Model whose backbone's encoder reads image tokens.

    They come from a visual embedding and follow the text, as in VL-T5 (arXiv 2102.02779); or, in a
    backbone that reads images, from its own image encoder. The encoder states of a prompt depend on
    the image, so equal prompts share no computation.

    Args:
        backbone: Backbone for text and image.
        visual: See `VisionLanguageModel`.
        head: See `VisionLanguageModel.add_heads`.
    """

    backbone: JointBackbone
    backbone_kind = JointBackbone

    def __init__(
        self,
        backbone: JointBackbone,
        *,
        visual: VisualConfig | None,
        head: HeadConfig | Mapping[str, HeadConfig],
    ) -> None:
        super().__init__(backbone, visual=visual)
        self.prefix: nn.Module | None = None
        """Module without inputs whose output [P, D] is prepended to every prompt."""
        self.tuned_modules: list[nn.Module] = []
        """Modules of the backbone that train whole; a method adds to them."""
        self.add_heads(head, width=backbone.output_width)

    def trained_blocks(self) -> list[nn.Module]:
        """Return the blocks of the backbone."""
        return [block for _, blocks in self.backbone.stacks().values() for block in blocks]

    def num_encoder_tokens(self, prompt: int, images: int, image_tokens: int) -> int:
        """Return the number of tokens of prefix, text and images."""
        prefix = 0 if self.prefix is None else len(self.prefix())
        per_image = image_tokens if self.visual is None else len(self.visual.order_MD)
        return prefix + prompt + images * per_image

    def encode(self, batch: Batch) -> JointEncoding:
        """Run the encoder on prefix, text and image."""
        self.require_image_reader(batch)
        ids_UT, index_B = batch.prompt_ids_UT, batch.prompt_index_B
        text = None
        if self.visual is None or batch.features_BINF is None:
            embedding_BSD, mask_BS = self.backbone.encoder_input(
                ids_UT.index_select(0, index_B), batch.features_BINF
            )
        else:
            text_BTD = self.backbone.embed(ids_UT).index_select(0, index_B)
            mask_BT = (ids_UT != self.backbone.pad_token_id).index_select(0, index_B)
            image_BVD = self.backbone.learned_input(self.visual(batch.features_BINF), text_BTD)
            embedding_BSD = torch.cat((text_BTD, image_BVD), 1)
            mask_BS = nn.functional.pad(mask_BT, (0, image_BVD.shape[1]), value=True)
            if self.backbone.family.leaves_out_positions:
                text = text_BTD.shape[1]
            else:
                embedding_BSD, mask_BS = _move_padding_last(embedding_BSD, mask_BS)
        prefix = 0
        if self.prefix is not None:
            prefix_PD = self.backbone.learned_input(self.prefix(), embedding_BSD)
            prefix = len(prefix_PD)
            prefix_BPD = prefix_PD.expand(len(batch), -1, -1)
            embedding_BSD = torch.cat((prefix_BPD, embedding_BSD), 1)
            mask_BS = nn.functional.pad(mask_BS, (prefix, 0), value=True)
        text = None if text is None else prefix + text
        states_BSD = self.backbone.encode(embedding_BSD, mask_BS, text=text)
        return JointEncoding(states_BSD, mask_BS, prefix)

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
        """Return the states [B, D] that the classifier reads.

        These are the decoder's at the start token, or without a decoder the encoder's at the first
        token after the prefix.
        """
        if not self.backbone.has_decoder:
            return encoded.states_BSD[:, encoded.prefix]
        rows, start = len(encoded.mask_BS), self.backbone.start_token_id
        return self.decode(encoded, torch.full((rows, 1), start, device=self.device))[:, 0]

    def start_decoding(self, encoded: JointEncoding, capacity: int) -> JointDecoding:
        """Return a state with an empty cache, which grows without limit."""
        return JointDecoding(self, encoded)


def _move_padding_last(embedding_BSD: Tensor, mask_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Move padding behind all other tokens, so that no position depends on its length.

    Otherwise, an answer would depend on the other prompts of its batch.
    """
    order_BS = (~mask_BS).int().argsort(dim=1, stable=True)
    rows_B1 = torch.arange(len(order_BS), device=order_BS.device)[:, None]
    return embedding_BSD[rows_B1, order_BS], mask_BS[rows_B1, order_BS]
