"""The pretrained weights that ship are complete, small, and load as any other weights do."""

import numpy as np
import torch
from PIL import Image

from feature_extraction.encoders import build_encoder, encode_image
from vl_lst.demo import ASSETS, CLIP_FOLDER
from vl_lst.models.loading import DEMO, load_backbone

MOST_BYTES = 12 * 10**6


def test_they_stay_small() -> None:
    files = [path for path in ASSETS.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES


def test_the_tower_gives_a_grid_that_tells_colours_apart() -> None:
    encoder = build_encoder(str(CLIP_FOLDER), name=DEMO)
    grids = []
    for colour in ("red", "blue"):
        picture = Image.new("RGB", (128, 128), "white")
        picture.paste(colour, (40, 40, 90, 90))
        grids.append(encode_image(picture, encoder).astype(np.float32))
    assert grids[0].shape == (49, 512)
    distance = np.abs(grids[0] - grids[1]).mean(1).reshape(7, 7)
    assert distance[3, 3] > 5 * distance[0, 0]


def test_the_backbone_knows_the_worlds_language() -> None:
    loaded = load_backbone(DEMO)
    model, tokenizer = loaded.backbone.model, loaded.tokenizer
    prompt = tokenizer("is there a red <extra_id_0> in the picture?", return_tensors="pt")
    losses = {}
    for word in ("circle", "the"):
        labels = tokenizer(f"<extra_id_0> {word} <extra_id_1>", return_tensors="pt").input_ids
        with torch.no_grad():
            decoder_ids = loaded.backbone.shift_right(labels)
            losses[word] = model(**prompt, decoder_input_ids=decoder_ids, labels=labels).loss
    assert losses["circle"] < losses["the"]
