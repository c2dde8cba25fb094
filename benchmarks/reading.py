"""Random read speed of the feature store, compared with other storage formats.

A store of random numbers is read in shuffled order from the page cache, image by image and in
batches, in turns with

    memory map      one `.npy` file read with `numpy.load(mmap_mode="r")` and a dictionary of ids
    file per image  one HDF5 file per image, opened for every read
    HDF5            the same store read with h5py alone
    page cache      sequential `preadv` of as many bytes into one buffer, the upper bound

Then store and memory map are read through a `DataLoader` with 0, 2 and 8 workers, forked and
spawned. Every round times each way once; figures are medians over rounds, ratios are computed
within a round. All ways must return the same numbers, which workers check for every image.

    python benchmarks/reading.py [--images 2000] [--tokens 49] [--channels 2048]
                                 [--workers 0 2 8] [--json FILE]
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
from _reading_workers import MapRows, StoreRows, seconds_of_rounds
from numpy.typing import NDArray

from eval.outputs import write_json
from feature_extraction.spec import FeatureSpec
from feature_extraction.store import open_features
from feature_extraction.store.writer import Batch, StoreWriter

# N images, V tokens, C channels

BATCH = 64
BLOCK_BYTES = 2**20


def main() -> None:
    """Print rates and ratios; fail if two ways return different numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=49)
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2, 8])
    parser.add_argument("--folder", type=Path, help="where to write; default: temporary files")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        ways = prepare(Path(name), options.images, options.tokens, options.channels)
        check_equal(ways)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, read in ways.items():
                started = time.perf_counter()
                read()
                seconds[way].append(time.perf_counter() - started)
        image_bytes = options.tokens * options.channels * 2
        figures = report(seconds, options.images, image_bytes)
        counts = options.workers
        loaded = in_workers(Path(name), options.images, counts, options.rounds) if counts else {}
    if options.json:
        write_json(options.json, {**figures, "in_workers": loaded})


def prepare(
    folder: Path, images: int, tokens: int, channels: int
) -> dict[str, Callable[[], NDArray[np.float16] | None]]:
    """Write the features in every layout; return a reader for each, and the last image read."""
    generator = np.random.default_rng(0)
    features_NVC = generator.random((images, tokens, channels), np.float32).astype(np.float16)
    image_ids = [f"image{row:07}" for row in range(images)]
    store_path, array_path = folder / "store.h5", folder / "array.npy"
    np.save(array_path, features_NVC)
    with StoreWriter(store_path, plain_spec(tokens, channels), image_ids) as partial:
        size = np.ones((images, 2), np.int32)
        partial.write(Batch(start=0, features=features_NVC, image_size=size, reasons=[""] * images))
        partial.finish()
    for row, image_id in enumerate(image_ids):
        with h5py.File(folder / f"{image_id}.h5", "w") as file:
            file[f"{image_id}/features"] = features_NVC[row]
    del features_NVC
    rows = [int(row) for row in generator.permutation(images)]
    asked = [image_ids[row] for row in rows]
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    batches = [slice(start, start + BATCH) for start in range(0, images, BATCH)]
    store, file = open_features(store_path), h5py.File(store_path, rdcc_nbytes=0)
    array_NVC = np.load(array_path, mmap_mode="r")
    stored_NVC = file["features"]

    def in_store() -> NDArray[np.float16]:
        for image_id in asked:
            features_VC = store[image_id]
        return features_VC

    def in_store_batches() -> NDArray[np.float16]:
        for batch in batches:
            features_BVC = store.read(asked[batch])
        last_VC: NDArray[np.float16] = features_BVC[-1]
        return last_VC

    def in_memory_map() -> NDArray[np.float16]:
        for image_id in asked:
            features_VC = np.array(array_NVC[row_of[image_id]])
        return features_VC

    def in_memory_map_batches() -> NDArray[np.float16]:
        for batch in batches:
            features_BVC = array_NVC[[row_of[image_id] for image_id in asked[batch]]]
        last_VC: NDArray[np.float16] = features_BVC[-1]
        return last_VC

    def in_hdf5() -> NDArray[np.float16]:
        for row in rows:
            features_VC: NDArray[np.float16] = stored_NVC[row]
        return features_VC

    def in_files() -> NDArray[np.float16]:
        for image_id in asked:
            with h5py.File(folder / f"{image_id}.h5") as own:
                features_VC: NDArray[np.float16] = own[f"{image_id}/features"][:]
        return features_VC

    def in_page_cache() -> None:
        copy_in_order(array_path)

    return {
        "store": in_store,
        "store, batches": in_store_batches,
        "memory map": in_memory_map,
        "memory map, batches": in_memory_map_batches,
        "HDF5": in_hdf5,
        "file per image": in_files,
        "page cache": in_page_cache,
    }


