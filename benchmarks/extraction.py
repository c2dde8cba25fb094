"""Throughput of extraction, compared with the encoder alone and with a plain loop.

    encoder   preprocessed images already in memory; on CUDA, images and features stay on the device
    pipeline  from JPEG files to a finished feature file, including process start-up and fsync
    plain     one image at a time is decoded, encoded and written to its own HDF5 file

Every round times each of them once. Figures are medians over rounds; ratios are computed within a
round. Stages are also timed in isolation: decoding and resizing in CPU time on one core, the
encoder and writing in elapsed time.

If the encoder runs on the CPU, decoding competes with it for cores. The benchmark therefore prints
the ideal rate 1 / (encoder time + decoding CPU time / cores). It also prints CPU time per image,
decoding processes included, which is more reliable than elapsed time on a busy machine.

Files are read from the page cache. Generated photographs are 640 x 480 pixels of noise at all
wavelengths, with files as large as COCO's, linked under as many names as there are images.

On the CPU, this process keeps freed memory, as `vl-lst extract-features` does; `--give-back`
disables that for comparison.

    python benchmarks/extraction.py [--images DIR] [--encoder RN50] [--weights random]
        [--device auto] [--batch-size 32] [--workers N] [--precision fp32] [--give-back]
        [--json FILE]
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from eval.outputs import write_json
from feature_extraction.allocation import keep_freed_memory
from feature_extraction.cores import usable_cores
from feature_extraction.encoders.encoder import Encoder, build_encoder
from feature_extraction.extract import extract
from feature_extraction.images.decode import decode_image
from feature_extraction.images.finding import ImageFile, find_images
from feature_extraction.images.preprocess import fit_square
from feature_extraction.pipeline import default_workers
from feature_extraction.store.writer import Batch, StoreWriter

# N images, B images of a batch, S side of the square, V tokens, C channels

PHOTOGRAPHS = 32
WIDTH, HEIGHT, QUALITY = 640, 480, 90
# Amplitude by wavelength in pixels: longer wavelengths are stronger, as in photographs.
AMPLITUDES = {length: 0.14 * length**0.4 for length in (1, 2, 4, 8, 16, 32, 64, 128)}
STAGED = 32
SECONDS_OF_A_ROUND = 6.0
PLAIN_SHARE = 4


def main() -> None:
    """Print rates, ratios and stage times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of photographs; default: generated")
    parser.add_argument("--encoder", default="RN50")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, help="default: as the command line has it")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--count", type=int, help="images per round; default: enough for a few seconds"
    )
    parser.add_argument(
        "--give-back",
        action="store_true",
        help="let the C library return freed memory to the system",
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    encoder = build_encoder(
        options.encoder,
        weights=options.weights,
        precision=options.precision,
        device=options.device,
    )
    if encoder.device.type == "cpu" and not options.give_back:
        keep_freed_memory()
    if options.workers is None:
        options.workers = default_workers(usable_cores(), encoder.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = find_images(options.images or generate(folder / "photographs"))
        squares_N3SS = squares(found, encoder)
        warm = timed(run_encoder(encoder, squares_N3SS, options.batch_size), options.batch_size)
        count = options.count or round(SECONDS_OF_A_ROUND / warm.elapsed)
        count = max(2, count // options.batch_size) * options.batch_size
        files = linked(found, folder / "linked", count)
        rounds = measure(files, squares_N3SS, encoder, folder, options)
        stages = time_stages(files[:STAGED], encoder, folder / "staged.h5")
    stages["encoder"] = median_of(rounds["encoder"], "elapsed")
    report(rounds, stages, encoder, options, count)


def generate(folder: Path, count: int = PHOTOGRAPHS) -> Path:
    """Write photograph-like JPEG files."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        picture = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for length in AMPLITUDES:
            size = (HEIGHT // length + 1, WIDTH // length + 1, 3)
            noise = Image.fromarray(generator.integers(0, 256, size, np.uint8))
            shape = (WIDTH, HEIGHT)
            coarse = np.asarray(noise.resize(shape, Image.Resampling.BICUBIC), np.float32)
            picture += (coarse - 128) * AMPLITUDES[length]
        pixels = np.clip(picture + 128, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"photograph{number:02}.jpg", quality=QUALITY)
    return folder


def linked(found: Sequence[ImageFile], folder: Path, count: int) -> list[ImageFile]:
    """Link the files under as many names as images are needed."""
    folder.mkdir()
    for number, file in zip(range(count), itertools.cycle(found), strict=False):
        (folder / f"image{number:07}{file.path.suffix}").symlink_to(file.path.resolve())
    return find_images(folder)


def squares(files: Sequence[ImageFile], encoder: Encoder) -> NDArray[np.uint8]:
    """Return some photographs, decoded and resized."""
    side, rule = encoder.spec.image_size, encoder.spec.resize
    return np.stack([
        fit_square(decode_image(file.path, side), side, rule) for file in files[:PHOTOGRAPHS]
    ])  # fmt: skip


class Timed(NamedTuple):
    """Seconds per image of one round."""

    elapsed: float
    processor: float


def timed(work: Callable[[], None], images: int) -> Timed:
    """Run the work and time it, including processes that it starts and waits for."""
    started, before = time.perf_counter(), processor_seconds()
    work()
    processor = processor_seconds() - before
    return Timed((time.perf_counter() - started) / images, processor / images)


def processor_seconds() -> float:
    """Return CPU time of this process and of the child processes it has waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def run_encoder(
    encoder: Encoder, squares_N3SS: NDArray[np.uint8], batch_size: int, batches: int = 1
) -> Callable[[], None]:
    """Return a function that encodes a number of in-memory batches, after a warm-up."""
    rows = np.arange(batch_size) % len(squares_N3SS)
    pixels_B13SS = torch.from_numpy(squares_N3SS[rows])[:, None].to(encoder.device)

    def work() -> None:
        for _ in range(batches):
            encoder.encode_on_device(pixels_B13SS)
        if encoder.device.type == "cuda":
            torch.cuda.synchronize(encoder.device)

    work()
    return work


def measure(
    files: Sequence[ImageFile],
    squares_N3SS: NDArray[np.uint8],
    encoder: Encoder,
    folder: Path,
    options: argparse.Namespace,
) -> dict[str, list[Timed]]:
    """Time each way once per round, in turns."""
    count, batch_size = len(files), options.batch_size
    encoder_alone = run_encoder(encoder, squares_N3SS, batch_size, count // batch_size)
    few = files[: max(1, count // PLAIN_SHARE)]
    out = folder / "features.h5"

    def pipeline() -> None:
        extract(files, out, encoder, batch_size=batch_size, workers=options.workers)

    ways = {"encoder": (encoder_alone, count), "pipeline": (pipeline, count)}
    ways["plain"] = (lambda: extract_plainly(few, folder / "plain", encoder), len(few))
    rounds: dict[str, list[Timed]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, (work, images) in ways.items():
            rounds[name].append(timed(work, images))
        out.unlink()
    return rounds


def extract_plainly(files: Sequence[ImageFile], folder: Path, encoder: Encoder) -> None:
    """Extract one image at a time, each to its own file."""
    folder.mkdir(exist_ok=True)
    side, rule = encoder.spec.image_size, encoder.spec.resize
    for file in files:
        square_3SS = fit_square(decode_image(file.path, side), side, rule)
        features_1VC = encoder.encode(torch.from_numpy(square_3SS)[None], [file.image_id])
        with h5py.File(folder / f"{file.image_id}.h5", "w") as own:
            own[f"{file.image_id}/features"] = features_1VC[0]


def time_stages(files: Sequence[ImageFile], encoder: Encoder, out: Path) -> dict[str, float]:
    """Return seconds per image of every stage except the encoder."""
    side, rule = encoder.spec.image_size, encoder.spec.resize
    started = time.process_time()
    decoded = [decode_image(file.path, side) for file in files]
    between = time.process_time()
    for picture in decoded:
        fit_square(picture, side, rule)
    fitted = time.process_time()
    shape = (len(files), encoder.spec.tokens, encoder.spec.channels)
    batch = Batch(
        start=0,
        features=np.ones(shape, np.float16),
        image_size=np.ones((len(files), 2), np.int32),
        reasons=[""] * len(files),
    )
    with StoreWriter(out, encoder.spec, [file.image_id for file in files]) as partial:
        before = time.perf_counter()
        partial.write(batch)
        partial.commit()
        written = time.perf_counter()
    return {
        "decode": (between - started) / len(files),
        "fit": (fitted - between) / len(files),
        "write": (written - before) / len(files),
    }


def median_of(rounds: Sequence[Timed], name: str) -> float:
    """Return the median over rounds of elapsed or CPU time."""
    return statistics.median(float(getattr(each, name)) for each in rounds)


def report(
    rounds: dict[str, list[Timed]],
    stages: dict[str, float],
    encoder: Encoder,
    options: argparse.Namespace,
    count: int,
) -> None:
    """Print the measurements and write them as JSON."""
    cores = usable_cores()
    on_cpu = encoder.device.type == "cpu"
    where = f"{torch.get_num_threads()} threads" if on_cpu else torch.cuda.get_device_name()
    print(
        f"{encoder.spec.encoder}, {options.precision}, {encoder.device} ({where}), batches of "
        f"{options.batch_size}, {options.workers} workers, {cores} cores; {count:,} images a round"
    )
    rates = {name: 1 / median_of(found, "elapsed") for name, found in rounds.items()}
    processor = {name: median_of(found, "processor") for name, found in rounds.items()}
    for name, value in rates.items():
        spent = f"{1000 * processor[name]:8.1f} ms of processor time an image"
        print(f"{name:10} {value:10.1f} images/s {spent}")
    pairs = list(zip(rounds["pipeline"], rounds["encoder"], strict=True))
    ratios = {
        "pipeline / encoder": statistics.median(a.elapsed / p.elapsed for p, a in pairs),
        "pipeline / plain": statistics.median(
            plain.elapsed / ours.elapsed
            for ours, plain in zip(rounds["pipeline"], rounds["plain"], strict=True)
        ),
    }
    if on_cpu:
        shared = (stages["decode"] + stages["fit"]) / cores
        ratios["pipeline / encoder with the cores left"] = statistics.median(
            (alone.elapsed + shared) / ours.elapsed for ours, alone in pairs
        )
        ratios["encoder's share of CPU time"] = statistics.median(
            alone.processor / ours.processor for ours, alone in pairs
        )
    for name, value in ratios.items():
        print(f"{name:40} {value:6.3f}")
    for name, seconds in stages.items():
        print(f"{name:10} {1000 * seconds:10.2f} ms per image")
    if options.json:
        write_json(
            options.json,
            {
                "images_per_second": rates,
                "processor_seconds_per_image": processor,
                "ratios": ratios,
                "stage_seconds_per_image": stages,
                "device": str(encoder.device),
                "workers": options.workers,
            },
        )


if __name__ == "__main__":
    main()
