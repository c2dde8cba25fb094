"""Tiny checkpoints of vision-language models, written by transformers itself."""

from pathlib import Path

import torch
import transformers
from tiny_checkpoints import MEAN, STD, randomise
from torch import Tensor

SIDE = 32
NUM_QUERIES = 5
WIDTH = 24
IMAGE_ID = 9

VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 16,
}
T5 = {"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 16}
OPT = {
    "model_type": "opt",
    "hidden_size": WIDTH,
    "ffn_dim": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "word_embed_proj_dim": WIDTH,
    "vocab_size": 16,
}


def blip2(text: dict[str, object] | None = None) -> transformers.Blip2ForConditionalGeneration:
    """Return a BLIP-2; its language model is a T5 unless `text` describes another."""
    config = transformers.Blip2Config(
        vision_config=VISION,
        qformer_config={
            "hidden_size": 20,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "vocab_size": 16,
        },
        text_config=text or {"model_type": "t5", **T5},
        num_query_tokens=NUM_QUERIES,
        image_token_index=IMAGE_ID,
    )
    return transformers.Blip2ForConditionalGeneration(config)


def t5gemma2() -> transformers.T5Gemma2ForConditionalGeneration:
    """Return a T5Gemma 2 that pools its 4 x 4 patches to 2 x 2 tokens."""
    config = transformers.T5Gemma2Config(
        encoder={
            "text_config": TEXT,
            "vision_config": {"model_type": "siglip_vision_model", **VISION},
            "mm_tokens_per_image": 4,
            "eoi_token_index": 8,
        },
        decoder=TEXT,
        image_token_index=IMAGE_ID,
    )
    return transformers.T5Gemma2ForConditionalGeneration(config)


MODELS = {"blip2": blip2, "t5gemma2": t5gemma2}


def write_vision_language(folder: Path, model: transformers.PreTrainedModel) -> Path:
    """Write a folder with random weights for all tensors of a model."""
    randomise(model.eval())
    model.save_pretrained(folder)
    write_preprocessing(folder, SIDE)
    return folder


def write_preprocessing(folder: Path, side: int) -> None:
    """Write the settings of an image processor for squares of `side` pixels."""
    transformers.BlipImageProcessor(
        image_mean=list(MEAN), image_std=list(STD), size={"height": side, "width": side}
    ).save_pretrained(folder)


def tokens_read(model: transformers.PreTrainedModel, normalised_B3SS: Tensor, num: int) -> Tensor:
    """Return what the language model is given in the places of the image, by the model itself."""
    if isinstance(model, transformers.Blip2ForConditionalGeneration):
        reader = model.language_model
    else:
        reader = model.model.encoder.text_model
    image = model.config.image_token_index
    ids_BU = torch.tensor([[3, *[image] * num, 4]] * len(normalised_B3SS))
    given: list[Tensor] = []

    def keep(module: object, arguments: object, named: dict[str, Tensor]) -> None:
        given.append(named["inputs_embeds"])

    handle = reader.register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model(
            input_ids=ids_BU,
            attention_mask=torch.ones_like(ids_BU),
            pixel_values=normalised_B3SS,
            decoder_input_ids=ids_BU[:, :1],
        )
    handle.remove()
    (embedded_BUC,) = given
    return embedded_BUC[:, 1:-1]
