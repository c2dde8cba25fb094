"""Pretrain the demo's T5 on text about the shapes world.

Run it as `python -m tools.pretrain_t5 --out DIR`.

A Unigram tokenizer whose pieces are the words of that text, characters and bytes for everything
else; and a T5 (v1.0: ReLU, tied embeddings) trained by span corruption (arXiv 1910.10683, sec.
3.1.4). The folder written loads with `AutoTokenizer` and `T5ForConditionalGeneration`.
"""

import json
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import log
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from tools._pretraining import (
    Options,
    finished_folder,
    ordered_batches,
    parse_options,
    train_on,
)
from tools.shapes_texts import GENERIC_LINES, line_about
from vl_lst.backbones.pretraining import hide_spans
from vl_lst.demo.questions import ANSWERS
from vl_lst.demo.scenes import Purpose, scene_seed

__all__ = ["MODEL_CONFIG", "SpanBatch", "build_tokenizer", "corrupt", "main", "make_batch"]

# B batch, S source length, G target length

PAD, END, UNKNOWN = 0, 1, 2
SPECIAL = ("<pad>", "</s>", "<unk>")
NUM_SENTINELS = 100
SENTINEL_PIECES = tuple(f"<extra_id_{n}>" for n in reversed(range(NUM_SENTINELS)))
TOKENIZER_LINES = 20_000

MODEL_CONFIG: dict[str, Any] = {
    "d_model": 192,
    "d_kv": 32,
    "num_heads": 6,
    "d_ff": 768,
    "num_layers": 3,
    "num_decoder_layers": 3,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
    "dropout_rate": 0.0,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "decoder_start_token_id": PAD,
}

NOISE_DENSITY = 0.2
MEAN_SPAN = 2.0
MAX_SOURCE_LENGTH = 80
# Lengths are padded to multiples of this, which keeps the number of distinct shapes small.
LENGTH_STEP = 16

PEAK_LEARNING_RATE = 2e-3
HELD_OUT_BATCHES = 8

IGNORED = -100


@dataclass(frozen=True, slots=True)
class SpanBatch:
    """Corrupted lines of one step: `source` [B, S] padded with 0, `target` [B, G] with -100."""

    source: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]


def build_tokenizer(seed: int) -> Tokenizer:
    """Return a tokenizer of the world's words: `<pad>` 0, `</s>` 1, `<unk>` 2, sentinels last.

    The frequent words are pieces of their own, so every answer is one token; other text falls
    apart into characters, and what is not ASCII into bytes. Text is lower-cased: questions begin
    with capitals, answers do not.
    """
    # Pieces are counted, not trained: the library's Unigram trainer is not deterministic and splits
    # frequent words.
    tokenizer = Tokenizer(Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"),
            pre_tokenizers.Punctuation(),
        ]
    )
    tokenizer.model = Unigram(_pieces(tokenizer, seed), unk_id=UNKNOWN, byte_fallback=True)
    tokenizer.add_special_tokens([*SPECIAL, *SENTINEL_PIECES])
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", END)]
    )
    return tokenizer


def corrupt(
    ids: Sequence[int], rng: Random, *, first_sentinel: int, noise_density: float = NOISE_DENSITY
) -> tuple[list[int], list[int]]:
    """Replace at least one random span by a sentinel (T5, arXiv 1910.10683, figure 2).

    Args:
        ids: Token ids of a line without end-of-sequence, at least one.
        rng: Chooses the spans.
        first_sentinel: Id of `<extra_id_0>`; later sentinels have lower ids.
        noise_density: Share of the tokens to replace.

    Returns:
        Source and target, both with end-of-sequence.
    """
    source, target = hide_spans(
        ids,
        rng,
        sentinels=range(first_sentinel, first_sentinel - NUM_SENTINELS, -1),
        noise_density=noise_density,
        mean_span=MEAN_SPAN,
    )
    return [*source, END], [*target, END]


def make_batch(
    index: int, *, tokenizer_json: str, purpose: Purpose, batch_size: int, seed: int
) -> SpanBatch:
    """Return the batch of a step.

    Args:
        index: Index of the step; every step has different scenes.
        tokenizer_json: The serialised tokenizer.
        purpose: Seed range of the scenes.
        batch_size: Number of lines.
        seed: Seed of the scenes, wordings and spans.
    """
    tokenizer = load_tokenizer(tokenizer_json)
    first_sentinel = tokenizer.get_vocab_size() - 1
    first = (seed << 32) + index * batch_size
    seeds = [scene_seed(purpose, first + n) for n in range(batch_size)]
    encoded = tokenizer.encode_batch([line_about(s) for s in seeds], add_special_tokens=False)
    pairs = [
        corrupt(
            line.ids[:MAX_SOURCE_LENGTH], Random(f"{seed} spans {s}"), first_sentinel=first_sentinel
        )
        for line, s in zip(encoded, seeds, strict=True)
    ]
    return SpanBatch(
        padded([source for source, _ in pairs], PAD),
        padded([target for _, target in pairs], IGNORED),
    )


