"""A store's features in the formats of other programs.

    h5      a folder of files IMAGE_ID.h5 with the dataset `IMAGE_ID/features`: what the programs
            before this one read; and `IMAGE_ID/img_h`, `IMAGE_ID/img_w` where they are known
    arrow   a folder for `datasets.load_from_disk`, with the columns `image_id`, `features`,
            `height` and `width`

`export.json` in the folder says how the features were made. The folder is filled under the name
`FOLDER.partial` and renamed at the end, so nothing can mistake it for a finished one. To wait for
the disk after each of many small files would take most of the time: now and then all that were
written since are waited for, and a marker says how many files are safe. There an interrupted export
goes on.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import h5py

from feature_extraction.choices import ExportFormat
from feature_extraction.errors import StoreError
from feature_extraction.store.disk import is_out_of_space, read_small_text, sync_file, sync_folder
from feature_extraction.store.hdf5_writer import hdf5_bytes
from feature_extraction.store.store import FeatureReader
from feature_extraction.store.targets import (
    LOCK,
    check_folder_target,
    link_target,
    locked_folder,
    partial_folder,
)

if TYPE_CHECKING:
    from feature_extraction.extract import OnProgress  # needs torch, which an export does not

__all__ = ["ExportResult", "export_features"]

MANIFEST = "export.json"
ARROW_FILE_BYTES = 2**28
ARROW_BATCH_BYTES = 2**23
LONGEST_FILE_NAME = 255
MARKER = ".safe"
TEMPORARY = ".tmp"
SECONDS_BETWEEN_SYNCS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What an export did.

    Args:
        images: Images the folder has.
        written: Images this run wrote; the others were there.
        files: Files that hold them.
    """

    images: int
    written: int
    files: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """A file of an export."""

    name: str
    image_ids: Sequence[str]


