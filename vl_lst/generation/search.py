"""Greedy and beam search with cached keys and values.

B examples, b unfinished examples, K beams, L tokens.
"""

from typing import Any

import torch
from torch import Tensor

from vl_lst.backbones.backbone import Backbone
from vl_lst.checks import require_integer
from vl_lst.errors import ModelError
from vl_lst.generation.answer_tree import AnswerTree
from vl_lst.generation.finished_rows import FinishedRows
from vl_lst.models.batch import Batch
from vl_lst.models.vision_language_model import VisionLanguageModel

__all__ = ["beam_search", "generate", "greedy_search"]


@torch.no_grad()
def generate(
    model: VisionLanguageModel[Any],
    batch: Batch,
    *,
    max_length: int,
    beams: int = 1,
    answers: AnswerTree | None = None,
) -> Tensor:
    """Generate answers.

    Args:
        model: Model in evaluation mode.
        batch: Examples; labels are ignored.
        max_length: Maximum number of tokens, including the start token.
        beams: Number of beams; 1 means greedy search.
        answers: Allowed answers, none longer than `max_length`; `None` allows any.

    Returns:
        Token ids [B, L], which start with the start token and are padded after end-of-sequence.

    Raises:
        ModelError: An argument has the wrong type or value.
    """
    if not isinstance(model, VisionLanguageModel):
        raise ModelError(
            f"the model to generate with is a {type(model).__name__}: expected a model of this "
            "package, such as LadderModel"
        )
    require_integer("max_length", max_length, minimum=1)
    require_integer("beams", beams, minimum=1)
    if answers is not None and not isinstance(answers, AnswerTree):
        raise ModelError(f"answers is a {type(answers).__name__}: expected an AnswerTree")
    if beams == 1:
        return greedy_search(model, batch, max_length=max_length, answers=answers)
    return beam_search(model, batch, max_length=max_length, beams=beams, answers=answers)[0]


class _AnswerConstraint:
    """Node of each row in the answer tree.

    Without a tree, the backbone may force the first and the last token, and allows any other.
    """

    def __init__(
        self, answers: AnswerTree | None, rows: int, backbone: Backbone, max_length: int
    ) -> None:
        self._answers = answers
        self._nodes = torch.zeros(0) if answers is None else answers.start(rows)
        self._length = 1
        # Forced tokens by the number of tokens before them.
        self._forced = {1: backbone.forced_bos_token_id}
        if backbone.forced_eos_token_id is not None:
            self._forced[max_length - 1] = backbone.forced_eos_token_id

    def mask_scores(self, scores: Tensor) -> Tensor:
        if self._answers is not None:
            return self._answers.mask_scores(scores, self._nodes)
        forced = self._forced.get(self._length)
        if forced is None:
            return scores
        certain = torch.full_like(scores, -torch.inf)
        certain[:, forced] = 0
        return certain

    def follow(self, tokens: Tensor) -> None:
        self._length += 1
        if self._answers is not None:
            self._nodes = self._answers.follow(self._nodes, tokens)

    def select(self, rows: Tensor) -> None:
        if self._answers is not None:
            self._nodes = self._nodes[rows]


@torch.no_grad()
def greedy_search(
    model: VisionLanguageModel[Any],
    batch: Batch,
    *,
    max_length: int,
    answers: AnswerTree | None = None,
) -> Tensor:
    """Return ids [B, L] of the most likely token at each step; finished examples are dropped."""
    backbone = model.backbone
    device = batch.prompt_index_B.device
    encoded = model.encode(batch)
    ids_BL = torch.full((len(batch), max_length), backbone.pad_token_id, device=device)
    ids_BL[:, 0] = backbone.start_token_id
    tokens_b = ids_BL[:, 0]
    ends = torch.tensor(backbone.end_token_ids, device=device)
    open_rows = torch.arange(len(batch), device=device)
    is_finished_b = torch.zeros_like(open_rows, dtype=torch.bool)
    finished = FinishedRows(device)
    constraint = _AnswerConstraint(answers, len(batch), backbone, max_length)
    with backbone.decoding():
        state = model.start_decoding(encoded, max_length)
        for position in range(1, max_length):
            tokens_b = constraint.mask_scores(state.next_logits(tokens_b)).argmax(-1)
            tokens_b = tokens_b.masked_fill(is_finished_b, backbone.pad_token_id)
            ids_BL[open_rows, position] = tokens_b
            constraint.follow(tokens_b)
            is_finished_b = is_finished_b | torch.isin(tokens_b, ends)
            unfinished = finished.unfinished(is_finished_b)
            if unfinished is None:
                continue
            if len(unfinished) == 0:
                return ids_BL[:, : position + 1 - finished.delay]
            open_rows, tokens_b = open_rows[unfinished], tokens_b[unfinished]
            is_finished_b = is_finished_b[unfinished]
            state.select(unfinished)
            constraint.select(unfinished)
    return ids_BL


class _Hypotheses:
    """K best finished answers of each example."""

    def __init__(
        self, rows: int, beams: int, max_length: int, pad: int, device: torch.device
    ) -> None:
        self.scores_BK = torch.full((rows, beams), -torch.inf, device=device)
        self.ids_BKL = torch.full((rows, beams, max_length), pad, device=device)
        self.lengths_BK = torch.zeros(rows, beams, dtype=torch.long, device=device)

    def add(self, rows: Tensor, scores_bK: Tensor, ids_bKL: Tensor, length: int) -> None:
        """Add answers of `length` tokens to these examples if they are better; -inf adds none."""
        scores = torch.cat((self.scores_BK[rows], scores_bK), 1)
        ids = torch.cat((self.ids_BKL[rows], ids_bKL), 1)
        lengths = torch.cat(
            (self.lengths_BK[rows], torch.full_like(self.lengths_BK[rows], length)), 1
        )
        best, index = scores.topk(scores_bK.shape[1], dim=1)
        self.scores_BK[rows] = best
        self.ids_BKL[rows] = ids.gather(1, index[:, :, None].expand_as(ids_bKL))
        self.lengths_BK[rows] = lengths.gather(1, index)


