"""Export the features of a store to formats of other programs.

    h5      a folder of files IMAGE_ID.h5 with the dataset `IMAGE_ID/features`, the layout of VL-T5
            and its successors; and `IMAGE_ID/img_h`, `IMAGE_ID/img_w` if they are known
    arrow   a folder for `datasets.load_from_disk`, with the columns `image_id`, `features`,
            `height` and `width`
    parquet a folder of Parquet files with 4,096 images each, and a README for the Hub

`export.json` in the folder records the settings of the features. The folder appears at its path
only when it is complete. An interrupted export leaves nothing behind, except that one to Parquet is
resumed after its last complete file.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from feature_extraction.choices import ExportFormat
from feature_extraction.errors import StoreError
from feature_extraction.exchange.dataset_card import parquet_card
from feature_extraction.exchange.parquet_export import IMAGES_PER_FILE, write_parquet
from feature_extraction.progress import OnProgress
from feature_extraction.store.disk import read_small_text
from feature_extraction.store.hdf5_writer import hdf5_bytes
from feature_extraction.store.outputs import (
    atomic_output,
    check_output_folder,
    remove_leftovers,
    resolve_link,
)
from feature_extraction.store.reader import FeatureReader

__all__ = ["ExportResult", "export_features"]

MANIFEST = "export.json"
ARROW_FILE_BYTES = 2**28
ARROW_BATCH_BYTES = 2**23
MAX_FILE_NAME_BYTES = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """Result of an export.

    Args:
        images: Number of images in the folder.
        written: Number of images this run wrote; 0 if the export was already complete.
        files: Number of files that hold them.
    """

    images: int
    written: int
    files: int


def export_features(
    store: FeatureReader,
    out: Path,
    export_format: ExportFormat,
    *,
    on_progress: OnProgress | None = None,
) -> ExportResult:
    """Export the features of a store to a folder. Failed images are left out.

    An export that is already complete is left unchanged.

    Args:
        store: Features to export.
        out: Folder to create.
        export_format: `h5`, `arrow` or `parquet`; see the module docstring.
        on_progress: Called after each file.

    Raises:
        StoreError: `out` holds something else or cannot be written, an id cannot be a file name,
            or the store cannot be read.
    """
    image_ids = list(store)
    if not image_ids:
        raise StoreError("the store has no image with features, so there is nothing to export")
    files = _divide(store, image_ids, export_format)
    manifest = _manifest(store, image_ids, export_format)
    check_output_folder(out)
    if resolve_link(out).exists():
        _check_same(out, manifest)
        remove_leftovers(out)
        return ExportResult(images=len(image_ids), written=0, files=len(files))
    write = _WRITERS[export_format]
    done = 0
    is_resumable = export_format == "parquet"
    written = 0
    with atomic_output(out, is_resumable=is_resumable) as folder:
        if folder.exists() and _read_manifest(folder) != manifest:
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        (folder / MANIFEST).write_text(manifest, encoding="utf-8")
        for name, contained in files.items():
            if not (folder / name).exists():
                write(folder / name, store, contained)
                written += len(contained)
            done += len(contained)
            if on_progress is not None:
                on_progress(done, len(image_ids))
        if export_format == "arrow":
            _write_dataset_files(folder, store, list(files))
        if export_format == "parquet":
            (folder / "README.md").write_text(parquet_card(store), encoding="utf-8")
    return ExportResult(images=len(image_ids), written=written, files=len(files))


def _divide(
    store: FeatureReader, image_ids: Sequence[str], export_format: ExportFormat
) -> dict[str, Sequence[str]]:
    """Return the image ids by file name for each file of the export."""
    if export_format == "h5":
        for image_id in image_ids:
            _check_file_name(image_id)
        return {f"{image_id}.h5": [image_id] for image_id in image_ids}
    per_file = max(1, ARROW_FILE_BYTES // _image_bytes(store))
    if export_format == "parquet":
        per_file = IMAGES_PER_FILE
    name = "train" if export_format == "parquet" else "data"
    count = -(-len(image_ids) // per_file)
    return {
        f"{name}-{number:05d}-of-{count:05d}.{export_format}": part
        for number, part in enumerate(_parts(image_ids, per_file))
    }


def _parts(image_ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(image_ids), size):
        yield image_ids[start : start + size]


def _check_file_name(image_id: str) -> None:
    # Ids come from a file; they may be crafted to write elsewhere.
    is_safe = image_id and not image_id.startswith(".") and not {"/", "\0"} & set(image_id)
    if not is_safe or len(f"{image_id}.h5".encode()) > MAX_FILE_NAME_BYTES:
        raise StoreError(
            f"the image id {image_id!r} cannot be the name of a file: it starts with a dot, "
            "contains a slash or is too long. Export to arrow, which stores ids in a column."
        )


def _manifest(store: FeatureReader, image_ids: Sequence[str], export_format: ExportFormat) -> str:
    content = {
        "format": export_format,
        "images": len(image_ids),
        "image_ids_sha256": hashlib.sha256("\n".join(image_ids).encode()).hexdigest(),
        "spec": json.loads(store.spec.to_json()),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _check_same(folder: Path, manifest: str) -> None:
    """Refuse a folder that is not the complete export described by `manifest`."""
    found = _read_manifest(folder)
    if found != manifest:
        holds = "an export of other features" if found else "something else"
        raise StoreError(f"{folder} holds {holds}. Choose another --out, or move the folder.")


def _read_manifest(folder: Path) -> str:
    try:
        return read_small_text(folder / MANIFEST)
    except (OSError, StoreError, UnicodeDecodeError):
        return ""


def _write_h5(path: Path, store: FeatureReader, image_ids: Sequence[str]) -> None:
    (image_id,) = image_ids
    data: dict[str, Any] = {"features": store[image_id]}
    height, width = store.image_size(image_id)
    if height and width:
        data.update(img_h=height, img_w=width)

    def fill(file: h5py.File) -> None:
        group = file.create_group(image_id)
        for name, values in data.items():
            group.create_dataset(name, data=values, track_times=False)

    path.write_bytes(hdf5_bytes(fill))


def _write_arrow(path: Path, store: FeatureReader, image_ids: Sequence[str]) -> None:
    from datasets.arrow_writer import ArrowWriter

    per_batch = max(1, ARROW_BATCH_BYTES // _image_bytes(store))
    with ArrowWriter(path=str(path), features=_columns(store)) as writer:
        for batch in _parts(image_ids, per_batch):
            sizes = [store.image_size(image_id) for image_id in batch]
            writer.write_batch(
                {
                    "image_id": batch,
                    "features": store.read(batch),
                    # Imported features may have no image sizes.
                    "height": [height or None for height, _ in sizes],
                    "width": [width or None for _, width in sizes],
                }
            )
        writer.finalize()


def _write_dataset_files(folder: Path, store: FeatureReader, names: Sequence[str]) -> None:
    """Write the files that `datasets.load_from_disk` expects in addition to the data."""
    from datasets import DatasetInfo

    DatasetInfo(features=_columns(store)).write_to_directory(str(folder))
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")


def _columns(store: FeatureReader) -> Any:
    from datasets import Array2D, Features, Value

    features = Array2D(shape=(store.tokens, store.channels), dtype="float16")
    side = Value("int32")
    return Features(
        {"image_id": Value("string"), "features": features, "height": side, "width": side}
    )


def _image_bytes(store: FeatureReader) -> int:
    return store.tokens * store.channels * 2


_WRITERS: dict[ExportFormat, Callable[[Path, FeatureReader, Sequence[str]], None]] = {
    "h5": _write_h5,
    "arrow": _write_arrow,
    "parquet": write_parquet,
}
