"""Memory saved for backward and time of a training step at t5-base size.

    python benchmarks/memory.py [--batch-size 16] [--steps 6] [--json OUT]

Uses the shapes at which the reference implementation was measured: 49 features of width 2048,
max-pooled to 36, 15 text tokens, 4 answer tokens, random weights, dropout on. Byte counts are exact
on any machine; of the times, only ratios within one run are meaningful. Compares:

* the reference implementation's ladder, whose bytes were counted once and are recorded below;
* this package's ladder, with side blocks recomputed in the backward pass (the default) and kept;
* full fine-tuning of the stock Hugging Face model with image tokens in its encoder's input.

`vl-lst profile` compares the transfer methods of this package.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration

from eval.outputs import write_json
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.random_weights import backbone_config, random_backbone
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig
from vl_lst.models.visual import VisualEmbedding
from vl_lst.profiling.steps import StepSeconds, measure_steps
from vl_lst.profiling.workload import Workload
from vl_lst.recipes.building import attach_method
from vl_lst.recipes.schema import OptimizerSection
from vl_lst.training.saved_bytes import TOTAL, saved_bytes_by_part

REFERENCE_BYTES_AT_BATCH_16 = 330.6 * 2**20
# The reference's t5-base vocabulary has 100 more entries than the published one, plus padding.
VOCABULARY = 32_200
ROUNDS = 2


def t5_base() -> T5ForConditionalGeneration:
    """Return a randomly initialised model of t5-base's size."""
    backbone = random_backbone(*backbone_config("t5-base", vocabulary=VOCABULARY))
    model: T5ForConditionalGeneration = backbone.model
    return model


class FullFineTuning(nn.Module):
    """The stock model, fully trained, with image tokens after the text in its encoder."""

    device = torch.device("cpu")

    def __init__(self, t5: T5ForConditionalGeneration, workload: Workload) -> None:
        super().__init__()
        self.t5 = t5.requires_grad_(True)
        visual = workload.visual()
        assert visual is not None, "the batch has images"
        self.visual = VisualEmbedding(
            visual, width=t5.config.d_model, epsilon=t5.config.layer_norm_epsilon
        )

    def forward(self, batch: Batch, _loss_average: str) -> Tensor:
        """Return the mean cross-entropy of the answers."""
        text = self.t5.get_input_embeddings()(batch.prompt_ids_UT)
        inputs = torch.cat((text, self.visual(batch.features_BINF)), 1)
        loss: Tensor = self.t5(inputs_embeds=inputs, labels=batch.labels_BL).loss
        return loss


def ladder(t5: T5ForConditionalGeneration, workload: Workload, *, recompute: bool) -> nn.Module:
    """Return a ladder with the paper's reduction of 4, with all other parameters frozen."""
    model, _ = attach_method(
        "lst",
        {"reduction": 4, "recompute": recompute},
        FrozenBackbone(t5),
        visual=workload.visual(),
        heads={"task": HeadConfig(kind="generate")},
        precision="fp32",
    )
    return model


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--json", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    workload = Workload(batch_size=arguments.batch_size)
    batch = workload.batch(VOCABULARY)
    frozen = t5_base()
    models = {
        "ladder, recomputed": ladder(frozen, workload, recompute=True),
        "ladder, kept": ladder(frozen, workload, recompute=False),
        "full fine-tuning": FullFineTuning(t5_base(), workload),
    }
    results: dict[str, dict[str, Any]] = {}
    seconds: dict[str, list[StepSeconds]] = {name: [] for name in models}
    for turn in range(ROUNDS):
        for name, model in models.items():
            trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
            if turn == 0:
                results[name] = {
                    "trainable": sum(parameter.numel() for parameter in trainable.values()),
                    "saved_bytes": saved_bytes_by_part(model.train(), batch, "examples"),
                }
            measured = measure_steps(
                model,
                trainable,
                batch,
                precision="fp32",
                optimizer=OptimizerSection(lr=1e-4),
                steps=-(-arguments.steps // ROUNDS),
            )
            seconds[name] += measured.seconds
    for name, each in seconds.items():
        results[name]["seconds"] = StepSeconds.median(each).step

    baseline = results["full fine-tuning"]
    reference = REFERENCE_BYTES_AT_BATCH_16 * arguments.batch_size / 16
    print(
        f"{'':22}{'trainable':>13}{'saved MiB':>11}{'of full':>9}"
        f"{'of reference':>14}{'time of full':>14}"
    )
    for name, result in results.items():
        saved = result["saved_bytes"][TOTAL]
        print(
            f"{name:22}{result['trainable']:>13,}{saved / 2**20:>11.1f}"
            f"{saved / baseline['saved_bytes'][TOTAL]:>9.1%}{saved / reference:>14.1%}"
            f"{result['seconds'] / baseline['seconds']:>14.1%}"
        )
    for part, saved in results["ladder, recomputed"]["saved_bytes"].items():
        print(f"  {part:24}{saved / 2**20:>10.2f} MiB")
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
