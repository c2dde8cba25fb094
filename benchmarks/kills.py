"""Kill extractions at random instants, finish them, and compare them with uninterrupted ones.

A process extracts generated photographs in two shards with a decoding worker and is killed
(SIGKILL) at a random instant. The same work then runs again until it finishes, and the shards are
joined. Counts the kills that hit before the end, and the finished files that differ from those of
an uninterrupted run, of which there must be none.

    python benchmarks/kills.py [--kills 50] [--images 60] [--seed 0] [--json FILE]
"""

import argparse
import multiprocessing
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from eval.outputs import write_json
from feature_extraction.encoders.encoder import Encoder, build_encoder
from feature_extraction.exchange.join import join_stores
from feature_extraction.extract import extract
from feature_extraction.images.finding import ImageFile, find_images
from feature_extraction.store import resumable_writer
from feature_extraction.store.shards import Shard
from vl_lst.bundled import CLIP_FOLDER

SHARDS = 2
BATCH = 4


def main() -> None:
    """Print the number of kills that hit and of files that differ; fail if any differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    # Forked children must not inherit a thread pool, whose threads exist only in the parent.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = generate(folder / "images", options.images)
        encoder = build_encoder(CLIP_FOLDER, device="cpu")
        hit, different = kill_and_finish(
            files, encoder, folder, kills=options.kills, seed=options.seed
        )
    print(f"{options.kills} kills, {hit} before the end; {different} finished files differ")
    if options.json:
        write_json(
            options.json, {"kills": options.kills, "before_the_end": hit, "different": different}
        )
    if different:
        raise SystemExit(1)


def generate(folder: Path, images: int) -> list[ImageFile]:
    """Write small noise images, every tenth of them broken."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(images):
        path = folder / f"picture{number:04}.png"
        if number % 10 == 9:
            path.write_bytes(b"broken")
            continue
        size = (*generator.integers(20, 200, 2), 3)
        Image.fromarray(generator.integers(0, 256, size, np.uint8)).save(path)
    return find_images(folder)


def kill_and_finish(
    files: Sequence[ImageFile], encoder: Encoder, folder: Path, *, kills: int, seed: int
) -> tuple[int, int]:
    """Kill an extraction at random instants and finish it, once per kill.

    Returns:
        Number of kills that hit before the end, and number of finished files (shards, index and
        copy) that differ from those of an uninterrupted run.
    """
    work(files, encoder, folder / "uninterrupted")
    started = time.monotonic()
    work(files, encoder, folder / "timed")
    longest = time.monotonic() - started
    wanted = joined(folder / "uninterrupted")
    generator, hit, different = random.Random(seed), 0, 0
    for _ in range(kills):
        target = folder / "killed"
        process = multiprocessing.get_context("fork").Process(
            target=work, args=(files, encoder, target)
        )
        process.start()
        process.join(generator.uniform(0, longest))
        hit += process.is_alive()
        process.kill()
        process.join()
        work(files, encoder, target)
        found = joined(target)
        different += sum(found.get(name) != content for name, content in wanted.items())
        shutil.rmtree(target)
    return hit, different


def work(files: Sequence[ImageFile], encoder: Encoder, target: Path) -> None:
    """Extract the shards, committing every batch at once so that kills can hit every step."""
    resumable_writer.SECONDS_BETWEEN_COMMITS = 0.0
    for number in range(1, SHARDS + 1):
        shard = Shard(number, SHARDS)
        extract(files, target / "all.h5", encoder, batch_size=BATCH, workers=1, shard=shard)


def joined(target: Path) -> dict[str, bytes]:
    """Join the shards as index and as copy; return every file's content by name."""
    shards = sorted(target.glob("all.shard-*.h5"))
    join_stores(shards, target / "index.h5")
    join_stores(shards, target / "copy.h5", copy=True)
    return {path.name: path.read_bytes() for path in sorted(target.iterdir())}


if __name__ == "__main__":
    main()
