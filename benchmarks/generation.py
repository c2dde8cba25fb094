"""Generation speed at t5-base size, compared with stock Hugging Face.

    python benchmarks/generation.py [--batch-size 16] [--tokens 19] [--rounds 3] [--json OUT]

Compared in turns within one run, in float32 and in bfloat16:

* a ladder with distinct questions, and with one prompt for all examples, as for captions;
* stock Hugging Face `generate` of the same T5 on the same text, without image and side network.

Long answers all have as many tokens as `--tokens` says, so that every row does the same work. Short
ones end after two to five tokens, as in VQA: each model has tokens of its own that end an answer,
those at these places of its long answers.

The reference implementation took 5.56 s for beam 5 and 2.46 s for greedy search of long answers at
these shapes (304 tokens) on another machine with two cores: 55 and 124 tokens per second.
"""

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _step_rows import VOCABULARY
from torch import Tensor
from transformers import T5ForConditionalGeneration

from eval.outputs import write_json
from vl_lst.backbones.family import Family
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.random_weights import backbone_config, random_backbone
from vl_lst.choices import ArithmeticPrecision
from vl_lst.devices import inference_autocast
from vl_lst.generation.search import generate
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig
from vl_lst.models.vision_language_model import VisionLanguageModel
from vl_lst.profiling.workload import Workload
from vl_lst.recipes.building import attach_method

REFERENCE_TOKENS_PER_SECOND = {5: 304 / 5.56, 1: 304 / 2.46}
STOCK = "stock T5, text alone"
LADDERS = ("ladder", "ladder, one prompt")
PRECISIONS: tuple[ArithmeticPrecision, ...] = ("fp32", "bf16")
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One way to answer a batch.

    Args:
        answer: Function of the number of beams that returns the ids [B, L] of the answers, with
            the start token.
        context: Function that returns the context to call it in.
        device: Device that computes.
    """

    answer: Callable[[int], Tensor]
    context: Callable[[], AbstractContextManager[None]]
    device: torch.device

    def seconds(self, beams: int) -> float:
        """Return the time of one call."""
        with self.context(), torch.no_grad():
            started = self._now()
            self.answer(beams)
            return self._now() - started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def searches(
    model: VisionLanguageModel[Any],
    t5: T5ForConditionalGeneration,
    batch: Batch,
    tokens: int,
    precision: ArithmeticPrecision,
) -> dict[str, Search]:
    """Return the searches to compare, by name."""
    device = batch.prompt_index_B.device
    same = replace(
        batch,
        prompt_ids_UT=batch.prompt_ids_UT[:1],
        prompt_index_B=torch.zeros_like(batch.prompt_index_B),
    )

    def ladder(given: Batch) -> Search:
        return Search(
            answer=lambda beams: generate(model, given, max_length=tokens + 1, beams=beams),
            context=lambda: inference_autocast(model, precision, device),
            device=device,
        )

    def stock(beams: int) -> Tensor:
        stock_t5: Any = t5
        ids_BL: Tensor = stock_t5.generate(
            batch.prompt_ids_UT,
            attention_mask=torch.ones_like(batch.prompt_ids_UT),
            num_beams=beams,
            do_sample=False,
            max_new_tokens=tokens,
        )
        return ids_BL

    given = dict(zip(LADDERS, map(ladder, (batch, same)), strict=True))
    return {**given, STOCK: Search(answer=stock, context=nullcontext, device=device)}


def set_ends(t5: T5ForConditionalGeneration, ids: Sequence[int]) -> None:
    """Let these tokens end an answer, of the ladder and of the stock model."""
    t5.config.eos_token_id = list(ids)
    settings: Any = t5.generation_config
    settings.eos_token_id = list(ids)


def ends_of_short_answers(search: Search) -> list[int]:
    """Return tokens that end the answers of a greedy search after two to five tokens, or before."""
    with search.context(), torch.no_grad():
        ids_BL = search.answer(1)
    return sorted({int(ids[2 + row % 4]) for row, ids in enumerate(ids_BL)})


def measure(
    config: tuple[Any, Family],
    workload: Workload,
    precision: ArithmeticPrecision,
    *,
    tokens: int,
    rounds: int,
    device: torch.device = CPU,
) -> dict[str, dict[str, float]]:
    """Return the tokens per second of long answers, and the short answers per second.

    Args:
        config: Configuration of the backbone, and its family.
        workload: Shapes of the batch.
        precision: Precision of the arithmetic and of the backbone.
        tokens: Tokens per long answer, at least 5.
        rounds: Number of times that each search is timed.
        device: Device to measure on.
    """
    torch.manual_seed(0)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    own = copy.deepcopy(config[0])  # is changed below
    t5 = random_backbone(own, config[1], dtype=dtype).model
    model, _ = attach_method(
        "lst",
        {"reduction": 4},
        FrozenBackbone(t5),
        visual=workload.visual(),
        heads={"task": HeadConfig(kind="generate")},
        precision=precision,
    )
    model.eval().to(device)
    # With weights of zero, the token is never chosen.
    never = [int(t5.config.eos_token_id)]
    with torch.no_grad():
        t5.get_output_embeddings().weight[never] = 0.0
    set_ends(t5, never)
    batch = workload.batch(t5.config.vocab_size).to(device)
    named = searches(model, t5, batch, tokens, precision)
    ends = {name: ends_of_short_answers(search) for name, search in named.items()}
    results: dict[str, dict[str, float]] = {}
    for kind, count in (
        ("long", workload.batch_size * tokens),
        ("short", workload.batch_size),
    ):
        for beams in (5, 1):
            rates: dict[str, list[float]] = {name: [] for name in named}
            for _ in range(rounds):
                for name, search in named.items():
                    set_ends(t5, never if kind == "long" else ends[name])
                    rates[name].append(count / search.seconds(beams))
            title = f"{kind}, beam {beams}" if beams > 1 else f"{kind}, greedy"
            results[title] = {name: median(each) for name, each in rates.items()}
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=19, help="tokens per long answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    config = backbone_config("t5-base", vocabulary=VOCABULARY)
    workload = Workload(batch_size=arguments.batch_size)
    results = {
        precision: measure(
            config, workload, precision, tokens=arguments.tokens, rounds=arguments.rounds
        )
        for precision in PRECISIONS
    }
    for precision, by_search in results.items():
        for search, rates in by_search.items():
            unit = "tokens/s" if search.startswith("long") else "answers/s"
            for name, rate in rates.items():
                share = rate / rates[STOCK]
                print(
                    f"{precision:5}{search:15}{name:22}{rate:>8.1f} {unit:9}{share:>6.0%} of stock"
                )
    for beams, rate in REFERENCE_TOKENS_PER_SECOND.items():
        print(f"reference implementation, beam {beams}, another machine: {rate:.0f} tokens/s")
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