def in_workers(
    folder: Path, images: int, counts: Sequence[int], rounds: int
) -> dict[str, dict[str, float]]:
    """Print rates through a `DataLoader` for store and memory map, and their ratio."""
    rows = [int(row) for row in np.random.default_rng(1).permutation(images)]
    store, array_path = open_features(folder / "store.h5"), folder / "array.npy"
    ways = {"store": StoreRows(rows, store), "memory map": MapRows(rows, array_path)}
    array_NVC = np.load(array_path, mmap_mode="r")
    figures = {}
    print(f"\nDataLoader, batches of {BATCH}      store  memory map  ratio")
    for count in counts:
        for method in ("fork", "spawn") if count else (None,):
            seconds = seconds_of_rounds(
                ways, array_NVC, workers=count, method=method, rounds=rounds
            )
            rates = [images / statistics.median(times) for times in seconds.values()]
            compared = ratio(seconds["memory map"], seconds["store"])
            name = f"{count} workers, {method}" if method else "no workers"
            print(f"{name:20} {rates[0]:15,.0f} {rates[1]:11,.0f} {compared:6.2f}")
            figures[name] = {"store": rates[0], "memory map": rates[1], "ratio": compared}
    return figures


def copy_in_order(path: Path) -> None:
    """Read a whole file into one buffer."""
    handle, buffer = os.open(path, os.O_RDONLY), bytearray(BLOCK_BYTES)
    try:
        for offset in range(0, os.fstat(handle).st_size, BLOCK_BYTES):
            os.preadv(handle, [buffer], offset)
    finally:
        os.close(handle)


def plain_spec(tokens: int, channels: int) -> FeatureSpec:
    """Return a spec for synthetic features."""
    return FeatureSpec(
        encoder="noise",
        weights="random",
        architecture_sha256="0" * 64,
        weights_sha256="0" * 64,
        quick_gelu=False,
        image_size=224,
        resize="squash",
        background=(255, 255, 255),
        exact_pixels=2**22,
        layer="grid",
        grid=(1, tokens),
        channels=channels,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        precision="fp32",
    )


def check_equal(ways: dict[str, Callable[[], NDArray[np.float16] | None]]) -> None:
    """Read once in every way, warming the page cache, and compare the last image."""
    last = [found for read in ways.values() if (found := read()) is not None]
    if not all(np.array_equal(found, last[0]) for found in last):
        raise SystemExit("the ways of reading disagree")


def report(
    seconds: dict[str, list[float]], images: int, image_bytes: int
) -> dict[str, dict[str, float]]:
    """Print and return rates and ratios."""
    print(f"{images:,} images of {image_bytes / 1024:.1f} KiB, random order, warm")
    rates = {way: images / statistics.median(times) for way, times in seconds.items()}
    for way, rate in rates.items():
        print(f"{way:22} {rate:10,.0f} images/s  {rate * image_bytes / 2**30:6.2f} GiB/s")
    ratios = {
        f"{ours} / {theirs}": ratio(seconds[theirs], seconds[ours])
        for ours, theirs in (
            ("store", "memory map"),
            ("store, batches", "memory map, batches"),
            ("store", "HDF5"),
            ("store", "file per image"),
            ("store", "page cache"),
        )
    }
    for name, value in ratios.items():
        print(f"{name:40} {value:6.2f}")
    return {"images_per_second": rates, "ratios": ratios}


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Return the median over rounds of our speed relative to another way."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


if __name__ == "__main__":
    main()
