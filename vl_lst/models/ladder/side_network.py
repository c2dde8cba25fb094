"""The ladder: a narrow encoder-decoder next to the frozen one (arXiv 2206.06522).

B examples, U unique prompts, P unique (prompt, answer) pairs, T text tokens, V image
tokens, S = T + V, L answer tokens, Q tokens of the stack, K layers with a rung, H heads, X rung
width, D backbone width, R side width.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vl_lst.backbones.backbone import DecoderTaps, EncoderTaps, FrozenBackbone
from vl_lst.errors import ModelError
from vl_lst.models.config import LadderConfig
from vl_lst.models.ladder.relative_bias import RelativePositionBias
from vl_lst.models.ladder.rungs import RungBuilder, StackSizes, build_rungs
from vl_lst.models.ladder.side_block import KeyValues, SideBlock, SideSizes
from vl_lst.models.norm import RootMeanSquareNorm

__all__ = ["LadderSideNetwork", "SideCache", "SideDecoder", "SideEncoder"]

# The additive mask of the reference implementation: large enough that a masked key gets exactly
# zero weight in float32, small enough not to overflow in bfloat16.
MASKED = -1e4


def _side_sizes(backbone: FrozenBackbone, config: LadderConfig) -> SideSizes:
    sizes = {name: int(getattr(backbone.config, name)) for name in ("d_model", "d_kv", "d_ff")}
    for name, size in sizes.items():
        if size % config.reduction:
            raise ModelError(
                f"the reduction {config.reduction} does not divide the backbone's {name} of "
                f"{size}; choose a divisor of {', '.join(f'{n}={s}' for n, s in sizes.items())}"
            )
    return SideSizes(
        width=sizes["d_model"] // config.reduction,
        heads=int(backbone.config.num_heads),
        head_width=sizes["d_kv"] // config.reduction,
        inner_width=sizes["d_ff"] // config.reduction,
        is_gated=bool(backbone.config.is_gated_act),
        epsilon=float(backbone.config.layer_norm_epsilon),
        dropout=config.dropout,
    )


def _selected_layers(chosen: Sequence[int] | None, depth: int, stack: str) -> tuple[int, ...]:
    layers = tuple(range(depth)) if chosen is None else tuple(chosen)
    if (
        not layers
        or list(layers) != sorted(set(layers))
        or not 0 <= layers[0] <= layers[-1] < depth
    ):
        raise ModelError(
            f"the {stack} layers {list(layers)} are not ascending, distinct layers of a backbone "
            f"whose {stack} has {depth} (0 to {depth - 1})"
        )
    return layers


class _SideStack(nn.Module):
    """Common part of the side encoder and the side decoder.

    Args:
        backbone: Backbone that is tapped; only its sizes are used.
        sizes: Sizes of the side network.
        config: Settings.
        build: Function that builds the rungs and gates.
    """

    is_decoder: ClassVar[bool]

    def __init__(
        self,
        backbone: FrozenBackbone,
        sizes: SideSizes,
        config: LadderConfig,
        build: RungBuilder,
    ) -> None:
        super().__init__()
        if self.is_decoder:
            depth = backbone.decoder_depth
            self.layers = _selected_layers(config.decoder_layers, depth, "decoder")
        else:
            depth = backbone.encoder_depth
            self.layers = _selected_layers(config.encoder_layers, depth, "encoder")
        self.recompute = config.recompute
        self.mixes_after_block = config.rung_place == "after_block"
        self.normalises = config.rungs == "normalised"
        self.projects_image = config.image_rungs == "projection"
        self.epsilon = sizes.epsilon
        self.first_rung = nn.Linear(backbone.width, sizes.width)
        self.rungs, self.gates = build(
            StackSizes(
                layers=self.layers, depth=depth, width=backbone.width, side_width=sizes.width
            )
        )
        self.position_bias = RelativePositionBias(
            sizes.heads,
            buckets=int(backbone.config.relative_attention_num_buckets),
            max_distance=int(backbone.config.relative_attention_max_distance),
            bidirectional=not self.is_decoder,
        )
        self.blocks = nn.ModuleList(
            SideBlock(sizes, is_decoder=self.is_decoder) for _ in self.layers
        )
        self.final_norm = RootMeanSquareNorm(sizes.width, eps=sizes.epsilon)
        self.dropout = nn.Dropout(sizes.dropout)

    def side_blocks(self) -> Iterator[SideBlock]:
        """Yield the blocks in order."""
        for block in self.blocks:
            assert isinstance(block, SideBlock)
            yield block

    def scale(self, states_D: Tensor) -> Tensor:
        """Return backbone states [..., D] as rungs read them: normalised if `rungs` says so."""
        if self.normalises:
            return F.rms_norm(states_D, states_D.shape[-1:], eps=self.epsilon)
        return states_D

    def apply_layer(
        self,
        row: int,
        states_BQR: Tensor,
        rung_BTX: Tensor,
        bias_BHQS: Tensor,
        memory: Tensor | KeyValues | None = None,
        memory_mask_B11S: Tensor | None = None,
        cache: KeyValues | None = None,
    ) -> Tensor:
        """Apply the block of a layer, and mix the rung into the residual stream before or after it.

        Args:
            row: Index into `layers`.
            states_BQR: Residual stream.
            rung_BTX: The layer's rung, one row per example; T <= Q.
            bias_BHQS: Position bias plus mask of the self-attention.
            memory: States of the side encoder, or their projections; in a decoder only.
            memory_mask_B11S: True where `memory` may be attended to.
            cache: Self-attention keys and values of earlier tokens, while generating.
        """
        block, layer = self.blocks[row], self.layers[row]

        def step(states: Tensor, rung: Tensor, *rest: Any) -> Tensor:
            if self.mixes_after_block:
                mixed: Tensor = self.gates(layer, rung, block(states, *rest))
                return mixed
            applied: Tensor = block(self.gates(layer, rung, states), *rest)
            return applied

        arguments = (states_BQR, rung_BTX, bias_BHQS, memory, memory_mask_B11S)
        if self.recompute and torch.is_grad_enabled():
            recomputed: Tensor = checkpoint(step, *arguments, use_reentrant=False)
            return recomputed
        return step(*arguments, cache)


class SideEncoder(_SideStack):
    """Encoder for text and image tokens; the backbone sees the text only."""

    is_decoder = False

    def forward(
        self, taps: EncoderTaps, prompt_index_B: Tensor, image_tokens_BVD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the states [B, S, R] after the final norm, text first, and their mask [B, S].

        Args:
            taps: Backbone states of the unique prompts.
            prompt_index_B: Index of each example's prompt.
            image_tokens_BVD: Output of the visual embedding.
        """
        embedding_UTD = self.scale(taps.embedding_UTD).to(image_tokens_BVD.dtype)
        text_UTR = self.first_rung(self.dropout(embedding_UTD))
        image_tokens_BVD = self.dropout(image_tokens_BVD)
        image_BVR = self.first_rung(image_tokens_BVD)
        states_BSR = torch.cat((text_UTR.index_select(0, prompt_index_B), image_BVR), 1)
        rungs_KUTX = self.rungs(self.scale(taps.blocks_KUTD))
        image_rungs_KBVX = (
            self.rungs.project_image(self.scale(image_tokens_BVD), len(self.layers))
            if self.projects_image
            else None
        )

        text, image = text_UTR.shape[1], image_BVR.shape[1]
        mask_BS = F.pad(taps.mask_UT.index_select(0, prompt_index_B), (0, image), value=True)
        # Only pairs of text tokens have a relative position; the rest of the bias is zero.
        bias_1HSS = F.pad(self.position_bias(text, text), (0, image, 0, image))
        bias_BHSS = bias_1HSS + (~mask_BS)[:, None, None] * MASKED
        for row in range(len(self.blocks)):
            rung_BTX = rungs_KUTX[row].index_select(0, prompt_index_B)
            if image_rungs_KBVX is not None:
                rung_BTX = torch.cat((rung_BTX, image_rungs_KBVX[row]), 1)
            states_BSR = self.apply_layer(row, states_BSR, rung_BTX, bias_BHSS)
        return self.dropout(self.final_norm(states_BSR)), mask_BS


