"""Size, write speed and read speed of compressed features.

Four kinds of features are written and read by each method, one chunk per image:

    demo       of photographs, or generated pictures, by the demo's own ResNet
    ReLU 50 %  random numbers, the lower half set to zero as a ReLU does
    ReLU 85 %  the same with 85 % zeros
    dense      random numbers, as of a transformer: no zeros

Ours (`plain`, `zstd`) are complete stores read by `FeatureStore`; the others are HDF5 filters of
`hdf5plugin`, with byte or bit shuffling, read by h5py. Times are CPU times of this process, so
other load does not matter. The features read are compared with those written.

    python benchmarks/compression.py [--images 200] [--photographs DIR] [--json FILE]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from reading import plain_spec

from eval.outputs import write_json
from feature_extraction.encoders.encoder import build_encoder
from feature_extraction.exchange.compression import compress_store
from feature_extraction.extract import extract
from feature_extraction.store.store import FeatureStore
from feature_extraction.store.writer import Batch, StoreWriter
from vl_lst.bundled import CLIP_FOLDER

# N images, V tokens, C channels

SHAPE_VC = (49, 2048)
FILTERS: dict[str, dict[str, Any]] = {
    "byte shuffle, zstd": {"shuffle": True, **hdf5plugin.Zstd(1)},
    "lz4": {**hdf5plugin.LZ4()},
    "byte shuffle, lz4": {"shuffle": True, **hdf5plugin.LZ4()},
    "bit shuffle, lz4": {**hdf5plugin.Bitshuffle(cname="lz4")},
    "bit shuffle, zstd": {**hdf5plugin.Bitshuffle(cname="zstd", clevel=1)},
}


def main() -> None:
    """Print one table per kind of features; fail if a method does not return what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--photographs", type=Path, help="for the demo's features")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds: dict[str, Callable[[], NDArray[np.float16]]] = {
            "demo": lambda: demo_features(folder, options.photographs, options.images),
            "ReLU 50 %": lambda: relu_features(options.images, 0.0),
            "ReLU 85 %": lambda: relu_features(options.images, 1.04),
            "dense": lambda: relu_features(options.images, -np.inf),
        }
        for kind, make in kinds.items():
            figures[kind] = compare(kind, make(), folder)
    if options.json:
        write_json(options.json, figures)


def demo_features(folder: Path, photographs: Path | None, images: int) -> NDArray[np.float16]:
    """Extract features of photographs, or of coloured noise, with the demo's encoder."""
    if photographs is None:
        photographs = folder / "pictures"
        photographs.mkdir()
        generator = np.random.default_rng(0)
        for number in range(images):
            pixels = generator.integers(0, 256, (6, 8, 3), np.uint8)
            picture = Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC)
            picture.save(photographs / f"{number}.png")
    out = folder / "demo.h5"
    extract(photographs, out, build_encoder(CLIP_FOLDER, device="cpu"))
    store = FeatureStore(out)
    return store.read(list(store)[:images])


def relu_features(images: int, threshold: float) -> NDArray[np.float16]:
    """Return ReLU(x - threshold) for normally distributed x."""
    values_NVC = np.random.default_rng(0).normal(size=(images, *SHAPE_VC)).astype(np.float32)
    if np.isfinite(threshold):
        values_NVC = np.maximum(values_NVC - threshold, 0)
    return values_NVC.astype(np.float16)


def compare(
    kind: str, features_NVC: NDArray[np.float16], folder: Path
) -> dict[str, dict[str, float]]:
    """Write and read the features by every method; print and return sizes and rates."""
    images, tokens, channels = features_NVC.shape
    zeros = float((features_NVC == 0).mean())
    print(f"\n{kind}: {images} images of {tokens} x {channels}, {100 * zeros:.0f} % zeros")
    print(f"{'':20} {'size':>8} {'written':>12} {'read':>12}  images per CPU second")
    image_ids = [f"image{row:05}" for row in range(images)]
    plain, small = folder / "plain.h5", folder / "small.h5"
    with StoreWriter(plain, plain_spec(tokens, channels), image_ids) as partial:
        size = np.ones((images, 2), np.int32)
        partial.write(Batch(start=0, features=features_NVC, image_size=size, reasons=[""] * images))
        partial.finish()
    figures = {"plain": read_store(plain, image_ids, features_NVC)}
    started = time.process_time()
    compress_store(plain, small)
    seconds = time.process_time() - started
    figures["zstd"] = {**read_store(small, image_ids, features_NVC), "written": images / seconds}
    for name, options in FILTERS.items():
        figures[name] = through_hdf5(folder / "other.h5", options, features_NVC)
    for name, found in figures.items():
        written = f"{found['written']:12,.0f}" if "written" in found else f"{'':12}"
        print(f"{name:20} {100 * found['size']:6.1f} % {written} {found['read']:12,.0f}")
    for path in (plain, small):
        path.unlink()
    return figures


def read_store(
    path: Path, image_ids: list[str], features_NVC: NDArray[np.float16]
) -> dict[str, float]:
    """Read a store image by image; return its size relative to raw float16, and the rate."""
    store = FeatureStore(path)
    for row, image_id in enumerate(image_ids):
        check_equal(store[image_id], features_NVC[row])
    started = time.process_time()
    for image_id in image_ids:
        store[image_id]
    seconds = time.process_time() - started
    return {"size": path.stat().st_size / features_NVC.nbytes, "read": len(image_ids) / seconds}


def through_hdf5(
    path: Path, options: dict[str, Any], features_NVC: NDArray[np.float16]
) -> dict[str, float]:
    """Write and read a dataset with HDF5 filters."""
    images, *shape_VC = features_NVC.shape
    started = time.process_time()
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features_NVC, chunks=(1, *shape_VC), **options)
    written = time.process_time() - started
    with h5py.File(path, rdcc_nbytes=0) as file:
        dataset = file["features"]
        for row in range(images):
            check_equal(dataset[row], features_NVC[row])
        started = time.process_time()
        for row in range(images):
            dataset[row]
        read = time.process_time() - started
        size = dataset.id.get_storage_size() / features_NVC.nbytes
    return {"size": size, "written": images / written, "read": images / read}


def check_equal(found_VC: NDArray[np.float16], written_VC: NDArray[np.float16]) -> None:
    """Fail if the features read differ from those written."""
    if not np.array_equal(found_VC, written_VC):
        raise SystemExit("what was read is not what was written")


if __name__ == "__main__":
    main()
