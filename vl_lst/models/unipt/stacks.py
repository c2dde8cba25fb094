"""UniPT's stacks: all features of a frozen stack, merged into one (arXiv 2308.14316, section 3).

Feature 0 is the stack's embedding, feature i the output of its block i. Each has its own projection
`T_i = norm_i(W_i F_i + b_i)`; that of the last block is the anchor A. Every other feature is merged
with it, `M_i = P_i T_i + T_i` with `P_i = relu(A T_i^T)`, whose rows are divided by their sums. The
merged features are averaged by their confidence, a softmax over i, into M, and the stack's states
are `A + J(M)`. See `docs/methods/unipt.md`.

B examples, U unique prompts, P unique (prompt, answer) pairs, N either of these, T text tokens,
V image tokens, S keys, Q queries, L answer tokens, G 1 in an encoder and Q in a decoder, K blocks,
D width of a stack of the backbone, R side width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vl_lst.backbones.frozen import DecoderTaps, EncoderTaps
from vl_lst.backbones.gradient_checkpointing import checkpointed
from vl_lst.backbones.layers import BlockSizes
from vl_lst.models.ladder.rungs import LinearRungs, StackSizes

__all__ = ["FeatureCache", "Form", "StackDecoder", "StackEncoder", "StackSettings", "attend"]

Form = Literal["joint", "text"]
# Added to the sum that a row of attention weights is divided by, as in the paper's code.
EPSILON: Mapping[Form, float] = {"joint": 1e-6, "text": 1e-8}


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """Settings of both stacks.

    Args:
        side_width: R.
        form: `joint` or `text`; see `UniPTOptions`.
        dropout: Dropout probability of image tokens and of `J(M)`.
        recompute: Whether layers save only their inputs for the backward pass.
    """

    side_width: int
    form: Form
    dropout: float
    recompute: bool


def attend(queries_BQR: Tensor, keys_BSR: Tensor, mask_BQS: Tensor, epsilon: float) -> Tensor:
    """Return sums [B, Q, R] of the keys, weighted by their nonnegative products with the queries.

    There are no heads, no scale and no softmax. A query whose products are all negative or masked
    gets zeros.

    Args:
        queries_BQR: Queries.
        keys_BSR: Keys, which are the values too.
        mask_BQS: True for the keys of a query, broadcastable.
        epsilon: Added to the sum of a query's weights before they are divided by it.
    """
    scores_BQS = torch.relu(queries_BQR @ keys_BSR.transpose(1, 2)) * mask_BQS
    return (scores_BQS / (scores_BQS.sum(-1, keepdim=True) + epsilon)) @ keys_BSR


class FeatureCache:
    """Features of the answer's tokens so far, which later tokens attend to.

    Args:
        features_FBCR: Uninitialised features [K + 1, B, capacity, R], the anchor last.
    """

    def __init__(self, features_FBCR: Tensor) -> None:
        self._features_FBCR = features_FBCR
        self.length = 0

    def append(self, row: int, feature_BQR: Tensor) -> Tensor:
        """Write a feature of the next tokens, and return it for all tokens [B, S, R]."""
        end = self.length + feature_BQR.shape[1]
        self._features_FBCR[row, :, self.length : end] = feature_BQR
        return self._features_FBCR[row, :, :end]

    def advance(self, tokens: int) -> None:
        """Count tokens of which all features have been written."""
        self.length += tokens

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may occur several times."""
        self._features_FBCR = self._features_FBCR.index_select(1, rows)

    def select(self, rows: Tensor, examples: Tensor) -> None:
        """Do the same as `reorder`, since nothing is kept of the encoder's states."""
        self.reorder(rows)


