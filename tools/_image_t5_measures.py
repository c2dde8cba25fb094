"""What the demo's backbone that reads images has learnt, on pictures it was not trained on."""

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from tools._image_t5 import ImageT5, PictureFile
from tools.image_texts import HIDDEN, LIST_PROMPT, hidden_words, list_of
from tools.pretrain_t5 import IGNORED, PAD, SpanBatch, padded
from vl_lst.demo.captions import noun_phrase
from vl_lst.demo.scenes import BENCHMARK_COLOURS, BENCHMARK_SHAPES, Scene

__all__ = ["CHANGES", "cloze_accuracies", "held_out_scores", "list_scores"]

# B batch, I images of a sample, V image tokens, C channels, S source, G target, K vocabulary


Change = Callable[[Tensor], Tensor]

CHANGES: dict[str, Change] = {
    "own images": lambda cells_BIVC: cells_BIVC,
    "blank images": torch.zeros_like,
    # Half a batch away: neighbours may be about the same picture.
    "other images": lambda cells_BIVC: cells_BIVC.roll(len(cells_BIVC) // 2, 0),
}
BATCH_SIZE = 64
MAX_LIST_LENGTH = 64

CHOICES: dict[str, tuple[str, ...]] = {
    "colour": BENCHMARK_COLOURS,
    "shape": BENCHMARK_SHAPES,
    "side": ("left", "right"),
    "count": ("1", "2", "3"),
    "presence": ("a", "an", "no"),
}


@torch.no_grad()
def held_out_scores(
    model: ImageT5,
    batches: Iterable[tuple[npt.NDArray[np.int64], SpanBatch]],
    pictures: PictureFile,
    device: torch.device,
) -> dict[str, tuple[float, float]]:
    """Return loss and accuracy per target token with the images as they are and changed.

    Args:
        model: The model.
        batches: Numbers of pictures [B, I], and texts about them.
        pictures: The pictures.
        device: Device to compute on.
    """
    totals = {name: np.zeros(3) for name in CHANGES}
    for numbers, texts in batches:
        cells_BIVC = pictures.cells(numbers, device)
        for name, change in CHANGES.items():
            loss, logits, target_BG = model(change(cells_BIVC), texts)
            tokens = int((target_BG != IGNORED).sum())
            hits = int((logits.argmax(-1) == target_BG).sum())
            totals[name] += (float(loss) * tokens, hits, tokens)
    return {name: (loss / tokens, hits / tokens) for name, (loss, hits, tokens) in totals.items()}


@torch.no_grad()
def list_scores(
    model: ImageT5,
    tokenizer: Tokenizer,
    scenes: Sequence[Scene],
    pictures: PictureFile,
    device: torch.device,
) -> tuple[float, float]:
    """Return the share of exact lists of shapes, and of pairs of colour and shape that are listed.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        scenes: The first scenes of `pictures`.
        pictures: The pictures.
        device: Device to compute on.
    """
    prompt_1S = torch.tensor([tokenizer.encode(LIST_PROMPT).ids], device=device)
    # Its annotations do not fit the model.
    generate = cast(Any, model.language_model).generate
    written: list[str] = []
    for first in range(0, len(scenes), BATCH_SIZE):
        numbers = np.arange(first, min(first + BATCH_SIZE, len(scenes)))[:, None]
        cells_BIVC = pictures.cells(numbers, device)
        inputs = model.inputs(cells_BIVC, prompt_1S.expand(len(numbers), -1))
        ids_BG = generate(**inputs, max_new_tokens=MAX_LIST_LENGTH)
        written += tokenizer.decode_batch(ids_BG.tolist())
    exact = [text == list_of(scene) for text, scene in zip(written, scenes, strict=True)]
    found = [
        pair in text
        for text, scene in zip(written, scenes, strict=True)
        for pair in {noun_phrase(item) for item in scene.objects}
    ]
    return sum(exact) / len(exact), sum(found) / len(found)


def cloze_accuracies(
    model: ImageT5,
    tokenizer: Tokenizer,
    scenes: Sequence[Scene],
    pictures: PictureFile,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Return how often the model fills the hidden word of a statement with the true one.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        scenes: Scenes of a few objects.
        pictures: Their pictures.
        device: Device to compute on.

    Returns:
        Accuracy by change of the images (see `CHANGES`) and by kind of statement. It is chosen
        among the words that the kind can have.
    """
    rng = Random("cloze")
    clozes = [
        (number, cloze) for number, scene in enumerate(scenes) for cloze in hidden_words(scene, rng)
    ]
    found: dict[str, dict[str, float]] = {}
    for name, change in CHANGES.items():
        hits: dict[str, list[bool]] = {kind: [] for kind in CHOICES}
        for first in range(0, len(clozes), BATCH_SIZE):
            part = clozes[first : first + BATCH_SIZE]
            cells_BIVC = change(pictures.cells(np.array([[n] for n, _ in part]), device))
            logits_BK = _hidden_word(model, tokenizer, [c.line for _, c in part], cells_BIVC)
            for row_K, (_, cloze) in zip(logits_BK, part, strict=True):
                choices = CHOICES[cloze.kind]
                ids = [tokenizer.encode(word).ids[0] for word in choices]
                hits[cloze.kind].append(choices[int(row_K[ids].argmax())] == cloze.word)
        found[name] = {kind: sum(each) / len(each) for kind, each in hits.items()}
    return found


@torch.no_grad()
def _hidden_word(
    model: ImageT5, tokenizer: Tokenizer, lines: Sequence[str], cells_BIVC: Tensor
) -> Tensor:
    """Return the logits [B, vocabulary] of the first token of each line's hidden span."""
    source = padded([tokenizer.encode(line).ids for line in lines], PAD)
    source_BS = torch.from_numpy(source).to(cells_BIVC.device)
    start = torch.tensor([PAD, tokenizer.token_to_id(HIDDEN)], device=cells_BIVC.device)
    output = model.language_model(
        **model.inputs(cells_BIVC, source_BS), decoder_input_ids=start.expand(len(lines), 2)
    )
    logits_BK: Tensor = output.logits[:, -1]
    return logits_BK
