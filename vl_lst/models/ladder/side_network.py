"""The ladder: a narrow encoder-decoder next to the frozen one (arXiv 2206.06522).

B examples, U unique prompts, P unique (prompt, answer) pairs, N either of these, T text tokens,
V image tokens, S = T + V, L answer tokens, Q tokens of the stack, K layers with a rung, H heads,
X rung width, D backbone width, R side width.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vl_lst.backbones.frozen import DecoderTaps, EncoderTaps, FrozenBackbone
from vl_lst.backbones.gradient_checkpointing import checkpointed
from vl_lst.backbones.layers import BlockSizes
from vl_lst.models.config import LadderConfig
from vl_lst.models.ladder.dropout import DropoutMasks, draw_pool, drop
from vl_lst.models.ladder.relative_bias import RelativePositionBias
from vl_lst.models.ladder.rungs import LearnedGates, RungBuilder, StackSizes, build_rungs
from vl_lst.models.ladder.side_block import MASKED, MASKS_PER_BLOCK, KeyValues, SideBlock, SideSizes
from vl_lst.models.ladder.side_cache import SideCache
from vl_lst.models.norm import RootMeanSquareNorm, divide_by_root_mean_square
from vl_lst.models.tapped_layers import require_decoder_for, require_divisor, selected_layers

__all__ = ["LadderSideNetwork", "SideDecoder", "SideEncoder"]

# Places with dropout before the first block: both kinds of embeddings, and the final states.
FIRST_BLOCK_MASK = 3


def _side_sizes(backbone: BlockSizes, config: LadderConfig, stack: str) -> SideSizes:
    sizes = {
        "width": backbone.width,
        "head width": backbone.head_width,
        "inner width": backbone.inner_width,
    }
    require_divisor(config.reduction, sizes, stack)
    return SideSizes(
        width=backbone.width // config.reduction,
        heads=backbone.heads,
        head_width=backbone.head_width // config.reduction,
        inner_width=backbone.inner_width // config.reduction,
        is_gated=backbone.is_gated,
        epsilon=backbone.epsilon,
        dropout=config.dropout,
    )


class _SideStack(nn.Module):
    """Common part of the side encoder and the side decoder.

    Args:
        backbone: Backbone that is tapped; only its sizes are used.
        config: Settings.
        build: Function that builds the rungs and gates.
        memory_width: Width of the side encoder's states; in a decoder only.
    """

    is_decoder: ClassVar[bool]

    def __init__(
        self,
        backbone: FrozenBackbone,
        config: LadderConfig,
        build: RungBuilder,
        memory_width: int | None = None,
    ) -> None:
        super().__init__()
        tapped = backbone.decoder_sizes if self.is_decoder else backbone.encoder_sizes
        chosen = config.decoder_layers if self.is_decoder else config.encoder_layers
        stack = "decoder" if self.is_decoder else "encoder"
        self.sizes = sizes = _side_sizes(tapped, config, stack)
        self.layers = selected_layers(chosen, tapped.depth, stack)
        self.recompute = config.recompute is not False
        self.mixes_after_block = config.rung_place == "after_block"
        self.normalises = config.rungs == "normalised"
        self.projects_image = config.image_rungs == "projection"
        self.epsilon = sizes.epsilon
        # Before the rungs, which may replace it: the order of random draws never changes.
        self.first_rung: nn.Linear | None = nn.Linear(tapped.width, sizes.width)
        self.rungs, self.gates = build(
            StackSizes(
                layers=self.layers,
                depth=tapped.depth,
                width=tapped.width,
                side_width=sizes.width,
            )
        )
        if self.rungs.projects_embeddings:
            self.first_rung = None
        buckets, max_distance = backbone.relative_positions
        self.position_bias = RelativePositionBias(
            sizes.heads,
            buckets=buckets,
            max_distance=max_distance,
            bidirectional=not self.is_decoder,
        )
        free = config.free_decoder_blocks if self.is_decoder else config.free_encoder_blocks
        self.blocks = nn.ModuleList(
            SideBlock(sizes, memory_width=memory_width) for _ in range(len(self.layers) + free)
        )
        self.final_norm = RootMeanSquareNorm(sizes.width, eps=sizes.epsilon)

    def memory_parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """Return the parts that memory is reported for: the stack and its rungs."""
        stack = "side decoder" if self.is_decoder else "side encoder"
        rungs = [rung for rung in (self.first_rung, self.rungs) if rung is not None]
        return {stack: [self], f"{stack} rungs": rungs}

    def side_blocks(self) -> Iterator[SideBlock]:
        """Yield the blocks in order."""
        for block in self.blocks:
            assert isinstance(block, SideBlock)
            yield block

    def scale(self, states_D: Tensor) -> Tensor:
        """Return backbone states [..., D] as rungs read them: normalised if `rungs` says so."""
        return divide_by_root_mean_square(states_D, self.epsilon) if self.normalises else states_D

    def cast(self, states: Tensor) -> Tensor:
        """Return states in the data type that products are computed in."""
        return states.to(self._product_dtype())

    def _product_dtype(self) -> torch.dtype:
        table = self.position_bias.table
        kind = table.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else table.dtype

    def mask_shapes(self, batch: int, queries: int, keys: int = 0) -> Sequence[tuple[int, ...]]:
        """Return the shapes of the largest dropout masks of a block.

        Args:
            batch: B.
            queries: Q.
            keys: Number of states of the side encoder, to which a decoder attends.
        """
        width, heads = max(self.sizes.inner_width, self.sizes.width), self.sizes.heads
        return (batch, queries, width), (batch, heads, queries, max(queries, keys))

    def draw_masks(self, *shapes: Sequence[int]) -> Tensor | None:
        """Return a pool [P] for masks of up to these shapes; `None` without dropout."""
        if not self.training or not self.sizes.dropout:
            return None
        return draw_pool(
            shapes,
            self.sizes.dropout,
            places=FIRST_BLOCK_MASK + MASKS_PER_BLOCK * len(self.blocks),
            dtype=self._product_dtype(),
            device=self.position_bias.table.device,
        )

    def project_embedding(self, states_NTD: Tensor) -> Tensor:
        """Return what enters the first side block [N, T, R], of embeddings or image tokens."""
        if self.first_rung is None:
            rungs_1NTR: Tensor = self.rungs(states_NTD[None])
            return rungs_1NTR[0]
        projected_NTR: Tensor = self.first_rung(states_NTD)
        return projected_NTR

    def rung_of(self, row: int, rungs_KNTX: Tensor, index_B: Tensor | None = None) -> Tensor | None:
        """Return the rung of a side block [B, T, X]; `None` if the block is free.

        Args:
            row: Number of the block.
            rungs_KNTX: Rungs of all layers.
            index_B: Index of each example's text; `None` if every example is its own text.
        """
        if row >= len(self.layers):
            return None
        return rungs_KNTX[row] if index_B is None else rungs_KNTX[row].index_select(0, index_B)

    def apply_layer(
        self,
        row: int,
        states_BQR: Tensor,
        rung_BTX: Tensor | None,
        bias_BHQS: Tensor,
        memory: Tensor | KeyValues | None = None,
        memory_mask_B11S: Tensor | None = None,
        cache: KeyValues | None = None,
        pool_P: Tensor | None = None,
    ) -> Tensor:
        """Apply a block, and mix its layer's rung into the residual stream before or after it.

        Args:
            row: Number of the block, and index into `layers` unless the block is free.
            states_BQR: Residual stream.
            rung_BTX: The layer's rung, one row per example; T <= Q. `None` for a free block.
            bias_BHQS: Position bias plus mask of the self-attention.
            memory: States of the side encoder, or their projections; in a decoder only.
            memory_mask_B11S: True where `memory` may be attended to.
            cache: Self-attention keys and values of earlier tokens, while generating.
            pool_P: Output of `draw_masks`.
        """
        block = self.blocks[row]

        def mix(states: Tensor, rung: Tensor | None) -> Tensor:
            if rung is None:
                return states
            mixed: Tensor = self.gates(self.layers[row], rung, states)
            return mixed

        # The pool is an argument, so that measurements see what is kept for the backward pass.
        def step(states: Tensor, rung: Tensor | None, pool: Tensor | None, *rest: Any) -> Tensor:
            first = FIRST_BLOCK_MASK + row * MASKS_PER_BLOCK
            masks = None if pool is None else DropoutMasks(pool, first)
            if self.mixes_after_block:
                return mix(block(states, *rest, masks), rung)
            applied: Tensor = block(mix(states, rung), *rest, masks)
            return applied

        arguments = (states_BQR, rung_BTX, pool_P, bias_BHQS, memory, memory_mask_B11S, cache)
        states: Tensor = checkpointed(step, *arguments, recompute=self.recompute)
        return states


class SideEncoder(_SideStack):
    """Encoder for what the backbone reads, and for the image tokens of a visual embedding."""

    is_decoder = False

    def forward(
        self, taps: EncoderTaps, prompt_index_B: Tensor, image_tokens_BVD: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the states [B, S, R] after the final norm and their mask [B, S].

        The backbone's T tokens come first.

        Args:
            taps: Backbone states of the unique prompts.
            prompt_index_B: Index of each example's prompt.
            image_tokens_BVD: Output of the visual embedding; `None` for text alone, or if the
                backbone reads the images, whose tokens are then among those of `taps`.
        """
        prompts, text, width = taps.embedding_UTD.shape
        image = 0 if image_tokens_BVD is None else image_tokens_BVD.shape[1]
        pool_P = self.draw_masks(
            *((prompts, text, width), (len(prompt_index_B), image, width)),
            *self.mask_shapes(len(prompt_index_B), text + image),
        )
        masks = None if pool_P is None else DropoutMasks(pool_P)
        text_UTR = self.project_embedding(drop(self.cast(self.scale(taps.embedding_UTD)), masks))
        states_BSR = text_UTR.index_select(0, prompt_index_B)
        image_rungs_KBVX = None
        if image_tokens_BVD is not None:
            image_tokens_BVD = drop(self.cast(image_tokens_BVD), masks)
            image_BVR = self.project_embedding(image_tokens_BVD)
            states_BSR = torch.cat((states_BSR, image_BVR), 1)
            if self.projects_image:
                image_rungs_KBVX = self.rungs.project_image(
                    self.scale(image_tokens_BVD), len(self.layers)
                )
        rungs_KUTX = self.rungs(self.scale(taps.blocks_KUTD))

        mask_BS = F.pad(taps.mask_UT.index_select(0, prompt_index_B), (0, image), value=True)
        # Tokens of a visual embedding have no relative positions: their bias is zero.
        bias_1HSS = F.pad(self.position_bias(text, text), (0, image, 0, image))
        bias_BHSS = bias_1HSS + (~mask_BS)[:, None, None] * MASKED
        for row in range(len(self.blocks)):
            rung_BTX = self.rung_of(row, rungs_KUTX, prompt_index_B)
            if rung_BTX is not None and image_rungs_KBVX is not None:
                rung_BTX = torch.cat((rung_BTX, image_rungs_KBVX[row]), 1)
            states_BSR = self.apply_layer(row, states_BSR, rung_BTX, bias_BHSS, pool_P=pool_P)
        return drop(self.final_norm(states_BSR), masks), mask_BS