class SideDecoder(_SideStack):
    """Decoder for answer tokens that attends to the side encoder."""

    is_decoder = True

    def forward(
        self,
        taps: DecoderTaps,
        pair_index_B: Tensor | None,
        memory_BSR: Tensor,
        memory_mask_BS: Tensor,
        cache: "SideCache | None" = None,
    ) -> Tensor:
        """Return the states [B, L, R] after the final norm.

        Args:
            taps: Backbone states of the unique (prompt, answer) pairs.
            pair_index_B: Index of each example's pair; `None` if `taps` has one row per example.
            memory_BSR: States of the side encoder.
            memory_mask_BS: True where these are not padding.
            cache: Keys and values of earlier tokens, while generating; extended by those of `taps`.
        """
        dtype = memory_BSR.dtype
        states_BLR = self.first_rung(self.dropout(self.scale(taps.embedding_PLD).to(dtype)))
        rungs_KPLX = self.rungs(self.scale(taps.blocks_KPLD))
        if pair_index_B is not None:
            states_BLR = states_BLR.index_select(0, pair_index_B)
        length = states_BLR.shape[1]
        past = 0 if cache is None else cache.length
        bias_1HLS = self.position_bias(length, past + length)
        if length > 1:
            later = torch.ones(length, past + length, dtype=torch.bool, device=bias_1HLS.device)
            bias_1HLS = bias_1HLS + later.triu(past + 1) * MASKED
        mask_B11S = memory_mask_BS[:, None, None]
        for row in range(len(self.blocks)):
            rung_BLX = rungs_KPLX[row]
            if pair_index_B is not None:
                rung_BLX = rung_BLX.index_select(0, pair_index_B)
            memory = memory_BSR if cache is None else cache.cross_attention[row]
            past_keys = None if cache is None else cache.self_attention[row]
            states_BLR = self.apply_layer(
                row, states_BLR, rung_BLX, bias_1HLS, memory, mask_B11S, past_keys
            )
        normed_BLR: Tensor = self.dropout(self.final_norm(states_BLR))
        return normed_BLR

    def new_cache(self, memory_BSR: Tensor, capacity: int) -> "SideCache":
        """Return an empty cache for `capacity` tokens, with the encoder's states projected."""
        caches = [block.new_cache(memory_BSR, capacity) for block in self.side_blocks()]
        return SideCache([memory for memory, _ in caches], [own for _, own in caches])


