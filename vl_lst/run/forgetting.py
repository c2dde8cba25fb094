"""What a method makes its backbone forget: the loss on text like that of the pretraining.

B texts, S source tokens, L target tokens.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from eval.errors import InputError
from eval.regular_files import open_regular
from eval.run_files import Forgetting, ModelCard
from vl_lst.backbones.backbone import IGNORED
from vl_lst.backbones.pretraining import PretrainingObjective
from vl_lst.backbones.tokenizer import CachingTokenizer, pad_rows
from vl_lst.devices import float32_products, inference_autocast
from vl_lst.errors import ModelError
from vl_lst.models.batch import Batch
from vl_lst.models.frozen_backbone_model import FrozenBackboneModel
from vl_lst.models.vision_language_model import VisionLanguageModel
from vl_lst.progress import ProgressReport, silent
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel, load_backbone_alone
from vl_lst.runs.model_card import require_same_backbone

__all__ = [
    "FORGETTING_SEED",
    "corrupted_pairs",
    "mean_loss",
    "measure_forgetting",
    "read_documents",
]

FORGETTING_SEED = 0
MAX_TEXT_BYTES = 1 << 26
# Longer documents are cut into pieces; a length at which all backbones were pretrained.
MAX_PIECE_TOKENS = 512
# Fixed, since sums in floating-point numbers depend on it.
TOKENS_PER_BATCH = 4096

# Token ids that the encoder reads, and those that the decoder predicts.
Pair = tuple[list[int], list[int]]


def read_documents(path: Path) -> tuple[list[str], str]:
    """Return the documents of a text file, one per line that is not empty, and its SHA-256.

    Raises:
        InputError: The file is missing, too large, not UTF-8, or empty.
    """
    expected = "text, one document per line"
    with open_regular(path, expected=expected, max_bytes=MAX_TEXT_BYTES) as file:
        content = file.read()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 (byte {error.start:,}): expected {expected}. Convert it first."
        ) from None
    documents = [line for line in map(str.strip, text.split("\n")) if line]
    if not documents:
        raise InputError(f"{path} has no text: expected {expected}")
    return documents, hashlib.sha256(content).hexdigest()


def measure_forgetting(
    recipe: Recipe,
    card: ModelCard,
    built: BuiltModel,
    path: Path,
    *,
    seed: int = FORGETTING_SEED,
    report: ProgressReport = silent,
) -> Forgetting:
    """Measure the loss of a backbone on its pretraining objective, before and after training.

    The backbone before training has the precision of the run's. After training, it runs with the
    modules that the method has inserted. Where the method leaves it frozen, the loss is the same:
    its weights are those that the run started from, which their fingerprint verifies, and a
    checkpoint holds none of them.

    Args:
        recipe: Recipe of the run.
        card: Model card of the run.
        built: Model of the run with the weights of a checkpoint, on the device to compute on.
        path: Text file with one document per line.
        seed: Seed of what is hidden of the text.
        report: Progress callback.

    Raises:
        InputError: The text is not usable.
        ModelError: The backbone has no pretraining objective, or its tokenizer lacks its tokens.
        CheckpointError: The backbone has other weights than when training started.
    """
    documents, digest = read_documents(path)
    model = built.model
    objective = _objective(model)
    prefix = model.num_encoder_tokens(0, 0, 0)
    pairs = corrupted_pairs(documents, objective, built.tokenizer, _max_tokens(model, prefix), seed)
    if not pairs:
        raise InputError(
            f"{path}: no line is long enough for {objective.name}: expected lines of two or more "
            "words"
        )
    is_frozen = isinstance(model, FrozenBackboneModel)
    passes = 1 if is_frozen else 2
    original, fingerprint = load_backbone_alone(recipe)
    require_same_backbone(card, recipe.backbone.name, fingerprint)
    original.to(model.device)
    before, tokens = mean_loss(original, recipe, pairs, report, total=passes * len(pairs))
    del original
    if is_frozen:
        inside = [name for name in built.stored if name.startswith("backbone.")]
        assert not inside, f"the backbone is frozen, so no checkpoint holds {inside}"
        after = before
    else:
        after, _ = mean_loss(
            model, recipe, pairs, report, done=len(pairs), total=passes * len(pairs)
        )
    return Forgetting(
        objective=objective.name,
        text_sha256=digest,
        seed=seed,
        tokens=tokens,
        loss_before=before,
        loss_after=after,
        is_by_construction=is_frozen,
    )


def _objective(model: VisionLanguageModel[Any]) -> PretrainingObjective:
    objective = model.backbone.family.pretraining
    if objective is None:
        reason = (
            "has an encoder only, which is loaded without the output layer of its pretraining"
            if not model.backbone.has_decoder
            else "does not tell how it was pretrained"
        )
        raise ModelError(
            f"a backbone of type {model.backbone.model_type} {reason}, so what it has forgotten "
            "cannot be measured: expected an encoder-decoder with a pretraining objective (leave "
            "out --forgetting)"
        )
    return objective


def _max_tokens(model: VisionLanguageModel[Any], prefix: int) -> int:
    limit = model.backbone.max_positions
    return MAX_PIECE_TOKENS if limit is None else min(MAX_PIECE_TOKENS, limit - prefix)


def corrupted_pairs(
    documents: Sequence[str],
    objective: PretrainingObjective,
    tokenizer: CachingTokenizer,
    max_tokens: int,
    seed: int,
) -> list[Pair]:
    """Return what the encoder reads and what the decoder must predict, short sources first.

    Args:
        documents: Texts.
        objective: Hides a part of a text.
        tokenizer: Tokenizer of the backbone.
        max_tokens: Maximum number of tokens of a source and of a target.
        seed: Seed of what is hidden.
    """
    # A mask may be inserted into a text, so a source can be longer than the piece.
    size = max(1, max_tokens * 3 // 4)
    pairs: list[Pair] = []
    for number, ids in enumerate(tokenizer.tokenise_all(documents)):
        for start in range(0, len(ids), size):
            random = Random(f"{seed} {number} {start}")
            pair = objective.corrupt(ids[start : start + size], tokenizer, random)
            if pair is not None:
                source, target = pair
                pairs.append((source[:max_tokens], target[:max_tokens]))
    return sorted(pairs, key=lambda pair: (len(pair[0]), len(pair[1])))


def _batches(pairs: Sequence[Pair], padding: int, device: torch.device) -> Iterator[Batch]:
    start = 0
    while start < len(pairs):
        end = start + 1
        # Sources are sorted by length, targets are not much longer.
        while end < len(pairs) and (end + 1 - start) * len(pairs[end][0]) <= TOKENS_PER_BATCH:
            end += 1
        chosen = pairs[start:end]
        yield Batch(
            prompt_ids_UT=pad_rows([source for source, _ in chosen], padding=padding),
            prompt_index_B=torch.arange(len(chosen)),
            labels_BL=pad_rows([target for _, target in chosen], padding=IGNORED),
        ).to(device)
        start = end


def mean_loss(
    model: VisionLanguageModel[Any],
    recipe: Recipe,
    pairs: Sequence[Pair],
    report: ProgressReport,
    *,
    done: int = 0,
    total: int,
) -> tuple[float, int]:
    """Return the mean loss in nats per token, and the number of tokens.

    Args:
        model: Model with the backbone, on the device to compute on.
        recipe: Recipe of the run, whose precision is used.
        pairs: See `corrupted_pairs`.
        report: Progress callback, in pairs.
        done: Number of pairs that count as done before.
        total: Number of pairs in all.
    """
    training, device = recipe.training, model.device
    loss, tokens = 0.0, 0
    with (
        inference_autocast(model, training.precision, device),
        float32_products(tf32=training.tf32, device=device),
    ):
        for batch in _batches(pairs, model.backbone.pad_token_id, device):
            assert batch.labels_BL is not None
            loss += float(model.token_losses(batch).double().sum())
            tokens += int((batch.labels_BL != IGNORED).sum())
            done += len(batch)
            report(done, total)
    return loss / tokens, tokens
