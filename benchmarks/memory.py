"""Bytes saved for backward and time of a training step, at the size of t5-base.

    python benchmarks/memory.py [--batch-size 16] [--steps 5] [--json OUT]

The shapes are those at which the reference implementation was measured: 49 features of width 2048
max-pooled to 36, 15 text tokens, 4 answer tokens, random weights, dropout on. The byte counts are
exact on any machine; of the times only the ratios within one run mean something. What is compared:

* the reference implementation's ladder, whose bytes were counted once and stand below;
* the ladder here, with side blocks recomputed in the backward pass (the default) and kept;
* full fine-tuning of the stock Hugging Face model with the image tokens in its encoder's input.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from eval.files import write_json
from vl_lst.models.backbone import FrozenBackbone
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig, LadderConfig, VisualConfig
from vl_lst.models.ladder import LadderModel
from vl_lst.profiling.memory import bytes_saved_for_backward

REFERENCE_BYTES_AT_BATCH_16 = 330.6 * 2**20
T5_BASE = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
VOCABULARY, TEXT_TOKENS, ANSWER_TOKENS, GRID_TOKENS, CHANNELS = 32_200, 15, 4, 49, 2048


def t5_base() -> T5ForConditionalGeneration:
    """A randomly initialised model of t5-base's size."""
    config = T5Config(**T5_BASE, vocab_size=VOCABULARY, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config)


def random_batch(size: int) -> Batch:
    """Random inputs without padding, no prompt twice."""
    torch.manual_seed(0)
    rows = torch.arange(size)
    return Batch(
        features_BINF=torch.randn(size, 1, GRID_TOKENS, CHANNELS),
        prompt_ids_UT=torch.randint(2, VOCABULARY, (size, TEXT_TOKENS)),
        prompt_index_B=rows,
        labels_BL=torch.randint(2, VOCABULARY, (size, ANSWER_TOKENS)),
        pair_rows_P=rows,
        pair_index_B=rows,
        weights_B=torch.ones(size),
    )


class FullFineTuning(nn.Module):
    """The stock model, all of it training, image tokens behind the text in its encoder."""

    def __init__(self, t5: T5ForConditionalGeneration, ladder: LadderModel) -> None:
        super().__init__()
        self.t5 = t5.requires_grad_(True)
        self.visual = ladder.visual

    def forward(self, batch: Batch) -> Tensor:
        """Mean cross-entropy of the answers."""
        text = self.t5.get_input_embeddings()(batch.prompt_ids_UT)
        inputs = torch.cat((text, self.visual(batch.features_BINF)), 1)
        loss: Tensor = self.t5(inputs_embeds=inputs, labels=batch.labels_BL).loss
        return loss


def ladder(t5: T5ForConditionalGeneration, *, recompute: bool) -> LadderModel:
    """A ladder with the paper's reduction of 4; only what trains requires grad."""
    model = LadderModel(
        FrozenBackbone(t5),
        visual=VisualConfig(channels=CHANNELS, tokens=GRID_TOKENS),
        ladder=LadderConfig(reduction=4, recompute=recompute),
        head=HeadConfig(kind="generate"),
    )
    return model.train()


def seconds_per_step(model: nn.Module, loss: Callable[[], Tensor], steps: int) -> float:
    """Median of forward, backward and AdamW together, after one step of warm-up."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def measure(model: nn.Module, batch: Batch, steps: int) -> dict[str, Any]:
    """Bytes by part, trainable parameters and seconds of one model."""
    parts = {"visual embedding": model.visual}
    if isinstance(model, LadderModel):
        side = model.side
        parts |= {
            "backbone": model.backbone.model,
            "side encoder": side.encoder,
            "side decoder": side.decoder,
            "encoder rungs": side.encoder.rungs,
            "decoder rungs": side.decoder.rungs,
        }
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "saved_bytes": bytes_saved_for_backward(model, lambda: model(batch), parts),
        "seconds": seconds_per_step(model, lambda: model(batch), steps),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    batch = random_batch(arguments.batch_size)
    t5 = t5_base()
    results: dict[str, Any] = {}
    for name, recompute in (("ladder, recomputed", True), ("ladder, kept", False)):
        results[name] = measure(ladder(t5, recompute=recompute), batch, arguments.steps)
    full = FullFineTuning(t5.train(), ladder(t5, recompute=False)).train()
    full.t5.requires_grad_(True)
    results["full fine-tuning"] = measure(full, batch, arguments.steps)

    rival = results["full fine-tuning"]
    print(
        f"{'':22}{'trainable':>13}{'saved MiB':>11}{'of full':>9}"
        f"{'of reference':>14}{'time of full':>14}"
    )
    for name, result in results.items():
        saved = result["saved_bytes"]["total"]
        reference = REFERENCE_BYTES_AT_BATCH_16 * arguments.batch_size / 16
        print(
            f"{name:22}{result['trainable']:>13,}{saved / 2**20:>11.1f}"
            f"{saved / rival['saved_bytes']['total']:>9.1%}{saved / reference:>14.1%}"
            f"{result['seconds'] / rival['seconds']:>14.1%}"
        )
    for part, saved in results["ladder, recomputed"]["saved_bytes"].items():
        print(f"  {part:24}{saved / 2**20:>10.2f} MiB")
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
