"""Bundled weights are complete, small, and load like any other weights."""

import math

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer, Blip2Config, T5ForConditionalGeneration

from feature_extraction.encoders.encoder import build_encoder, encode_image
from feature_extraction.encoders.weights import projection_sha256
from tools.image_texts import LIST_PROMPT
from tools.pretrain_t5 import make_batch
from vl_lst.backbones.loading import load_backbone
from vl_lst.bundled import ASSETS, CLIP_FOLDER, DEMO, ENCODER_FOLDERS, IMAGE_BACKBONE_FOLDER
from vl_lst.demo.captions import noun_phrase
from vl_lst.demo.rendering import render
from vl_lst.demo.scenes import Purpose, sample_scene, scene_seed

MOST_BYTES = 12 * 10**6


def test_assets_stay_small() -> None:
    files = [path for path in ASSETS.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors", ".txt"}
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


def test_the_backbone_that_reads_images_names_what_they_show() -> None:
    """A stock T5 lists the shapes of held-out pictures from the tokens of the image encoder."""
    state = {
        name: tensor.float()
        for name, tensor in load_file(IMAGE_BACKBONE_FOLDER / "model.safetensors").items()
    }
    config = Blip2Config.from_pretrained(IMAGE_BACKBONE_FOLDER)
    language_model = T5ForConditionalGeneration(config.text_config).eval()
    found = language_model.load_state_dict(_part(state, "language_model."), strict=False)
    assert not found.unexpected_keys
    encoder = build_encoder(ENCODER_FOLDERS["demo-image"], name="demo-image", device="cpu")
    assert encoder.spec.projection_sha256 == projection_sha256(_part(state, "language_projection."))
    scenes = [
        sample_scene(scene_seed(Purpose.PRETRAIN_IMAGE_T5_HELD_OUT, n), counts=(1,))
        for n in range(40)
    ]
    tokens_BVD = torch.stack(
        [torch.from_numpy(encode_image(render(scene, 128), encoder)) for scene in scenes]
    ).float()
    assert tokens_BVD.shape[1:] == (config.num_query_tokens, config.text_config.d_model)
    tokenizer = AutoTokenizer.from_pretrained(IMAGE_BACKBONE_FOLDER)
    prompt_1S = tokenizer(LIST_PROMPT, return_tensors="pt").input_ids
    text_BSD = language_model.shared(prompt_1S).expand(len(scenes), -1, -1)
    ids_BG = language_model.generate(
        inputs_embeds=torch.cat((tokens_BVD, text_BSD), dim=1),
        attention_mask=torch.ones(len(scenes), tokens_BVD.shape[1] + text_BSD.shape[1]),
        max_new_tokens=16,
    )
    lists = tokenizer.batch_decode(ids_BG, skip_special_tokens=True)
    named = [noun_phrase(scene.objects[0]) for scene in scenes]
    own = [noun in text for noun, text in zip(named, lists, strict=True)]
    other = [noun in text for noun, text in zip(named, lists[1:] + lists[:1], strict=True)]
    assert sum(own) > 0.75 * len(scenes)
    assert sum(other) < 0.25 * len(scenes)


def _part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
