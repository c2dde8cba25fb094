"""What the demo's backbone that reads images has learnt, on pictures it was not trained on."""

from collections.abc import Callable, Iterable, Sequence
from random import Random

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from tools._image_t5 import ImageT5, PictureFile
from tools._probe import fit_linear
from tools.image_texts import LIST_PROMPT, list_of
from tools.pretrain_t5 import IGNORED, PAD, SpanBatch, padded
from vl_lst.demo.balance import choose_balanced
from vl_lst.demo.captions import noun_phrase
from vl_lst.demo.questions import ANSWERS, Question, questions_about
from vl_lst.demo.scenes import Scene
from vl_lst.demo.vqa import KIND_WEIGHTS

__all__ = ["CHANGES", "answer_probe", "held_out_scores", "list_scores"]

# B batch, I images of a sample, V image tokens, C channels, D model width, S source, N questions

Change = Callable[[Tensor], Tensor]

CHANGES: dict[str, Change] = {
    "own images": lambda cells_BIVC: cells_BIVC,
    "blank images": torch.zeros_like,
    "other images": lambda cells_BIVC: cells_BIVC.roll(1, 0),
}
BATCH_SIZE = 64
MAX_LIST_LENGTH = 64
QUESTIONS_PER_PICTURE = 6


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
    written: list[str] = []
    for first in range(0, len(scenes), BATCH_SIZE):
        numbers = np.arange(first, min(first + BATCH_SIZE, len(scenes)))[:, None]
        cells_BIVC = pictures.cells(numbers, device)
        inputs = model.inputs(cells_BIVC, prompt_1S.expand(len(numbers), -1))
        ids_BG = model.language_model.generate(**inputs, max_new_tokens=MAX_LIST_LENGTH)
        written += tokenizer.decode_batch(ids_BG.tolist())
    exact = [text == list_of(scene) for text, scene in zip(written, scenes, strict=True)]
    found = [
        pair in text
        for text, scene in zip(written, scenes, strict=True)
        for pair in {noun_phrase(item) for item in scene.objects}
    ]
    return sum(exact) / len(exact), sum(found) / len(found)


def answer_probe(
    model: ImageT5,
    tokenizer: Tokenizer,
    scenes: Sequence[Scene],
    pictures: PictureFile,
    device: torch.device,
) -> dict[str, float]:
    """Fit linear classifiers of VQA answers on the decoder's first state; return test accuracies.

    Three quarters of the pictures are for fitting. The model itself is frozen and has never seen an
    answer.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        scenes: Scenes like those of the benchmark.
        pictures: Their pictures.
        device: Device to compute on.
    """
    rng = Random("answer probe")
    chosen = choose_balanced(
        (questions_about(scene, rng) for scene in scenes),
        per_picture=QUESTIONS_PER_PICTURE,
        kind_weights=KIND_WEIGHTS,
        rng=rng,
    )
    asked = [(number, question) for number, part in enumerate(chosen) for question in part]
    train = sum(map(len, chosen[: len(scenes) * 3 // 4]))
    answers_N = torch.tensor([ANSWERS.index(question.answer) for _, question in asked])
    answers_N = answers_N.to(device)
    accuracies = {}
    for name in ("own images", "blank images"):
        states_ND = _first_states(model, tokenizer, asked, pictures, CHANGES[name], device)
        accuracies[name] = fit_linear(
            states_ND[:train],
            answers_N[:train],
            states_ND[train:],
            answers_N[train:],
            classes=len(ANSWERS),
        )
    return accuracies


@torch.no_grad()
def _first_states(
    model: ImageT5,
    tokenizer: Tokenizer,
    asked: Sequence[tuple[int, Question]],
    pictures: PictureFile,
    change: Change,
    device: torch.device,
) -> Tensor:
    states = []
    for first in range(0, len(asked), BATCH_SIZE):
        part = asked[first : first + BATCH_SIZE]
        numbers = np.array([[number] for number, _ in part])
        source = padded([tokenizer.encode(f"vqa: {q.text}").ids for _, q in part], PAD)
        inputs = model.inputs(
            change(pictures.cells(numbers, device)), torch.from_numpy(source).to(device)
        )
        start_B1 = torch.full((len(part), 1), PAD, device=device)
        output = model.language_model(
            **inputs, decoder_input_ids=start_B1, output_hidden_states=True
        )
        states.append(output.decoder_hidden_states[-1][:, 0])
    return torch.cat(states)
