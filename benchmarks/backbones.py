"""Memory, speed and error of backbones by size and precision.

    python benchmarks/backbones.py [--backbone t5-small] [--batch-size 8] [--steps 6] [--json OUT]

Prints three tables: estimated memory for training a ladder with each backbone, from T5-small to
Flan-T5-XL; time of a training step with random weights of `--backbone`'s size in each precision,
relative to fp32 in the same run; and the error of the bundled backbone's states in each precision.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.outputs import write_json
from vl_lst.backbones.loading import load_backbone
from vl_lst.backbones.published import PUBLISHED
from vl_lst.backbones.quantization import BackbonePrecision
from vl_lst.bundled import DEMO
from vl_lst.profiling.measure import ComparedMethod, ProfileSettings, profile_methods
from vl_lst.profiling.workload import Workload
from vl_lst.training.saved_bytes import TOTAL

PRECISIONS: tuple[BackbonePrecision, ...] = ("fp32", "bf16", "int8", "nf4")
LADDER = ComparedMethod("lst")
# Measured in turns, so that other load on the machine affects every precision.
TURNS = 2
PROMPTS, TOKENS = 64, 15


def estimated_bytes(workload: Workload) -> dict[str, dict[str, int]]:
    """Return estimated bytes of each backbone with its ladder, in each precision."""
    rows = {}
    for name in PUBLISHED:
        row: dict[str, int] = {}
        for precision in PRECISIONS:
            settings = ProfileSettings(
                backbone=name, backbone_precision=precision, workload=workload, estimate=True
            )
            (profile,) = profile_methods([LADDER], settings)
            row[precision] = profile.training_bytes
        row["trainable"], row["saved"] = profile.trainable, profile.saved_bytes[TOTAL]
        rows[name] = row
    return rows


def step_seconds(backbone: str, workload: Workload, steps: int) -> dict[str, float]:
    """Return median seconds of a ladder's training step per precision, the better of two runs."""
    seconds: dict[str, float] = {}
    for precision in PRECISIONS * TURNS:
        settings = ProfileSettings(
            backbone=backbone,
            random_weights=True,
            backbone_precision=precision,
            workload=workload,
            steps=steps,
        )
        (profile,) = profile_methods([LADDER], settings)
        assert profile.seconds is not None
        seconds[precision] = min(profile.seconds.step, seconds.get(precision, math.inf))
    return seconds


def state_errors() -> dict[str, float]:
    """Return the relative error of the bundled backbone's encoder output, compared with fp32."""
    torch.manual_seed(0)
    outputs: dict[str, Tensor] = {}
    for precision in PRECISIONS:
        backbone = load_backbone(DEMO, precision=precision).backbone
        generator = torch.Generator().manual_seed(0)
        ids_UT = torch.randint(
            3, backbone.config.vocab_size, (PROMPTS, TOKENS), generator=generator
        )
        outputs[precision] = backbone.encode(ids_UT, [0]).final_UTD.float()
    exact = outputs["fp32"]
    return {name: float((out - exact).norm() / exact.norm()) for name, out in outputs.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="t5-small")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--json", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    workload = Workload(batch_size=arguments.batch_size)
    results: dict[str, Any] = {"estimated_bytes": estimated_bytes(workload)}
    print(f"GiB to train a ladder, batch {workload.batch_size} (estimated)")
    print(f"{'':24}" + "".join(f"{precision:>8}" for precision in PRECISIONS))
    for name, row in results["estimated_bytes"].items():
        print(f"{name:24}" + "".join(f"{row[p] / 2**30:>8.2f}" for p in PRECISIONS))
    results["seconds"] = step_seconds(arguments.backbone, workload, arguments.steps)
    results["state_errors"] = state_errors()
    print(f"\n{'':24}" + "".join(f"{precision:>8}" for precision in PRECISIONS))
    exact = results["seconds"]["fp32"]
    ratios = "".join(f"{results['seconds'][p] / exact:>8.2f}" for p in PRECISIONS)
    print(f"{'time per step':24}{ratios}   relative to fp32, {arguments.backbone}")
    errors = "".join(f"{results['state_errors'][p]:>8.4f}" for p in PRECISIONS)
    print(f"{'error of states':24}{errors}   relative, {DEMO}")
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