def main() -> None:
    """Train, evaluate and save the model."""
    options = parse_options(
        "Pretrain the demo's T5 on text of the shapes world.", steps=700, batch_size=64
    )
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    tokenizer = build_tokenizer(options.seed)
    config = T5Config(**MODEL_CONFIG, vocab_size=tokenizer.get_vocab_size())
    model = T5ForConditionalGeneration(config)
    torch.nn.Module.to(model, options.device)
    train_on(
        _batches(tokenizer, options, Purpose.PRETRAIN_T5, options.steps),
        model,
        lambda batch: _forward(model, batch, options.device)[0],
        peak=PEAK_LEARNING_RATE,
        options=options,
    )
    model.eval()
    loss, accuracy = _held_out(model, tokenizer, options)
    _save(model, tokenizer, options.out)
    print(f"held-out span corruption: loss {loss:.3f} per token, token accuracy {accuracy:.3f}")


def _forward(
    model: T5ForConditionalGeneration, batch: SpanBatch, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    source_BS = torch.from_numpy(batch.source).to(device)
    target_BG = torch.from_numpy(batch.target).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        output = model(input_ids=source_BS, attention_mask=source_BS != PAD, labels=target_BG)
    return output.loss, output.logits, target_BG


@torch.no_grad()
def _held_out(
    model: T5ForConditionalGeneration, tokenizer: Tokenizer, options: Options
) -> tuple[float, float]:
    losses, hits, tokens = [], 0, 0
    purpose = Purpose.PRETRAIN_T5_HELD_OUT
    for batch in _batches(tokenizer, options, purpose, HELD_OUT_BATCHES):
        loss, logits, target_BG = _forward(model, batch, options.device)
        losses.append(float(loss))
        hits += int((logits.argmax(-1) == target_BG).sum())
        tokens += int((target_BG != IGNORED).sum())
    return sum(losses) / len(losses), hits / tokens


def _batches(
    tokenizer: Tokenizer, options: Options, purpose: Purpose, count: int
) -> Iterator[SpanBatch]:
    make = partial(
        make_batch,
        tokenizer_json=tokenizer.to_str(),
        purpose=purpose,
        batch_size=options.batch_size,
        seed=options.seed,
    )
    return ordered_batches(make, count=count, workers=options.workers)


_loaded: dict[str, Tokenizer] = {}


def load_tokenizer(serialised: str) -> Tokenizer:
    """Return the tokenizer, built once per process."""
    if serialised not in _loaded:
        _loaded[serialised] = Tokenizer.from_str(serialised)
    return _loaded[serialised]


def _pieces(tokenizer: Tokenizer, seed: int) -> list[tuple[str, float]]:
    """Return pieces with log probabilities: words by frequency, then characters, then bytes."""
    seeds = (scene_seed(Purpose.PRETRAIN_T5, (seed << 32) + n) for n in range(TOKENIZER_LINES))
    counts = Counter(
        word
        for line in (*GENERIC_LINES, *ANSWERS, *map(line_about, seeds))
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(
            tokenizer.normalizer.normalize_str(line)
        )
    )
    characters = sorted({"▁", *string.printable.strip().lower()})
    words = sorted(counts.keys() - characters, key=lambda word: (-counts[word], word))
    total = counts.total()
    rarest = log(1 / total)
    return [
        *((piece, 0.0) for piece in SPECIAL),
        *((word, log(counts[word] / total)) for word in words),
        *((character, rarest - 2) for character in characters),
        *((f"<0x{byte:02X}>", rarest - 4) for byte in range(256)),
        *((sentinel, rarest - 8) for sentinel in SENTINEL_PIECES),
    ]


def padded(rows: Sequence[Sequence[int]], filler: int) -> npt.NDArray[np.int64]:
    longest = max(len(row) for row in rows)
    width = -(-longest // LENGTH_STEP) * LENGTH_STEP
    table = np.full((len(rows), width), filler, dtype=np.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table


def _save(model: T5ForConditionalGeneration, tokenizer: Tokenizer, folder: Path) -> None:
    with finished_folder(folder) as unfinished:
        model.half().save_pretrained(unfinished)
        # Otherwise `from_pretrained` would load in half precision, in which T5 overflows.
        config = json.loads((unfinished / "config.json").read_text(encoding="utf-8"))
        config["dtype"] = "float32"
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (unfinished / "config.json").write_text(text, encoding="utf-8")
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            eos_token="</s>",
            unk_token="<unk>",
            model_max_length=512,
        ).save_pretrained(unfinished)


if __name__ == "__main__":
    main()
