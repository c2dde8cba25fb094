"""Join shards into one feature file: an index next to them, or a self-contained copy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from feature_extraction.errors import StoreError
from feature_extraction.names import abbreviate
from feature_extraction.store.index import write_index
from feature_extraction.store.joined import JoinedStore
from feature_extraction.store.open import is_index
from feature_extraction.store.outputs import (
    atomic_output,
    check_output_file,
    partial_folder,
    remove_leftovers,
    resolve_link,
)
from feature_extraction.store.shards import ShardRecord, image_list_sha256
from feature_extraction.store.store import FeatureStore, combine_metadata, has_same_content
from feature_extraction.store.writer import StoreWriter

__all__ = ["JoinResult", "join_stores"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinResult:
    """Result of a join.

    Args:
        path: The index, or the copy.
        files: Joined files, in order.
        images: Number of images they list together.
        failures: Reason by id for each image that could not be read.
        file_bytes: Size of the index or the copy.
    """

    path: Path
    files: tuple[Path, ...]
    images: int
    failures: Mapping[str, str]
    file_bytes: int


def join_stores(paths: Sequence[Path], out: Path, *, copy: bool = False) -> JoinResult:
    """Join the shards of one extraction, or several stores with equal specs, into one file.

    Shards are sorted by number; other stores keep the given order. After an interruption, the same
    call resumes a copy or writes the index again; the file is byte-identical.

    Args:
        paths: All shards of one extraction, or stores that are not shards.
        out: File to create; an existing index is replaced.
        copy: Copy the features into one uncompressed file instead of writing an index.

    Raises:
        StoreError: A shard is missing, unfinished or damaged; the specs differ; an image is missing
            or occurs twice; `out` cannot be written, or already holds features.
    """
    if not paths:
        raise StoreError("no file to join was given")
    _check_out(out, paths)
    stores = [FeatureStore(path) for path in paths]
    joined = JoinedStore(stores)
    for store in stores:
        store.require_finished()
    records = [store.shard for store in stores if store.shard is not None]
    if records:
        if len(records) < len(stores):
            whole = next(store.path for store in stores if store.shard is None)
            raise StoreError(
                f"{whole} is not a shard, but other files are. Pass all shards of one extraction, "
                "or only files that are not shards."
            )
        stores.sort(key=_start)
        _check_complete(stores, records)
    if out.exists() and not is_index(out):
        if not (copy and _is_copied(stores, out)):
            raise StoreError(
                f"{out} exists and is not an index; only an index is replaced. Remove it if it is "
                "not needed, or choose another --out."
            )
        remove_leftovers(out)
    elif copy:
        _write_copy(stores, out)
    else:
        _write_index(stores, out)
    return JoinResult(
        path=out,
        files=tuple(store.path for store in stores),
        images=sum(len(store.listed_ids) for store in stores),
        failures=joined.failures,
        file_bytes=out.stat().st_size,
    )


def _check_out(out: Path, paths: Sequence[Path]) -> None:
    check_output_file(out)
    if out.exists() and any(path.exists() and out.samefile(path) for path in paths):
        raise StoreError(f"{out} is one of the files to join; choose another --out")


def _start(store: FeatureStore) -> int:
    return store.shard.start if store.shard else 0


def _check_complete(stores: Sequence[FeatureStore], records: Sequence[ShardRecord]) -> None:
    """Check that the shards belong to one image list and cover it completely.

    Args:
        stores: Stores sorted by start, without repeated images.
        records: Their records, in any order.

    Raises:
        StoreError: A shard or an image is missing, or belongs to another extraction.
    """
    first = records[0]
    for record in records:
        if record.model_copy(update={"number": first.number, "start": first.start}) != first:
            raise StoreError(
                f"the shards belong to different extractions: number {first.number} of "
                f"{first.count} is from {first.images:,} images, number {record.number} of "
                f"{record.count} from {record.images:,}, or their names differ. Extract all shards "
                "of the same folder."
            )
    missing = sorted(set(range(1, first.count + 1)).difference(r.number for r in records))
    if missing:
        described = [_describe_missing(stores[0], number) for number in missing]
        raise StoreError(
            f"{len(missing)} of {first.count} shards are missing: {abbreviate(described)}. Pass "
            "all of them, after each has been extracted."
        )
    stop, before = 0, "the beginning"
    for store in stores:
        if _start(store) != stop:
            raise StoreError(
                f"{_start(store) - stop:,} images are missing between {before} and "
                f"{store.listed_ids[0]!r} of {store.path}: the shards were made with different "
                "batch sizes. Extract them with the same --batch-size."
            )
        stop, before = stop + len(store.listed_ids), repr(store.listed_ids[-1])
    listed = [image_id for store in stores for image_id in store.listed_ids]
    if stop != first.images or image_list_sha256(listed) != first.image_ids_sha256:
        raise StoreError(
            f"the shards list {stop:,} images, but were made for {first.images:,}, or for other "
            "names: some are missing or do not belong to them. Extract the shards again."
        )


def _describe_missing(store: FeatureStore, number: int) -> str:
    record = store.shard
    found = record.number if record else 0
    name = store.path.name.replace(f".shard-{found}-of-", f".shard-{number}-of-")
    is_unfinished = partial_folder(store.path.with_name(name)).exists()
    return f"number {number} ({name}{', which is not finished' if is_unfinished else ''})"


def _write_index(stores: Sequence[FeatureStore], out: Path) -> None:
    files = {_relative_name(store.path, out): len(store.listed_ids) for store in stores}
    with atomic_output(out) as temporary:
        write_index(temporary, files, combine_metadata(stores))


def _relative_name(path: Path, out: Path) -> str:
    folder = resolve_link(out).parent.resolve()
    # Resolve the folder, not the file: a link next to the index counts as the file.
    absolute = path.parent.resolve() / path.name
    if not absolute.is_relative_to(folder):
        raise StoreError(
            f"{path} is not in the folder of {out} or below it, where an index looks for its "
            "files. Choose an --out next to the shards, or pass --copy."
        )
    return absolute.relative_to(folder).as_posix()


def _is_copied(stores: Sequence[FeatureStore], out: Path) -> bool:
    """Whether `out` is the result of copying the stores."""
    try:
        found = FeatureStore(out)
        return (
            found.compression == "none" and found.shard is None and has_same_content(found, stores)
        )
    except StoreError:
        return False


def _write_copy(stores: Sequence[FeatureStore], out: Path) -> None:
    image_ids = [image_id for store in stores for image_id in store.listed_ids]
    with StoreWriter(out, stores[0].spec, image_ids) as writer:
        start = 0
        for store in stores:
            writer.copy_from(store, start=start)
            start += len(store.listed_ids)
        writer.finish()