def export_features(
    store: FeatureReader,
    out: Path,
    export_format: ExportFormat,
    *,
    on_progress: "OnProgress | None" = None,
) -> ExportResult:
    """Write the features of a store's images into a folder. Images that failed are left out.

    Args:
        store: What to export.
        out: The folder to make.
        export_format: See this module's head.
        on_progress: Called after each file.

    Raises:
        StoreError: `out` holds something else or cannot be written, an id cannot be a file name,
            or the store cannot be read.
    """
    image_ids = list(store)
    if not image_ids:
        raise StoreError("the store has no image with features, so there is nothing to export")
    per_file = 1
    if export_format == "arrow":
        per_file = max(1, ARROW_FILE_BYTES // _image_bytes(store))
    pieces = _pieces(image_ids, per_file, export_format)
    manifest = _manifest(store, image_ids, export_format)
    check_folder_target(out)
    target, partial = link_target(out), partial_folder(out)
    write = _write_h5 if export_format == "h5" else _write_arrow
    written = done = 0
    busy = f"another process is exporting into {out}; wait for it to end, or choose another --out"
    with _explained(out, partial):
        if _is_finished(target, manifest):
            return ExportResult(images=len(image_ids), written=0, files=len(pieces))
    with _explained(out, partial), locked_folder(partial, busy):
        _remove_temporary_files(partial)
        if any(entry.name != LOCK for entry in partial.iterdir()):
            _check_same(partial, manifest)
        else:
            _write_text(partial / MANIFEST, manifest)
        with _SafeFiles(partial) as safe:
            for number, piece in enumerate(pieces):
                if number >= safe.count:
                    write(partial / piece.name, store, piece.image_ids)
                    safe.add(partial / piece.name)
                    written += len(piece.image_ids)
                done += len(piece.image_ids)
                if on_progress is not None:
                    on_progress(done, len(image_ids))
        if export_format == "arrow":
            _write_dataset_files(partial, store, pieces)
        safe.remove_marker()
        partial.rename(target)
        (target / LOCK).unlink()
        sync_folder(target.parent)
    return ExportResult(images=len(image_ids), written=written, files=len(pieces))


class _SafeFiles:
    """Which files of a folder, in their order, are known to be on the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: list[Path] = []
        self._synced_at = time.monotonic()
        try:
            self.count = int(read_small_text(folder / MARKER))
        except (FileNotFoundError, ValueError):
            # A marker that is no number says of no file that it is safe.
            self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Also what was written before an interruption is kept.
        self._sync()

    def add(self, path: Path) -> None:
        self._waiting.append(path)
        if time.monotonic() - self._synced_at >= SECONDS_BETWEEN_SYNCS:
            self._sync()

    def remove_marker(self) -> None:
        (self._folder / MARKER).unlink()
        sync_folder(self._folder)

    def _sync(self) -> None:
        for path in self._waiting:
            sync_file(path)
        sync_folder(self._folder)
        self.count += len(self._waiting)
        self._waiting.clear()
        _write_text(self._folder / MARKER, str(self.count))
        self._synced_at = time.monotonic()


def _pieces(image_ids: Sequence[str], per_file: int, export_format: ExportFormat) -> list[_Piece]:
    if export_format == "h5":
        for image_id in image_ids:
            _check_file_name(image_id)
        return [_Piece(f"{image_id}.h5", [image_id]) for image_id in image_ids]
    files = -(-len(image_ids) // per_file)
    return [
        _Piece(
            f"data-{number:05d}-of-{files:05d}.arrow",
            image_ids[number * per_file : (number + 1) * per_file],
        )
        for number in range(files)
    ]


def _check_file_name(image_id: str) -> None:
    # Ids are read from a file, and may have been chosen to write elsewhere.
    is_safe = image_id and not image_id.startswith(".") and not {"/", "\0"} & set(image_id)
    if not is_safe or len(f"{image_id}.h5".encode()) > LONGEST_FILE_NAME:
        raise StoreError(
            f"the image id {image_id!r} cannot be the name of a file: it begins with a dot, holds "
            "a slash or is too long. Export to arrow, which has ids in a column."
        )


def _manifest(store: FeatureReader, image_ids: Sequence[str], export_format: ExportFormat) -> str:
    content = {
        "format": export_format,
        "images": len(image_ids),
        "image_ids_sha256": hashlib.sha256("\n".join(image_ids).encode()).hexdigest(),
        "spec": json.loads(store.spec.to_json()),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _is_finished(folder: Path, manifest: str) -> bool:
    """Whether the export is in its place already; one killed at its very end is tidied up.

    Raises:
        StoreError: Something else is in its place.
    """
    if not folder.exists():
        return False
    _check_same(folder, manifest)
    (folder / LOCK).unlink(missing_ok=True)
    return True


def _check_same(folder: Path, manifest: str) -> None:
    try:
        found = read_small_text(folder / MANIFEST)
    except (OSError, UnicodeDecodeError):
        found = ""
    if found != manifest:
        holds = "an export of other features" if found else "something else than this export"
        raise StoreError(
            f"{folder} holds {holds}. Choose another --out, or move it out of the way."
        )


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
        for start in range(0, len(image_ids), per_batch):
            batch = image_ids[start : start + per_batch]
            sizes = [store.image_size(image_id) for image_id in batch]
            writer.write_batch(
                {
                    "image_id": batch,
                    "features": store.read(batch),
                    # Of imported features they may not be known.
                    "height": [height or None for height, _ in sizes],
                    "width": [width or None for _, width in sizes],
                }
            )
        writer.finalize()


def _write_dataset_files(folder: Path, store: FeatureReader, pieces: Sequence[_Piece]) -> None:
    """Write what `datasets.load_from_disk` wants beside the data."""
    from datasets import DatasetInfo

    DatasetInfo(features=_columns(store)).write_to_directory(str(folder))
    state: dict[str, Any] = {
        "_data_files": [{"filename": piece.name} for piece in pieces],
        "_fingerprint": hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    _write_text(folder / "state.json", json.dumps(state, indent=2))


def _columns(store: FeatureReader) -> Any:
    from datasets import Array2D, Features, Value

    features = Array2D(shape=(store.tokens, store.channels), dtype="float16")
    side = Value("int32")
    return Features(
        {"image_id": Value("string"), "features": features, "height": side, "width": side}
    )


def _image_bytes(store: FeatureReader) -> int:
    return store.tokens * store.channels * 2


def _write_text(path: Path, text: str) -> None:
    """Write a file that takes its name when it is whole and on the disk."""
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    temporary.write_text(text, encoding="utf-8")
    sync_file(temporary)
    temporary.replace(path)


def _remove_temporary_files(folder: Path) -> None:
    """Remove what a killed process left of `_write_text`."""
    for path in folder.glob(f".*{TEMPORARY}"):
        path.unlink()


@contextmanager
def _explained(out: Path, partial: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        found = (
            "no space left on the device"
            if is_out_of_space(error)
            else error.strerror or str(error)
        )
        raise StoreError(
            f"cannot write {out}: {found}. What is done is kept in {partial}: fix this and run "
            "the same command again to resume."
        ) from error
