"""Check and measure everything on a CUDA device, in a few minutes; prints a table, writes a JSON.

    python benchmarks/gpu.py [--minutes 8] [--parts NAMES] [--device cuda] [--json gpu.json]

Run it in a checkout; the package need not be installed. The parts:

    tests       the tests that are marked `gpu` (needs pytest)
    parity      numbers recorded from the reference implementation, in fp32 and in bf16
    steps       memory and time of a training step at t5-base size, with batches of 16 and 300
    large       the same of a ladder next to T5-3B, in bf16 and nf4
    generation  greedy and beam search, tokens per second
    extraction  the whole pipeline against the image encoder alone, on generated photographs
    compile     training steps with and without `training.compile`

Weights are random and nothing is downloaded. A failure is a line of the table and does not end the
program; lack of memory is a result. Each part has a share of the time, and what a part does not use
is left to the next ones; what does not fit is skipped. The exit code is 1 if anything failed.

`--tiny` takes tiny sizes, with which `--device cpu` runs the same code in seconds, to test it.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from _entries import Entries
from _gpu_parts import PARTS, Setting

from eval.outputs import write_json
from vl_lst.devices import choose_device, device_name

# Weights of the parts' shares of the time.
SHARES: Mapping[str, float] = {
    "tests": 5,
    "parity": 2,
    "steps": 4,
    "large": 2,
    "generation": 1,
    "extraction": 1.5,
    "compile": 2,
}


def environment(device: torch.device) -> dict[str, object]:
    """Return what the numbers depend on."""
    found: dict[str, object] = {"device": device_name(device), "torch": torch.__version__}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["capability"] = f"{properties.major}.{properties.minor}"
        found["memory_bytes"] = properties.total_memory
        found["cuda"] = torch.version.cuda
    return found


def main() -> int:
    """Run the parts; return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all parts")
    parser.add_argument("--parts", help=f"comma-separated, of: {', '.join(PARTS)}")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to test this program")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), metavar="OUT")
    options = parser.parse_args()
    chosen = options.parts.split(",") if options.parts else list(PARTS)
    if unknown := sorted(set(chosen) - set(PARTS)):
        parser.error(f"unknown parts {', '.join(unknown)}: expected some of {', '.join(PARTS)}")
    if options.device == "cpu" and not options.tiny:
        parser.error("--device cpu needs --tiny: the real sizes would take hours")
    device = choose_device(options.device)
    found = environment(device)
    print(", ".join(f"{name} {value}" for name, value in found.items()), end="\n\n")
    started = time.monotonic()
    entries = Entries(device)
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(device=device, tiny=options.tiny, folder=Path(folder))
        left = [part for part in PARTS if part in chosen]
        while left:
            now = time.monotonic() - started
            share = SHARES[left[0]] / sum(SHARES[part] for part in left)
            part = left.pop(0)
            entries.run(
                part,
                partial(PARTS[part], setting, entries),
                seconds=max(0.0, 60 * options.minutes - now) * share,
            )
            # After each part, so that an interrupted program leaves what it has found.
            seconds = time.monotonic() - started
            write_json(options.json, {**found, "seconds": seconds, "entries": entries.document()})
    print(f"\n{seconds:.0f} s; written to {options.json}")
    return int(entries.failed)


if __name__ == "__main__":
    raise SystemExit(main())
