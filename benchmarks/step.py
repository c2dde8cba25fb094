"""Seconds of a training step and of its parts, compared with stock Hugging Face in one run.

    python benchmarks/step.py [--batch-size 16] [--rounds 3] [--steps 2] [--rows NAMES]
        [--device auto] [--json OUT]

At t5-base size with random weights and the shapes at which the reference implementation was
measured: 49 features of width 2048, max-pooled to 36, 15 text tokens, 4 answer tokens, dropout 0.1.
In every round, each row is built, warmed up and trained for a few steps, so that other load on the
machine affects all rows. Figures are medians over all measured steps; of the times, only ratios
within one run are meaningful. The parts of a step:

    backbone   forward pass of the backbone's encoder and decoder
    forward    rest of the forward pass: side network, visual embedding, output layer and loss
    backward   backward pass; with recomputing, blocks run again in it
    optimizer  clipping of gradients, update, freeing of gradients

The first row is the stock model, fully trained in fp32; ratios relate to it. `bf16` rows of stock
models use autocast with fp32 weights, as is usual; a ladder's frozen backbone is kept in bf16.
`states` rows have the backbone's states at hand, as with `vl-lst train --states`; reading them from
the file is not part of the step.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _step_rows import VOCABULARY, Row, RowResult, StepBench, tiny_config, tiny_workload

from eval.outputs import write_json
from vl_lst.backbones.random_weights import backbone_config
from vl_lst.devices import choose_device, device_name
from vl_lst.profiling.workload import Workload

BACKBONE = "t5-base"
KEPT, RECOMPUTED = {"recompute": False}, {"recompute": True}
BF16: Mapping[str, Any] = {"precision": "bf16", "backbone_precision": "bf16"}
ROWS = (
    Row(name="stock full"),
    Row(name="stock full, bf16", precision="bf16"),
    Row(name="stock lora", stock="lora"),
    Row(name="full", method="full", options=KEPT),
    Row(name="lst", method="lst", options=KEPT),
    Row(name="lst, recomputed", method="lst", options=RECOMPUTED),
    Row(name="lst, states", method="lst", options=KEPT, states=True),
    Row(name="lst, bf16", method="lst", options=KEPT, **BF16),
    Row(name="lst, bf16, recomputed", method="lst", options=RECOMPUTED, **BF16),
    Row(name="lst, bf16, states", method="lst", options=KEPT, states=True, **BF16),
)


def measure(
    bench: StepBench, rows: Sequence[Row], *, rounds: int, steps: int
) -> dict[str, RowResult]:
    """Measure rows in turns."""
    results: dict[str, RowResult] = {}
    for _ in range(rounds):
        for row in rows:
            results[row.name] = bench.measure(row, steps, results.get(row.name))
    return results


def markdown(results: dict[str, RowResult]) -> str:
    """Return the table; ratios relate to the first row."""
    first = next(iter(results.values())).median()["step"]
    columns = ("step", "of the first", "backbone", "forward", "backward", "optimizer")
    lines = [
        f"| | {' | '.join(columns)} | saved, MiB |",
        "|---|" + "---|" * (len(columns) + 1),
    ]
    for name, result in results.items():
        parts = result.median()
        numbers = [f"{parts[each]:.3f}" for each in columns if each in parts]
        numbers.insert(1, f"{parts['step'] / first:.1%}")
        lines.append(f"| {name} | {' | '.join(numbers)} | {result.saved_bytes / 2**20:.1f} |")
    return "\n".join(lines)


def document(results: dict[str, RowResult]) -> dict[str, object]:
    """Return the measurements for a JSON file."""
    first = next(iter(results.values())).median()["step"]
    return {
        name: {
            "trainable": result.trainable,
            "model_bytes": result.model_bytes,
            "saved_bytes": result.saved_bytes,
            "peak_allocated": result.peak_allocated,
            "seconds": result.median(),
            "ratio": result.median()["step"] / first,
            "steps": len(result.seconds),
        }
        for name, result in results.items()
    }


def main() -> None:
    """Measure and print."""
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="measured steps per round")
    parser.add_argument(
        "--rows", metavar="NAMES", help=f"separated by semicolons, of: {'; '.join(names)}"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to test this program")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    chosen = [name.strip() for name in options.rows.split(";")] if options.rows else names
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"unknown rows {'; '.join(unknown)}: expected some of {'; '.join(names)}")
    device = choose_device(options.device)
    if options.tiny:
        bench = StepBench(*tiny_config(), tiny_workload(), device)
    else:
        workload = Workload(batch_size=options.batch_size)
        bench = StepBench(*backbone_config(BACKBONE, vocabulary=VOCABULARY), workload, device)
    rows = [row for row in ROWS if row.name in chosen]
    results = measure(bench, rows, rounds=options.rounds, steps=options.steps)
    print(f"seconds on {device_name(device)}, {torch.get_num_threads()} threads; medians")
    print(markdown(results))
    if options.json:
        write_json(
            options.json,
            {
                "device": device_name(device),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "batch_size": bench.workload.batch_size,
                "rows": document(results),
            },
        )


if __name__ == "__main__":
    main()
