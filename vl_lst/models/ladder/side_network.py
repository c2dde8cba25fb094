"""The ladder: a narrow encoder-decoder that climbs along the frozen one (arXiv 2206.06522).

B batch, U unique prompts, P unique (prompt, answer) pairs, T text tokens, V image tokens, S = T+V,
L answer tokens, K rungs, D backbone width, R side width.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vl_lst.backbones.backbone import DecoderTaps, EncoderTaps, FrozenBackbone
from vl_lst.errors import ModelError
from vl_lst.models.config import LadderConfig
from vl_lst.models.ladder.relative_bias import RelativePositionBias
from vl_lst.models.ladder.rungs import Gates, PooledRungs, Rungs, mix
from vl_lst.models.ladder.side_block import KeyValues, SideBlock, SideShape
from vl_lst.models.norm import RootMeanSquareNorm

__all__ = [
    "LadderSideNetwork",
    "SideCache",
    "SideDecoder",
    "SideEncoder",
    "kept_layers",
    "side_shape",
]

# The additive masks of the reference implementation; large enough that a masked key gets
# exactly no weight in float32, small enough not to overflow in bfloat16.
MASKED = -1e4


def side_shape(backbone: FrozenBackbone, config: LadderConfig) -> SideShape:
    """Sizes of the side network beside `backbone`.

    Raises:
        ModelError: The reduction does not divide one of the backbone's sizes.
    """
    sizes = {name: int(getattr(backbone.config, name)) for name in ("d_model", "d_kv", "d_ff")}
    for name, size in sizes.items():
        if size % config.reduction:
            raise ModelError(
                f"the reduction {config.reduction} does not divide the backbone's {name} of "
                f"{size}; choose a divisor of {', '.join(f'{n}={s}' for n, s in sizes.items())}"
            )
    return SideShape(
        width=sizes["d_model"] // config.reduction,
        heads=int(backbone.config.num_heads),
        head_width=sizes["d_kv"] // config.reduction,
        inner_width=sizes["d_ff"] // config.reduction,
        gated=bool(backbone.config.is_gated_act),
        epsilon=float(backbone.config.layer_norm_epsilon),
        dropout=config.dropout,
    )


def kept_layers(chosen: Sequence[int] | None, depth: int, stack: str) -> tuple[int, ...]:
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
    """What the side encoder and the side decoder have in common."""

    def __init__(
        self,
        backbone: FrozenBackbone,
        shape: SideShape,
        config: LadderConfig,
        layers: tuple[int, ...],
        *,
        depth: int,
        decoder: bool,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.recompute = config.recompute
        self.attenuate = config.image_rungs == "attenuate"
        self.after_block = config.rung_place == "after_block"
        self.first_rung = nn.Linear(backbone.width, shape.width)
        self.normalises = config.rungs == "normalised"
        self.epsilon = shape.epsilon
        kind: type[Rungs | PooledRungs] = PooledRungs if config.rungs == "pool" else Rungs
        self.rungs = kind(len(layers), backbone.width, shape.width)
        self.gates = Gates(
            depth,
            shape.width if config.gates == "channel" else 1,
            temperature=config.gate_temperature,
            start=config.gate_start,
        )
        self.position_bias = RelativePositionBias(
            shape.heads,
            buckets=int(backbone.config.relative_attention_num_buckets),
            max_distance=int(backbone.config.relative_attention_max_distance),
            bidirectional=not decoder,
        )
        self.blocks = nn.ModuleList(SideBlock(shape, decoder=decoder) for _ in layers)
        self.final_norm = RootMeanSquareNorm(shape.width, eps=shape.epsilon)
        self.dropout = nn.Dropout(shape.dropout)

    def side_blocks(self) -> Iterator[SideBlock]:
        """The blocks of the kept layers, in order."""
        for block in self.blocks:
            assert isinstance(block, SideBlock)
            yield block

    def as_read(self, states_D: Tensor) -> Tensor:
        """States [..., D] of the backbone as all rungs read them: at one scale, or as they are."""
        if self.normalises:
            return F.rms_norm(states_D, states_D.shape[-1:], eps=self.epsilon)
        return states_D

    def climb(
        self,
        row: int,
        states_BQR: Tensor,
        rung_BTR: Tensor,
        bias_BHQS: Tensor,
        memory: Tensor | KeyValues | None = None,
        memory_mask_B11S: Tensor | None = None,
        cache: KeyValues | None = None,
    ) -> Tensor:
        """Mix a rung into the residual stream, before or after the block of that layer.

        Args:
            row: Which of the kept layers.
            states_BQR: Residual stream.
            rung_BTR: The backbone's state, projected; T <= Q.
            bias_BHQS: Position bias plus mask of the self-attention.
            memory: The side encoder's states, or their projections, in a decoder.
            memory_mask_B11S: Which of them may be looked at.
            cache: Earlier keys and values while generating.
        """
        block = self.blocks[row]

        def step(states: Tensor, rung: Tensor, gate: Tensor, *rest: Any) -> Tensor:
            if self.after_block:
                return mix(block(states, *rest), rung, gate, attenuate=self.attenuate)
            climbed: Tensor = block(mix(states, rung, gate, attenuate=self.attenuate), *rest)
            return climbed

        gate = self.gates(self.layers[row])
        arguments = (states_BQR, rung_BTR, gate, bias_BHQS, memory, memory_mask_B11S)
        if self.recompute and torch.is_grad_enabled():
            recomputed: Tensor = checkpoint(step, *arguments, use_reentrant=False)
            return recomputed
        return step(*arguments, cache)


class SideEncoder(_SideStack):
    """Reads text beside the backbone, and the image tokens, which the backbone never sees."""

    def __init__(self, backbone: FrozenBackbone, shape: SideShape, config: LadderConfig) -> None:
        layers = kept_layers(config.encoder_layers, backbone.encoder_depth, "encoder")
        super().__init__(
            backbone, shape, config, layers, depth=backbone.encoder_depth, decoder=False
        )
        self.projects_image = config.image_rungs == "projection"

    def forward(
        self, taps: EncoderTaps, prompt_index_B: Tensor, image_tokens_BVD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """States [B, S, R] after the final norm, text first, and their mask [B, S].

        Args:
            taps: Of the unique prompts.
            prompt_index_B: Which prompt each example has.
            image_tokens_BVD: The visual embedding.
        """
        embedding_UTD = self.as_read(taps.embedding_UTD).to(image_tokens_BVD.dtype)
        text_UTR = self.first_rung(self.dropout(embedding_UTD))
        image_tokens_BVD = self.dropout(image_tokens_BVD)
        image_BVR = self.first_rung(image_tokens_BVD)
        states_BSR = torch.cat((text_UTR.index_select(0, prompt_index_B), image_BVR), 1)
        rungs_KUTR = self.rungs(self.as_read(taps.blocks_KUTD))
        image_rungs_KBVR = (
            self.rungs.of_each_layer(self.as_read(image_tokens_BVD))
            if self.projects_image
            else None
        )

        text, image = text_UTR.shape[1], image_BVR.shape[1]
        mask_BS = F.pad(taps.mask_UT.index_select(0, prompt_index_B), (0, image), value=True)
        # Only pairs of text tokens have a relative position; the rest of the bias is zero.
        bias_1HSS = F.pad(self.position_bias(text, text), (0, image, 0, image))
        bias_BHSS = bias_1HSS + (~mask_BS)[:, None, None] * MASKED
        for row in range(len(self.blocks)):
            rung_BTR = rungs_KUTR[row].index_select(0, prompt_index_B)
            if image_rungs_KBVR is not None:
                rung_BTR = torch.cat((rung_BTR, image_rungs_KBVR[row]), 1)
            states_BSR = self.climb(row, states_BSR, rung_BTR, bias_BHSS)
        return self.dropout(self.final_norm(states_BSR)), mask_BS


class SideDecoder(_SideStack):
    """Reads the answer beside the backbone's decoder and attends to the side encoder."""

    def __init__(self, backbone: FrozenBackbone, shape: SideShape, config: LadderConfig) -> None:
        layers = kept_layers(config.decoder_layers, backbone.decoder_depth, "decoder")
        super().__init__(
            backbone, shape, config, layers, depth=backbone.decoder_depth, decoder=True
        )

    def forward(
        self,
        taps: DecoderTaps,
        pair_index_B: Tensor | None,
        memory_BSR: Tensor,
        memory_mask_BS: Tensor,
        cache: "SideCache | None" = None,
    ) -> Tensor:
        """States [B, L, R] after the final norm.

        Args:
            taps: Of the unique (prompt, answer) pairs.
            pair_index_B: Which pair each example has; `None` where pairs and examples are the same.
            memory_BSR: The side encoder's states.
            memory_mask_BS: Their mask.
            cache: While generating: holds what came before and grows by the tokens of `taps`.
        """
        dtype = memory_BSR.dtype
        states_BLR = self.first_rung(self.dropout(self.as_read(taps.embedding_PLD).to(dtype)))
        rungs_KPLR = self.rungs(self.as_read(taps.blocks_KPLD))
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
            rung_BLR = rungs_KPLR[row]
            if pair_index_B is not None:
                rung_BLR = rung_BLR.index_select(0, pair_index_B)
            memory = memory_BSR if cache is None else cache.memories[row]
            past_keys = None if cache is None else cache.selves[row]
            states_BLR = self.climb(
                row, states_BLR, rung_BLR, bias_1HLS, memory, mask_B11S, past_keys
            )
        normed_BLR: Tensor = self.dropout(self.final_norm(states_BLR))
        return normed_BLR

    def new_cache(self, memory_BSR: Tensor, capacity: int) -> "SideCache":
        """An empty cache for up to `capacity` tokens, with the encoder's states projected once."""
        caches = [block.new_cache(memory_BSR, capacity) for block in self.side_blocks()]
        return SideCache([memory for memory, _ in caches], [own for _, own in caches])


