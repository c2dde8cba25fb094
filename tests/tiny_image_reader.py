"""A tiny BLIP-2 as a backbone that reads images, and the tiny world with features of its own."""

from dataclasses import replace
from pathlib import Path

import torch
import transformers
from tiny_run import WORDS, TinyWorld
from tiny_vision_language import blip2, write_vision_language
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AddedToken, PreTrainedTokenizerFast

from feature_extraction.encoders.encoder import build_encoder
from feature_extraction.extract import extract

IMAGE_TOKEN = "<image>"  # noqa: S105 - not a password
# One more than the words, as the token that stands for an image.
LANGUAGE_MODEL = {
    "model_type": "t5",
    "vocab_size": len(WORDS) + 1,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 32,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}


def image_reader(**changes: object) -> transformers.Blip2ForConditionalGeneration:
    """Return a BLIP-2 with other random weights than its modules start with."""
    torch.manual_seed(11)
    model = blip2({**LANGUAGE_MODEL, **changes})
    model.config.image_token_index = len(WORDS)
    return model


def write_image_reader(folder: Path, **changes: object) -> Path:
    """Write a folder with a BLIP-2, its image processor and its tokenizer."""
    write_vision_language(folder, image_reader(**changes))
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of words, which ends with the token that stands for an image."""
    words = Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, normalized=False, special=True)], True)
    tokenizer.save_pretrained(folder)


def with_image_reader(world: TinyWorld, folder: Path) -> TinyWorld:
    """Return the world with a backbone that reads images, and features of its image encoder.

    Args:
        world: Tiny world.
        folder: Folder for the backbone and the features.
    """
    backbone = write_image_reader(folder / "reader")
    encoder = build_encoder(backbone, device="cpu")
    features = {split: folder / f"{split}.h5" for split in ("train2014", "val2014")}
    for split, path in features.items():
        extract(world.root / "images" / split, path, encoder)
    return replace(
        world,
        backbone=backbone,
        encoder=backbone,
        train_features=features["train2014"],
        validation_features=features["val2014"],
    )