@torch.no_grad()
def beam_search(
    model: VisionLanguageModel[Any],
    batch: Batch,
    *,
    max_length: int,
    beams: int,
    answers: AnswerTree | None = None,
) -> tuple[Tensor, Tensor]:
    """Generate with beam search; return ids [B, L] and scores [B] of the best answers.

    Follows transformers 4.2.1, which produced the published numbers. Of the 2K best continuations,
    an end of sequence counts only among the first K. A score is the sum of log-probabilities
    divided by the number of tokens, counting the start token but not the end. An example is
    finished when no open beam can beat its K finished answers; finished examples are dropped.
    Whichever token ends an answer, the answer is returned with end-of-sequence.
    """
    rows = len(batch)
    backbone = model.backbone
    device = batch.prompt_index_B.device
    encoded = model.encode(batch)
    hypotheses = _Hypotheses(rows, beams, max_length, backbone.pad_token_id, device)
    constraint = _AnswerConstraint(answers, rows * beams, backbone, max_length)
    open_rows = torch.arange(rows, device=device)
    is_finished_b = torch.zeros(rows, dtype=torch.bool, device=device)
    finished = FinishedRows(device)
    ids_bKL = torch.full((rows, beams, max_length), backbone.pad_token_id, device=device)
    ids_bKL[:, :, 0] = backbone.start_token_id
    sums_bK = torch.zeros(rows, beams, device=device)
    sums_bK[:, 1:] = -1e9  # all beams start equal: only the first may be continued
    ends = torch.tensor(backbone.end_token_ids, device=device)
    length = 1
    with backbone.decoding():
        state = model.start_decoding(encoded, max_length)
        while length < max_length:
            # Score every continuation of every beam.
            if length == 1:  # of one beam, since all are equal
                logits = state.next_logits(ids_bKL[:, 0, 0]).repeat_interleave(beams, 0)
                state.branch(beams)
            else:
                logits = state.next_logits(ids_bKL[:, :, length - 1].flatten())
            vocabulary = logits.shape[-1]
            scores = constraint.mask_scores(logits.float().log_softmax(-1))
            candidates = scores.view(-1, beams, vocabulary).add_(sums_bK[:, :, None])
            best_b2K, index_b2K = candidates.flatten(1).topk(2 * beams, dim=1)
            beam_b2K, token_b2K = index_b2K // vocabulary, index_b2K % vocabulary
            ends_b2K = torch.isin(token_b2K, ends)

            # Store the answers that end here.
            may_end_b2K = ends_b2K & ~is_finished_b[:, None]
            ending_bK = torch.where(may_end_b2K, best_b2K / length, -torch.inf)[:, :beams]
            source = beam_b2K[:, :beams, None].expand(-1, -1, max_length)
            hypotheses.add(open_rows, ending_bK, ids_bKL.gather(1, source), length)

            # Continue the K best unfinished candidates; the stable sort keeps them best first.
            unfinished_bK = ends_b2K.int().sort(dim=1, stable=True).indices[:, :beams]
            sums_bK = best_b2K.gather(1, unfinished_bK)
            beam_bK = beam_b2K.gather(1, unfinished_bK)
            token_bK = token_b2K.gather(1, unfinished_bK)
            ids_bKL = ids_bKL.gather(1, beam_bK[:, :, None].expand(-1, -1, max_length))
            ids_bKL[:, :, length] = token_bK

            # Drop examples whose finished answers no beam can beat.
            worst_kept_b = hypotheses.scores_BK[open_rows].min(dim=1).values
            is_finished_b = is_finished_b | ~(worst_kept_b < best_b2K[:, 0] / length)
            length += 1
            kept_b = finished.unfinished(is_finished_b)
            if kept_b is not None:
                open_rows, is_finished_b = open_rows[kept_b], is_finished_b[kept_b]
                ids_bKL, sums_bK = ids_bKL[kept_b], sums_bK[kept_b]
                beam_bK, token_bK = beam_bK[kept_b], token_bK[kept_b]
                if len(kept_b) == 0:
                    break
            before_b = torch.arange(len(open_rows), device=device) if kept_b is None else kept_b
            rows_bK = (before_b[:, None] * beams + beam_bK).flatten()
            constraint.select(rows_bK)
            constraint.follow(token_bK.flatten())
            if kept_b is None:
                state.reorder(rows_bK)
            else:
                state.select(rows_bK)
    # Those that are cut off at the maximum length.
    cut_off_bK = (sums_bK / length).masked_fill(is_finished_b[:, None], -torch.inf)
    hypotheses.add(open_rows, cut_off_bK, ids_bKL, length)
    return _best(hypotheses, backbone.eos_token_id, max_length)


def _best(hypotheses: _Hypotheses, eos: int, max_length: int) -> tuple[Tensor, Tensor]:
    scores_B, index_B = hypotheses.scores_BK.max(dim=1)
    row_B = torch.arange(len(index_B), device=index_B.device)
    ids_BL = hypotheses.ids_BKL[row_B, index_B]
    lengths_B = hypotheses.lengths_BK[row_B, index_B]
    fits = lengths_B < max_length
    ids_BL[row_B[fits], lengths_B[fits]] = eos
    longest = int(torch.clamp(lengths_B + 1, max=max_length).max())
    return ids_BL[:, :longest], scores_B