class SideDecoder(_SideStack):
    """Decoder for answer tokens that attends to the side encoder."""

    is_decoder = True

    def forward(
        self,
        taps: DecoderTaps,
        pair_index_B: Tensor | None,
        memory_BSR: Tensor,
        memory_mask_BS: Tensor,
        cache: SideCache | None = None,
    ) -> Tensor:
        """Return the states [B, L, R] after the final norm.

        Args:
            taps: Backbone states of the unique (prompt, answer) pairs.
            pair_index_B: Index of each example's pair; `None` if `taps` has one row per example.
            memory_BSR: States of the side encoder.
            memory_mask_BS: True where these are not padding.
            cache: Keys and values of earlier tokens, while generating; extended by those of `taps`.
        """
        pool_P = self.draw_masks(
            taps.embedding_PLD.shape,
            *self.mask_shapes(len(memory_BSR), taps.embedding_PLD.shape[1], memory_BSR.shape[1]),
        )
        masks = None if pool_P is None else DropoutMasks(pool_P)
        states_BLR = self.project_embedding(drop(self.cast(self.scale(taps.embedding_PLD)), masks))
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
            rung_BLX = self.rung_of(row, rungs_KPLX, pair_index_B)
            memory = memory_BSR if cache is None else cache.cross_attention[row]
            past_keys = None if cache is None else cache.self_attention[row]
            states_BLR = self.apply_layer(
                row, states_BLR, rung_BLX, bias_1HLS, memory, mask_B11S, past_keys, pool_P
            )
        return drop(self.final_norm(states_BLR), masks)

    def new_cache(self, memory_BSR: Tensor, capacity: int) -> SideCache:
        """Return an empty cache for `capacity` tokens, with the encoder's states projected."""
        caches = [block.new_cache(memory_BSR, capacity) for block in self.side_blocks()]
        return SideCache([memory for memory, _ in caches], [own for _, own in caches])