class SideCache:
    """Keys and values of the side decoder while generating, a pair for each block.

    Args:
        memories: Of the side encoder's states; constant.
        selves: Of the tokens so far; they grow.
    """

    def __init__(self, memories: list[KeyValues], selves: list[KeyValues]) -> None:
        self.memories = memories
        self.selves = selves

    @property
    def length(self) -> int:
        """Tokens so far."""
        return self.selves[0].filled

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may be taken several times."""
        self.reorder(rows)
        for entry in self.memories:
            entry.select(rows)

    def reorder(self, rows: Tensor) -> None:
        """Like `select`, where each row stays within its example: the image's part is the same."""
        for entry in self.selves:
            entry.select(rows)


class LadderSideNetwork(nn.Module):
    """Side encoder, side decoder and the projection back to the backbone's width.

    Args:
        backbone: Whose taps it will read; only its sizes are used.
        config: Settings.

    Raises:
        ModelError: The reduction or the layers do not fit the backbone.
    """

    def __init__(self, backbone: FrozenBackbone, config: LadderConfig) -> None:
        super().__init__()
        self.shape = side_shape(backbone, config)
        self.encoder = SideEncoder(backbone, self.shape, config)
        self.decoder = SideDecoder(backbone, self.shape, config)
        self.upsample = nn.Linear(self.shape.width, backbone.width)
