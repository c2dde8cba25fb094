"""Generation speed in tokens per second at t5-base size, compared with stock Hugging Face.

    python benchmarks/generation.py [--batch-size 16] [--tokens 19] [--rounds 3] [--json OUT]

No answer ends early, so that every row does the same work. Compared in turns within one run:

* a ladder with distinct questions, and with one prompt for all examples, as for captions;
* stock Hugging Face `generate` of the same T5 on the same text, without image and side network.

The reference implementation took 5.56 s for beam 5 and 2.46 s for greedy search at these shapes
(304 tokens) on another machine with two cores: 55 and 124 tokens per second.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import T5ForConditionalGeneration

from eval.outputs import write_json
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.random_weights import backbone_config, random_backbone
from vl_lst.generation.search import generate
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig
from vl_lst.models.vision_language_model import VisionLanguageModel
from vl_lst.profiling.workload import Workload
from vl_lst.recipes.building import attach_method

VOCABULARY = 32_200
REFERENCE_TOKENS_PER_SECOND = {5: 304 / 5.56, 1: 304 / 2.46}


def never_ending(t5: T5ForConditionalGeneration) -> T5ForConditionalGeneration:
    """Return the model with an end-of-sequence token that is never chosen."""
    eos = t5.config.eos_token_id
    with torch.no_grad():
        t5.get_output_embeddings().weight[eos] = 0.0
    return t5


def searches(
    model: VisionLanguageModel[Any], t5: T5ForConditionalGeneration, batch: Batch, tokens: int
) -> dict[str, Callable[[int], int]]:
    """Return the timed functions: each generates with N beams and returns the token count."""
    rows = len(batch)
    same = replace(
        batch,
        prompt_ids_UT=batch.prompt_ids_UT[:1],
        prompt_index_B=torch.zeros(rows, dtype=torch.long),
    )

    def ladder(given: Batch) -> Callable[[int], int]:
        return lambda beams: generate(model, given, max_length=tokens + 1, beams=beams)[
            :, 1:
        ].numel()

    def stock(beams: int) -> int:
        stock_t5: Any = t5
        found = stock_t5.generate(
            batch.prompt_ids_UT,
            num_beams=beams,
            do_sample=False,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
        )
        return int(found[:, 1:].numel())

    return {
        "ladder": ladder(batch),
        "ladder, one prompt": ladder(same),
        "stock T5, text alone": stock,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=19, help="tokens per answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    workload = Workload(batch_size=arguments.batch_size)
    t5 = never_ending(random_backbone(*backbone_config("t5-base", vocabulary=VOCABULARY)).model)
    model, _ = attach_method(
        "lst",
        {"reduction": 4},
        FrozenBackbone(t5),
        visual=workload.visual(),
        heads={"task": HeadConfig(kind="generate")},
        precision="fp32",
    )
    model.eval()
    results: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        named = searches(model, t5, workload.batch(VOCABULARY), arguments.tokens)
        for beams in (5, 1):
            rates: dict[str, list[float]] = {name: [] for name in named}
            for _ in range(arguments.rounds):
                for name, search in named.items():
                    started = time.perf_counter()
                    count = search(beams)
                    rates[name].append(count / (time.perf_counter() - started))
            results[f"beam {beams}" if beams > 1 else "greedy"] = {
                name: median(each) for name, each in rates.items()
            }
    for search_name, rates_of in results.items():
        baseline = rates_of["stock T5, text alone"]
        for name, rate in rates_of.items():
            print(f"{search_name:8}{name:24}{rate:>9.1f} tokens/s{rate / baseline:>8.0%} of stock")
    for beams, rate in REFERENCE_TOKENS_PER_SECOND.items():
        print(f"reference implementation, beam {beams}, another machine: {rate:.0f} tokens/s")
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
