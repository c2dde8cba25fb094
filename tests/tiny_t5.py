"""A random T5 whose tokenizer knows whole words."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

__all__ = ["write_t5"]

SIZES = {
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 32,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
}


def write_t5(
    folder: Path,
    words: Iterable[str],
    *,
    splits_punctuation: bool = False,
    **sizes: int,
) -> Path:
    """Write a T5 with random weights.

    Args:
        folder: Output folder, which is returned.
        words: Its tokens, with `<pad>` first, `</s>` and `<unk>` among them.
        splits_punctuation: Whether punctuation is a token of its own; otherwise, tokens are what
            spaces separate.
        sizes: Sizes other than `SIZES`.
    """
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Whitespace() if splits_punctuation else pre_tokenizers.WhitespaceSplit()
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(7)
    config = T5Config(vocab_size=len(vocabulary), decoder_start_token_id=0, **(SIZES | sizes))
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder
