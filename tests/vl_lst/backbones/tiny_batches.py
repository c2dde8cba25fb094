"""Batches for the tiny backbones."""

import torch
from torch import Tensor

from vl_lst.backbones.backbone import IGNORED, Backbone
from vl_lst.models.batch import Batch, unique_rows
from vl_lst.models.config import VisualConfig

__all__ = ["ANSWERS", "VISUAL", "prompt_ids", "tiny_batch", "visual_for"]

ANSWERS = 5
VISUAL = VisualConfig(channels=8, tokens=4, pooled_grid=None)
FIRST_WORD = 8  # ids below may be special tokens


def visual_for(backbone: Backbone) -> VisualConfig | None:
    """Return the settings of the visual embedding, which a backbone that reads images lacks."""
    return None if backbone.reads_images else VISUAL


def prompt_ids(backbone: Backbone, rows: int = 4, seed: int = 1) -> Tensor:
    """Return ids of prompts; the last is padded and the first two are equal."""
    generator = torch.Generator().manual_seed(seed)
    ids_UT = torch.randint(FIRST_WORD, backbone.vocabulary_size, (rows, 7), generator=generator)
    ids_UT[1] = ids_UT[0]
    ids_UT[-1, 4:] = backbone.pad_token_id
    return ids_UT


def tiny_batch(backbone: Backbone, *, images: int = 1, seed: int = 1) -> Batch:
    """Return a batch in which equal prompts have the same images, and answers differ in length.

    Args:
        backbone: Backbone that reads the batch.
        images: Images per example; 0 for text alone.
        seed: Seed of everything in it.
    """
    generator = torch.Generator().manual_seed(seed)
    ids_BT = prompt_ids(backbone, seed=seed)
    rows = len(ids_BT)
    labels_BL = torch.randint(FIRST_WORD, backbone.vocabulary_size, (rows, 3), generator=generator)
    labels_BL[1] = labels_BL[0]
    labels_BL[-1, 2:] = IGNORED
    channels = backbone.width if backbone.reads_images else VISUAL.channels
    features_BINF = torch.randn(rows, images, VISUAL.tokens, channels, generator=generator)
    if backbone.reads_images:
        features_BINF[1] = features_BINF[0]
    first, index_B = unique_rows(ids_BT)
    pair_rows_P, pair_index_B = unique_rows(torch.cat((ids_BT, labels_BL), 1))
    return Batch(
        features_BINF=features_BINF if images else None,
        prompt_ids_UT=ids_BT[first],
        prompt_index_B=index_B,
        prompt_rows_U=first if backbone.reads_images and images else None,
        labels_BL=labels_BL,
        pair_rows_P=pair_rows_P,
        pair_index_B=pair_index_B,
        weights_B=torch.rand(rows, generator=generator),
        scores_BA=torch.rand(rows, ANSWERS, generator=generator),
        values_B=5 * torch.rand(rows, generator=generator),
    )
