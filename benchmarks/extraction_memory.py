"""Peak resident memory of extracting 1,000 and 100,000 images.

Each count of generated thumbnails is extracted in a fresh process, with a tiny encoder and decoding
processes. Prints the sum of peak resident memory (VmHWM, Linux) of the process and its decoding
processes; shared memory counts in each. The difference between the counts, given per image, is the
memory for names, sizes and the table of the finished file.

    python benchmarks/extraction_memory.py [--counts 1000 100000] [--workers 2] [--batch-size 64]
        [--json FILE]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from eval.outputs import write_json
from feature_extraction.encoders.encoder import Encoder, build_encoder
from feature_extraction.extract import extract

THUMBNAILS = 16
SIDE = 32
TINY_TOWER = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": SIDE, "patch_size": SIDE, "layers": 1, "width": 16, "head_width": 16
    },
}  # fmt: skip


def main() -> None:
    """Print the peak for each number of images, and the growth per image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs=2, default=[1000, 100_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="where to write; default: temporary files")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.folder, options.workers, options.batch_size)))
        return
    peaks = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for count in options.counts:
            folder = Path(name) / str(count)
            generate(folder, count)
            peaks[count] = in_fresh_process(folder, count, options.workers, options.batch_size)
            parts = ", ".join(f"{part} {size / 2**20:.1f}" for part, size in peaks[count].items())
            print(f"{count:9,} images  {sum(peaks[count].values()) / 2**20:8.1f} MiB ({parts})")
    few, many = (sum(peaks[count].values()) for count in options.counts)
    per_image = (many - few) / (options.counts[1] - options.counts[0])
    print(f"difference {(many - few) / 2**20:.1f} MiB, {per_image:.0f} bytes per image")
    if options.json:
        write_json(options.json, {"peak_bytes": peaks, "bytes_per_image": per_image})


def generate(folder: Path, count: int) -> None:
    """Write a few thumbnails and link them under as many names as images are needed."""
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    originals = [folder / f"{number}.jpg" for number in range(THUMBNAILS)]
    for path in originals:
        Image.fromarray(generator.integers(0, 256, (24, 32, 3), np.uint8)).save(path)
    for number in range(count):
        name = f"COCO_train2014_{number:012}.jpg"
        os.link(originals[number % THUMBNAILS], folder / "images" / name)


def in_fresh_process(folder: Path, count: int, workers: int, batch_size: int) -> dict[str, int]:
    """Extract in a fresh process; return its peaks in bytes."""
    command = [sys.executable, __file__, "--measure", str(count), "--folder", str(folder)]
    command += ["--workers", str(workers), "--batch-size", str(batch_size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def measure(folder: Path, workers: int, batch_size: int) -> dict[str, int]:
    """Extract a folder; return the peaks of this process and of its decoding processes."""
    # One thread: stacks and arenas of more would add noise.
    torch.set_num_threads(1)
    encoder = tiny_encoder(folder)
    peaks = {"extraction": 0, "decoding": 0}

    def look(done: int, total: int, note: str = "") -> None:
        if done == total:
            peaks["decoding"] = sum(map(peak_bytes, children()))

    extract(
        folder / "images", folder / "features.h5", encoder,
        batch_size=batch_size, workers=workers, on_progress=look,
    )  # fmt: skip
    peaks["extraction"] = peak_bytes(os.getpid())
    return peaks


def tiny_encoder(folder: Path) -> Encoder:
    """Build an encoder of one layer with one patch per image."""
    (folder / "encoder").mkdir()
    config = json.dumps({"model_cfg": TINY_TOWER, "preprocess_cfg": {}})
    (folder / "encoder" / "open_clip_config.json").write_text(config)
    return build_encoder(folder / "encoder", weights="random", layer="pooled", device="cpu")


def children() -> list[int]:
    """Return the ids of child processes."""
    tasks = Path("/proc/self/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def peak_bytes(process: int) -> int:
    """Return the peak resident memory of a process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


if __name__ == "__main__":
    main()