class _Stack(nn.Module):
    """Common part of both stacks.

    Args:
        sizes: Sizes of the backbone's stack.
        settings: Settings.
    """

    is_decoder: ClassVar[bool]

    def __init__(self, sizes: BlockSizes, settings: StackSettings) -> None:
        super().__init__()
        width, side_width = sizes.width, settings.side_width
        self.layers = tuple(range(sizes.depth))
        self.epsilon = EPSILON[settings.form]
        self.recompute = settings.recompute
        self.first_rung = nn.Linear(width, side_width)
        self.rungs = LinearRungs(
            StackSizes(layers=self.layers, depth=sizes.depth, width=width, side_width=side_width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(side_width) for _ in range(sizes.depth + 1))
        # Without the bias of the paper's code: a softmax does not change if all confidences do.
        bound = side_width**-0.5
        self.confidence = nn.Parameter(torch.empty(side_width).uniform_(-bound, bound))
        self.projection = _projection(width, settings)
        self.dropout = nn.Dropout(settings.dropout)

    def memory_parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """Return the parts that memory is reported for: the stack and its rungs."""
        stack = "side decoder" if self.is_decoder else "side encoder"
        return {stack: [self], f"{stack} rungs": [self.first_rung, self.rungs]}

    def project(self, embedding_NTD: Tensor, blocks_KNTD: Tensor) -> list[Tensor]:
        """Return `W_i F_i + b_i` [N, T, R] of all features."""
        dtype = self.first_rung.weight.dtype
        return [self.first_rung(embedding_NTD.to(dtype)), *self.rungs(blocks_KNTD)]

    def feature(self, row: int, rung_NTR: Tensor, index_B: Tensor | None, *rest: Any) -> Tensor:
        """Return the feature T_i, one row per example: [N, T, R] to [B, Q, R].

        Args:
            row: i.
            rung_NTR: `W_i F_i + b_i` of the unique texts.
            index_B: Index of each example's text; `None` if every example is its own.
            rest: What else the stack makes the feature of.
        """
        feature_NTR: Tensor = self.norms[row](rung_NTR)
        return feature_NTR if index_B is None else feature_NTR.index_select(0, index_B)

    def merge(
        self,
        inputs: Sequence[tuple[Any, ...]],
        mask_BQS: Tensor,
        cache: FeatureCache | None = None,
    ) -> Tensor:
        """Return the stack's states [B, Q, R].

        Args:
            inputs: Arguments of `feature` after the first, for every feature.
            mask_BQS: True for the keys of a query, broadcastable; its rows are equal in an encoder,
                which therefore may have one for all queries, [B, 1, S].
            cache: Features of earlier tokens, extended by those of these tokens.
        """
        last = len(inputs) - 1
        anchor_BQR = self.feature(last, *inputs[last])
        keys_BSR = anchor_BQR if cache is None else cache.append(last, anchor_BQR)
        shares_BGS = (mask_BQS / mask_BQS.sum(-1, keepdim=True).clamp(min=1)).to(anchor_BQR.dtype)
        shared = (anchor_BQR, shares_BGS @ keys_BSR, mask_BQS, shares_BGS)
        # The softmax over features in one pass: weights are relative to the highest confidence so
        # far, and rescaled when it rises. A plain softmax would keep every merged feature for the
        # backward pass, since it knows their weights only after the last one.
        total_BQR, weights_BG1 = torch.zeros_like(anchor_BQR), torch.zeros_like(shares_BGS[..., :1])
        highest_BG1 = torch.full_like(weights_BG1, -torch.inf)
        for row in range(last):
            merged_BQR, weight_BG1, higher_BG1 = checkpointed(
                self._weigh,
                *(row, cache, highest_BG1, *shared, *inputs[row]),
                recompute=self.recompute,
            )
            shrink_BG1 = torch.exp(highest_BG1 - higher_BG1)
            total_BQR = total_BQR * shrink_BG1 + merged_BQR
            weights_BG1 = weights_BG1 * shrink_BG1 + weight_BG1
            highest_BG1 = higher_BG1
        if cache is not None:
            cache.advance(anchor_BQR.shape[1])
        states_BQR: Tensor = checkpointed(
            self._add_projection, anchor_BQR, total_BQR, weights_BG1, recompute=self.recompute
        )
        return states_BQR

    def _weigh(
        self,
        row: int,
        cache: FeatureCache | None,
        highest_BG1: Tensor,
        anchor_BQR: Tensor,
        anchor_mean_BGR: Tensor,
        mask_BQS: Tensor,
        shares_BGS: Tensor,
        *inputs: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a merged feature times its weight, the weight, and the highest confidence so far.

        Args:
            row: Number of the feature.
            cache: See `merge`.
            highest_BG1: Highest confidence of earlier features.
            anchor_BQR: Anchor.
            anchor_mean_BGR: Its mean over the keys of each query.
            mask_BQS: See `merge`.
            shares_BGS: The mask with rows that add up to one.
            inputs: Arguments of `feature` after the first.
        """
        feature_BQR = self.feature(row, *inputs)
        keys_BSR = feature_BQR if cache is None else cache.append(row, feature_BQR)
        merged_BQR = attend(anchor_BQR, keys_BSR, mask_BQS, self.epsilon) + feature_BQR
        agreement_BGR = anchor_mean_BGR * (shares_BGS @ keys_BSR)
        confidence_BG1 = (self.confidence * agreement_BGR).sum(-1, keepdim=True)
        highest_BG1 = torch.maximum(highest_BG1, confidence_BG1.detach())
        weight_BG1 = torch.exp(confidence_BG1 - highest_BG1)
        return weight_BG1 * merged_BQR, weight_BG1, highest_BG1

    def _add_projection(self, anchor_BQR: Tensor, total_BQR: Tensor, weights_BG1: Tensor) -> Tensor:
        """Return `A + J(M)`."""
        projected_BQR: Tensor = self.dropout(self.projection(total_BQR / weights_BG1))
        return anchor_BQR + projected_BQR


class StackEncoder(_Stack):
    """Stack next to the encoder, for what the backbone reads and for image tokens.

    Image tokens have no states in a backbone that reads the text alone. Every feature of them is
    the projection of their embedding.
    """

    is_decoder = False

    def forward(
        self, taps: EncoderTaps, prompt_index_B: Tensor, image_tokens_BVD: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the states [B, S, R] and their mask [B, S]; the backbone's T tokens come first.

        Args:
            taps: Backbone states of the unique prompts.
            prompt_index_B: Index of each example's prompt.
            image_tokens_BVD: Output of the visual embedding; `None` for text alone, or if the
                backbone reads the images, whose tokens are then among those of `taps`.
        """
        rungs = self.project(taps.embedding_UTD, taps.blocks_KUTD)
        mask_BS = taps.mask_UT.index_select(0, prompt_index_B)
        images: list[Tensor | None] = [None] * len(rungs)
        if image_tokens_BVD is not None:
            image_tokens_BVD = self.dropout(image_tokens_BVD)
            mask_BS = F.pad(mask_BS, (0, image_tokens_BVD.shape[1]), value=True)
            images = [
                self.first_rung(image_tokens_BVD),
                *self.rungs.project_image(image_tokens_BVD, len(self.layers)),
            ]
        inputs = [
            (rung_UTR, prompt_index_B, image_BVR)
            for rung_UTR, image_BVR in zip(rungs, images, strict=True)
        ]
        return self.merge(inputs, mask_BS[:, None]), mask_BS

    def feature(self, row: int, rung_NTR: Tensor, index_B: Tensor | None, *rest: Any) -> Tensor:
        """Return the feature [B, S, R]; `rest` is the projection of the image tokens or `None`."""
        text_BTR = super().feature(row, rung_NTR, index_B)
        (image_BVR,) = rest
        if image_BVR is None:
            return text_BTR
        return torch.cat((text_BTR, self.norms[row](image_BVR)), 1)


class StackDecoder(_Stack):
    """Stack next to the decoder, in a causal form, that attends to the stack next to the encoder.

    A token attends to itself and earlier ones, and the means that its confidences compare are those
    over the same tokens.

    Args:
        sizes: Sizes of the backbone's decoder.
        settings: Settings.
    """

    is_decoder = True

    def __init__(self, sizes: BlockSizes, settings: StackSettings) -> None:
        super().__init__(sizes, settings)
        width = settings.side_width
        self.crossings = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width)) for _ in self.layers
        )

    def forward(
        self,
        taps: DecoderTaps,
        pair_index_B: Tensor | None,
        memory_BSR: Tensor,
        memory_mask_BS: Tensor,
        cache: FeatureCache | None = None,
    ) -> Tensor:
        """Return the states [B, L, R].

        Args:
            taps: Backbone states of the unique (prompt, answer) pairs.
            pair_index_B: Index of each example's pair; `None` if `taps` has one row per example.
            memory_BSR: States of the stack next to the encoder.
            memory_mask_BS: True where these are not padding.
            cache: Features of earlier tokens, while generating; extended by those of `taps`.
        """
        rungs = self.project(taps.embedding_PLD, taps.blocks_KPLD)
        memory = (memory_BSR, memory_mask_BS[:, None])
        inputs = [(rung_PLR, pair_index_B, *memory) for rung_PLR in rungs]
        length, past = rungs[0].shape[1], 0 if cache is None else cache.length
        mask_LS = torch.ones(length, past + length, dtype=torch.bool, device=memory_BSR.device)
        return self.merge(inputs, mask_LS.tril(past)[None], cache)

    def feature(self, row: int, rung_NTR: Tensor, index_B: Tensor | None, *rest: Any) -> Tensor:
        """Return the feature [B, L, R], to which all but the anchor add what they attend to.

        Args:
            row: i.
            rung_NTR: `W_i F_i + b_i` of the unique pairs.
            index_B: Index of each example's pair.
            rest: States of the stack next to the encoder, and their mask [B, 1, S].
        """
        feature_BLR = super().feature(row, rung_NTR, index_B)
        if row == len(self.crossings):
            return feature_BLR
        memory_BSR, memory_mask_B1S = rest
        # The beams of an example, which are rows of one token, are queries to the same states.
        queries_BQR = feature_BLR.view(len(memory_BSR), -1, feature_BLR.shape[-1])
        attended_BQR = attend(queries_BQR, memory_BSR, memory_mask_B1S, self.epsilon)
        crossed_BLR: Tensor = self.crossings[row](attended_BQR.view_as(feature_BLR))
        return feature_BLR + crossed_BLR

    def new_cache(self, memory_BSR: Tensor, capacity: int) -> FeatureCache:
        """Return an empty cache for `capacity` tokens per row of the encoder's states."""
        rows, _, width = memory_BSR.shape
        return FeatureCache(memory_BSR.new_empty(len(self.norms), rows, capacity, width))


def _projection(width: int, settings: StackSettings) -> nn.Sequential:
    """Return J: two layers with the backbone's width between them, or one layer."""
    side_width = settings.side_width
    if settings.form == "text":
        return nn.Sequential(nn.Linear(side_width, side_width), nn.LayerNorm(side_width))
    return nn.Sequential(
        nn.Linear(side_width, width),
        nn.ReLU(),
        nn.Linear(width, side_width),
        nn.LayerNorm(side_width),
    )
