"""Bundled weights are complete, small, and load like any other weights."""

import math

import numpy as np
import torch
from PIL import Image

from feature_extraction.encoders.encoder import build_encoder, encode_image
from tools.pretrain_t5 import make_batch
from vl_lst.backbones.loading import DEMO, load_backbone
from vl_lst.bundled import ASSETS, CLIP_FOLDER
from vl_lst.demo.scenes import Purpose

MOST_BYTES = 12 * 10**6


def test_assets_stay_small() -> None:
    files = [path for path in ASSETS.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES


def test_the_image_encoder_separates_colours() -> None:
    encoder = build_encoder(str(CLIP_FOLDER), name=DEMO)
    grids = []
    for colour in ("red", "blue"):
        picture = Image.new("RGB", (128, 128), "white")
        picture.paste(colour, (40, 40, 90, 90))
        grids.append(encode_image(picture, encoder).astype(np.float32))
    assert grids[0].shape == (49, 512)
    distance = np.abs(grids[0] - grids[1]).mean(1).reshape(7, 7)
    assert distance[3, 3] > 5 * distance[0, 0]


def test_the_backbone_models_text_of_the_shapes_world() -> None:
    """Span filling on held-out sentences is far better than chance."""
    loaded = load_backbone(DEMO)
    batch = make_batch(
        0,
        tokenizer_json=loaded.tokenizer.backend_tokenizer.to_str(),
        purpose=Purpose.PRETRAIN_T5_HELD_OUT,
        batch_size=16,
        seed=0,
    )
    source, target = torch.from_numpy(batch.source), torch.from_numpy(batch.target)
    with torch.no_grad():
        loss = loaded.backbone.model(
            input_ids=source,
            attention_mask=(source != 0).long(),
            decoder_input_ids=loaded.backbone.shift_right(target),
            labels=target,
        ).loss
    assert float(loss) < 0.4 * math.log(len(loaded.tokenizer))