class LadderSideNetwork(nn.Module):
    """Side encoder, side decoder and the projection back to the backbone's width.

    Next to a backbone without a decoder, there is a side encoder only, and no projection unless a
    last gate needs one.

    Args:
        backbone: Backbone that is tapped; only its sizes are used.
        config: Settings.
        build: Function that builds the rungs and gates of each stack. Default: those that `config`
            describes.
        last_gate: Gate of one layer at the backbone's width, which mixes the final states as with
            `merge_last`. Default: that which `config` describes, if any.

    Raises:
        ModelError: The reduction or the layers do not fit the backbone.
    """

    def __init__(
        self,
        backbone: FrozenBackbone,
        config: LadderConfig,
        build: RungBuilder | None = None,
        last_gate: LearnedGates | None = None,
    ) -> None:
        super().__init__()
        require_decoder_for(config.decoder_layers, backbone)
        build = build or partial(build_rungs, settings=config)
        self.encoder = SideEncoder(backbone, config, build)
        self.decoder: SideDecoder | None = None
        if backbone.has_decoder:
            self.decoder = SideDecoder(backbone, config, build, self.encoder.sizes.width)
        width = backbone.output_width
        self.output_width = (self.decoder or self.encoder).sizes.width
        """Width of the states that heads read."""
        if config.merge_last and last_gate is None:
            assert config.gate_start is not None, "resolved by LadderSettings.for_visual"
            last_gate = LearnedGates(
                1,
                width if config.gates == "channel" else 1,
                temperature=config.gate_temperature,
                start=config.gate_start,
                attenuate=False,
            )
        self.upsample: nn.Linear | None = None
        if backbone.has_decoder or last_gate is not None:
            self.upsample = nn.Linear(self.output_width, width)
        self.last_gate = last_gate
        if last_gate is not None:
            self.output_width = width

    def merge(self, states_BLR: Tensor, final_NLD: Tensor, index_B: Tensor | None = None) -> Tensor:
        """Return the states that heads read: those of the side network, or a mixture [B, L, D].

        Args:
            states_BLR: Final states of the side network.
            final_NLD: Final states of the backbone for unique texts; used only by a last gate.
            index_B: Index of each example's text; `None` if every example is its own text.
        """
        if self.last_gate is None:
            return states_BLR
        final_BLD = final_NLD if index_B is None else final_NLD.index_select(0, index_B)
        widened_BLD = self.widen(states_BLR)
        merged_BLD: Tensor = self.last_gate(0, final_BLD.to(widened_BLD.dtype), widened_BLD)
        return merged_BLD

    def widen(self, states_BLR: Tensor) -> Tensor:
        """Return states of the side network at the backbone's width [B, L, D]."""
        assert self.upsample is not None
        widened_BLD: Tensor = self.upsample(states_BLR)
        return widened_BLD