class SideCache:
    """Keys and values of the side decoder while generating, two entries per block.

    Args:
        cross_attention: Keys and values of the side encoder's states; constant.
        self_attention: Keys and values of the tokens so far; extended with each token.
    """

    def __init__(self, cross_attention: list[KeyValues], self_attention: list[KeyValues]) -> None:
        self.cross_attention = cross_attention
        self.self_attention = self_attention

    @property
    def length(self) -> int:
        """Number of tokens so far."""
        return self.self_attention[0].length

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may occur several times."""
        self.reorder(rows)
        for entry in self.cross_attention:
            entry.select(rows)

    def reorder(self, rows: Tensor) -> None:
        """Do the same as `select` if every row stays within its example, as in beam search."""
        for entry in self.self_attention:
            entry.select(rows)


class LadderSideNetwork(nn.Module):
    """Side encoder, side decoder and the projection back to the backbone's width.

    Args:
        backbone: Backbone that is tapped; only its sizes are used.
        config: Settings.
        build: Function that builds the rungs and gates of each stack. Default: those that `config`
            describes.

    Raises:
        ModelError: The reduction or the layers do not fit the backbone.
    """

    def __init__(
        self, backbone: FrozenBackbone, config: LadderConfig, build: RungBuilder | None = None
    ) -> None:
        super().__init__()
        build = build or partial(build_rungs, settings=config)
        self.sizes = _side_sizes(backbone, config)
        self.encoder = SideEncoder(backbone, self.sizes, config, build)
        self.decoder = SideDecoder(backbone, self.sizes, config, build)
        self.upsample = nn.Linear(self.sizes.width, backbone.width)
