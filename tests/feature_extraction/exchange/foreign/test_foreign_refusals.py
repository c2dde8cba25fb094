"""Features that cannot be imported: the message states what was found and what to do."""

import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from feature_extraction.errors import StoreError
from feature_extraction.exchange.importing import import_features

GRIDS = np.random.default_rng(0).normal(size=(7, 4, 6)).astype(np.float32)
VECTORS = GRIDS[:, 0]
IDS = [f"image-{number}" for number in range(7)]


def of_objects(folder: Path) -> Path:
    np.savez(folder / "all.npz", features=GRIDS, ids=np.array(IDS, object))
    return folder / "all.npz"


def pickled(folder: Path) -> Path:
    (folder / "all.pkl").write_bytes(pickle.dumps({"a": 1}))
    return folder / "all.pkl"


def of_torch(folder: Path) -> Path:
    torch.save({"a": torch.zeros(3, 4)}, folder / "a.pt")
    return folder


def archive(folder: Path) -> Path:
    with tarfile.open(folder / "features.tar.gz", "w:gz"):
        pass
    return folder


def nameless_npy(folder: Path) -> Path:
    np.save(folder / "features.npy", VECTORS)
    return folder


def nameless_grids(folder: Path) -> Path:
    np.save(folder / "train.npy", GRIDS)
    return folder


def nameless_parts(folder: Path) -> Path:
    for part in range(2):
        np.save(folder / f"train-embeddings_{part}.npy", VECTORS[:4])
    return folder


def nameless_vectors(folder: Path) -> Path:
    np.save(folder / "train.npy", np.zeros((20_000, 2), np.float16))
    return folder


def nameless_tensor(folder: Path) -> Path:
    save_file({"embeddings": torch.zeros(7, 6)}, folder / "train.safetensors")
    return folder / "train.safetensors"


def nameless_npz(folder: Path) -> Path:
    np.savez(folder / "all.npz", features=GRIDS)
    return folder / "all.npz"


def too_few_names(folder: Path) -> Path:
    with h5py.File(folder / "all.h5", "w") as file:
        file["features"], file["ids"] = GRIDS, IDS[:3]
    return folder / "all.h5"


def names_elsewhere(folder: Path) -> Path:
    with h5py.File(folder / "all.h5", "w") as file:
        file["features"], file["ids"] = GRIDS, h5py.SoftLink("/elsewhere")
    return folder / "all.h5"


def features_elsewhere(folder: Path) -> Path:
    with h5py.File(folder / "all.h5", "w") as file:
        file["features"], file["ids"] = h5py.ExternalLink("other.h5", "/features"), IDS
    return folder / "all.h5"


def same_names(folder: Path) -> Path:
    with h5py.File(folder / "all.h5", "w") as file:
        file["features"], file["ids"] = GRIDS[:2], ["train/1.jpg", "val\\1.png"]
    return folder / "all.h5"


def not_utf8(folder: Path) -> Path:
    with h5py.File(folder / "all.h5", "w") as file:
        file["features"], file["ids"] = GRIDS[:2], np.array([b"\xff", b"a"])
    return folder / "all.h5"


def no_zip(folder: Path) -> Path:
    (folder / "all.npz").write_bytes(b"no archive")
    return folder / "all.npz"


def no_parquet(folder: Path) -> Path:
    (folder / "all.parquet").write_bytes(b"no parquet")
    return folder


def other_columns(folder: Path) -> Path:
    pq.write_table(pa.table({"features": GRIDS.tolist(), "label": IDS}), folder / "all.parquet")
    return folder


def texts_for_features(folder: Path) -> Path:
    pq.write_table(pa.table({"features": IDS, "id": IDS}), folder / "all.parquet")
    return folder


def metadata_only(folder: Path) -> Path:
    pq.write_table(pa.table({"id": IDS}), folder / "metadata.parquet")
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (of_objects, "objects are pickled and therefore refused"),
        (
            pickled,
            r"1 .pkl: pickles can run any code.*so they are refused.*numpy.save",
        ),
        (of_torch, r"no features in.*1 .pt: pickles can run any code"),
        (archive, "1 .gz: archives must be unpacked first"),
        (
            nameless_npy,
            r"of the shape \[7, 6\] of many images, but there are no image names",
        ),
        (
            nameless_grids,
            r"have the shape \[7, 4, 6\], expected.*7 images in one file: Put.*a feature map",
        ),
        (nameless_npz, "of many images, but there are no image names"),
        (nameless_parts, r"of the shape \[4, 6\] of many images"),
        (nameless_vectors, r"\[20000, 2\]: are these 20,000 images\? Put the image names"),
        (nameless_tensor, "of many images, but there are no image names"),
        (too_few_names, "features have 7 rows, but /ids has 3 names; expected one per row"),
        (names_elsewhere, "/ids is a soft link"),
        (features_elsewhere, "/features is an external link"),
        (same_names, "two entries have the image id '1'.*row 0 and .*row 1"),
        (not_utf8, "/ids contains names that are not UTF-8"),
        (no_zip, "damaged or truncated"),
        (no_parquet, "damaged or truncated"),
        (other_columns, "columns features, label; expected features and one of"),
        (texts_for_features, "the column features is string, expected lists"),
        (metadata_only, "1 .parquet: convert them"),
    ],
)
def test_refusals_say_what_was_found_and_what_to_do(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    with pytest.raises(StoreError, match=message):
        import_features(make(folder), tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()
