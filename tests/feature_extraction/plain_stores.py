"""Small stores with random features."""

from pathlib import Path

import numpy as np

from feature_extraction.spec import FeatureSpec
from feature_extraction.store.writer import Batch, StoreWriter

__all__ = ["SPEC", "features_of", "write_store"]

SPEC = FeatureSpec(
    encoder="tiny",
    weights="random",
    architecture_sha256="a" * 64,
    weights_sha256="b" * 64,
    quick_gelu=False,
    image_size=64,
    resize="squash",
    background=(255, 255, 255),
    exact_pixels=4194304,
    layer="grid",
    grid=(2, 3),
    channels=10,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    precision="fp32",
)


def features_of(count: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, SPEC.tokens, SPEC.channels))
    return values.astype(np.float16)


def write_store(path: Path, image_ids: list[str], spec: FeatureSpec = SPEC, seed: int = 0) -> Path:
    """Write a store. An image called `bad` has failed."""
    reasons = ["it is broken, é" if image_id == "bad" else "" for image_id in image_ids]
    sizes = np.arange(2 * len(image_ids), dtype=np.int32).reshape(-1, 2)
    with StoreWriter(path, spec, image_ids) as writer:
        features = features_of(len(image_ids), seed)
        writer.write(Batch(start=0, features=features, image_size=sizes, reasons=reasons))
        writer.finish()
    return path
