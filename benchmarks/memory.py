"""Memory and time of a training step at t5-base size, with and without gradient checkpointing.

    python benchmarks/memory.py [--batch-size 16] [--steps 6] [--json OUT]

Uses the shapes at which the reference implementation was measured: 49 features of width 2048,
max-pooled to 36, 15 text tokens, 4 answer tokens, random weights, dropout as in each recipe. Byte
counts are exact on any machine; of the times, only ratios within one run are meaningful. Compares:

* this package's ladder, full fine-tuning, LoRA, QLoRA and Quantized Side Tuning with the settings
  of their recipes, each keeping everything and recomputing blocks in the backward pass;
* the reference implementation's ladder, whose bytes were counted once and are recorded below;
* the bytes of full fine-tuning of the stock Hugging Face model with image tokens in its encoder's
  input, and with its own gradient checkpointing.

`vl-lst profile` compares all methods of this package, at any size.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from _step_rows import VOCABULARY
from _stock_model import StockFineTuning

from eval.outputs import write_json
from vl_lst.backbones.random_weights import backbone_config, random_backbone
from vl_lst.cli._compared_methods import read_compared_methods
from vl_lst.profiling.measure import MethodProfile, ProfileSettings, profile_methods
from vl_lst.profiling.report import profile_document
from vl_lst.profiling.workload import Workload
from vl_lst.training.saved_bytes import TOTAL, saved_bytes_by_part

REFERENCE_BYTES_AT_BATCH_16 = 330.6 * 2**20
BACKBONE = "t5-base"
METHODS = ("lst", "full", "lora", "qlora", "qst")
BASELINE = "full"


def name_of(profile: MethodProfile) -> str:
    """Return the name of a row."""
    checkpointing = " + checkpointing" if profile.recomputes else ""
    return f"{profile.method} ({profile.backbone_precision}){checkpointing}"


def row(profile: MethodProfile, baseline: MethodProfile) -> dict[str, Any]:
    """Return the numbers of a row, bytes in MiB."""
    saved = profile.saved_bytes[TOTAL]
    sizes = {
        "weights": profile.parameter_bytes,
        "gradients": profile.gradient_bytes,
        "Adam": profile.optimizer_bytes,
        "saved": saved,
        "sum": profile.training_bytes,
    }
    row = {"trainable": f"{profile.trainable:,}"}
    row |= {name: f"{size / 2**20:.1f}" for name, size in sizes.items()}
    row["saved of full"] = f"{saved / baseline.saved_bytes[TOTAL]:.1%}"
    row["sum of full"] = f"{profile.training_bytes / baseline.training_bytes:.1%}"
    if profile.seconds and baseline.seconds:
        row["time of full"] = f"{profile.seconds.step / baseline.seconds.step:.0%}"
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--json", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    workload = Workload(batch_size=arguments.batch_size)
    settings = ProfileSettings(
        backbone=BACKBONE,
        random_weights=True,
        vocabulary=VOCABULARY,
        workload=workload,
        steps=arguments.steps,
    )
    compared = read_compared_methods(
        ",".join(METHODS), {}, [], source=None, backbone=BACKBONE, recompute="both"
    )
    profiles = profile_methods(compared, settings)
    baseline = next(each for each in profiles if each.method == BASELINE and not each.recomputes)
    rows = {name_of(profile): row(profile, baseline) for profile in profiles}
    columns = list(next(iter(rows.values())))
    print(f"{'MiB':28}" + "".join(f"{column:>14}" for column in columns))
    for name, numbers in rows.items():
        print(f"{name:28}" + "".join(f"{numbers[column]:>14}" for column in columns))
    torch.manual_seed(0)
    batch, visual = workload.batch(VOCABULARY), workload.visual()
    assert visual is not None, "the measured batch has images"
    stock = {}
    for checkpointing in (False, True):
        backbone = random_backbone(*backbone_config(BACKBONE, vocabulary=VOCABULARY))
        model = StockFineTuning(backbone, visual, checkpointing=checkpointing).train()
        saved = saved_bytes_by_part(model, batch, "examples")[TOTAL]
        name = "stock model, fully trained" + (" + checkpointing" if checkpointing else "")
        stock[name] = saved
        print(f"{name}: {saved / 2**20:.1f} MiB saved")
    reference = REFERENCE_BYTES_AT_BATCH_16 * arguments.batch_size / 16
    print(f"ladder of the reference implementation: {reference / 2**20:.1f} MiB saved")
    if arguments.json:
        write_json(
            arguments.json,
            {**profile_document(profiles, settings), "rows": rows, "stock": stock},
        )


if __name__ == "__main__":
    main()
