"""Shards become one feature file: an index beside them, or a copy that needs them no more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from feature_extraction.errors import StoreError
from feature_extraction.store.index import IndexEntry, write_index
from feature_extraction.store.layout import Status
from feature_extraction.store.partial import PartialStore
from feature_extraction.store.shards import ShardRecord, image_list_sha256
from feature_extraction.store.store import FeatureStore, JoinedStore, holds_same, is_index
from feature_extraction.store.targets import (
    check_target,
    link_target,
    partial_folder,
    remove_leftovers,
    written_whole,
)

__all__ = ["JoinResult", "join_stores"]

SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinResult:
    """What was joined.

    Args:
        path: The index, or the copy.
        files: The files that were joined, in their order.
        images: Images they list together.
        failures: Reason by id of each image that could not be read.
        file_bytes: Size of the index or the copy.
    """

    path: Path
    files: tuple[Path, ...]
    images: int
    failures: Mapping[str, str]
    file_bytes: int


def join_stores(paths: Sequence[Path], out: Path, *, copy: bool = False) -> JoinResult:
    """Join the shards of one extraction, or several whole stores made alike, into one file.

    Shards are put in their order whatever the order they are given in; whole stores stay in the
    order given. Killed at any moment, the same call makes the same file, or finds it finished.

    Args:
        paths: All shards of one extraction, or stores that are not shards.
        out: The file to make; an index that is there already is replaced.
        copy: Whether to copy the features into one plain file, not to point at them.

    Raises:
        StoreError: A shard is missing, unfinished or damaged; the specs differ; an image is missing
            or occurs twice; `out` cannot be written, or holds features already.
    """
    if not paths:
        raise StoreError("no file to join was given")
    _check_out(out, paths)
    stores = [FeatureStore(path) for path in paths]
    joined = JoinedStore(stores)
    for store in stores:
        pending = [
            image_id
            for image_id, status in zip(store.listed_ids, store.status, strict=True)
            if status not in (Status.DONE, Status.FAILED)
        ]
        if pending:
            raise StoreError(
                f"{store.path} is not finished: {_some(pending)} pending. Run its extraction again."
            )
    records = [store.shard for store in stores if store.shard is not None]
    if records:
        if len(records) < len(stores):
            whole = next(store.path for store in stores if store.shard is None)
            raise StoreError(
                f"{whole} is not a shard, others are. Give all shards of one extraction, or files "
                "that are not shards."
            )
        stores.sort(key=_place)
        _check_complete(stores, records)
    if out.exists() and not is_index(out):
        if not (copy and _is_copied(stores, out)):
            raise StoreError(
                f"{out} exists and is not an index, which alone is replaced. Remove it if it is "
                "not needed, or give another --out."
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
    check_target(out)
    if out.exists() and any(path.exists() and out.samefile(path) for path in paths):
        raise StoreError(f"{out} is one of the files to join; give another --out")


def _place(store: FeatureStore) -> int:
    return store.shard.start if store.shard else 0


def _check_complete(stores: Sequence[FeatureStore], records: Sequence[ShardRecord]) -> None:
    """Make sure that the shards are all, of one image list, and cover it.

    Args:
        stores: In their order, without an image in two of them.
        records: Of the stores, in any order.
    """
    first = records[0]
    for record in records:
        if record.model_copy(update={"number": first.number, "start": first.start}) != first:
            raise StoreError(
                f"the shards are of different extractions: number {first.number} of {first.count} "
                f"is of {first.images:,} images, number {record.number} of {record.count} is of "
                f"{record.images:,}, or of others by name. Extract all shards of the same folder."
            )
    missing = sorted(set(range(1, first.count + 1)).difference(r.number for r in records))
    if missing:
        raise StoreError(
            f"{len(missing)} of {first.count} shards are missing: "
            f"{_some([_named_like(stores[0], number) for number in missing])}. Give all, once "
            "each has been extracted."
        )
    stop, before = 0, "the beginning"
    for store in stores:
        if _place(store) != stop:
            raise StoreError(
                f"{_place(store) - stop:,} images are missing between {before} and "
                f"{store.listed_ids[0]!r} of {store.path}: the shards were made with different "
                "batch sizes. Extract them with the same --batch-size."
            )
        stop, before = stop + len(store.listed_ids), repr(store.listed_ids[-1])
    listed = [image_id for store in stores for image_id in store.listed_ids]
    if stop != first.images or image_list_sha256(listed) != first.image_ids_sha256:
        raise StoreError(
            f"the shards list {stop:,} images and were made for {first.images:,}, or for others by "
            "name: some are missing or not their own. Extract the shards again."
        )


def _named_like(store: FeatureStore, number: int) -> str:
    record = store.shard
    found = record.number if record else 0
    name = store.path.name.replace(f".shard-{found}-of-", f".shard-{number}-of-")
    is_under_way = partial_folder(store.path.with_name(name)).exists()
    return f"number {number} ({name}{', which is not finished' if is_under_way else ''})"


def _write_index(stores: Sequence[FeatureStore], out: Path) -> None:
    entries = [
        IndexEntry(_relative_name(store.path, out), store.listed_ids, store.status)
        for store in stores
    ]
    with written_whole(out) as temporary:
        write_index(
            temporary,
            stores[0].spec,
            entries,
            np.concatenate([store.listed_sizes for store in stores]),
            [store.failures.get(i, "") for store in stores for i in store.listed_ids],
        )


def _relative_name(path: Path, out: Path) -> str:
    folder = link_target(out).parent.resolve()
    # The folder is resolved, not the file: a link beside the index counts as the file.
    place = path.parent.resolve() / path.name
    if not place.is_relative_to(folder):
        raise StoreError(
            f"{path} is not in the folder of {out} or below it, where an index looks for its "
            "files. Choose an --out beside the shards, or pass --copy."
        )
    return place.relative_to(folder).as_posix()


def _is_copied(stores: Sequence[FeatureStore], out: Path) -> bool:
    """Whether `out` is what copying the stores makes."""
    try:
        found = FeatureStore(out)
        return found.compression == "none" and found.shard is None and holds_same(found, stores)
    except StoreError:
        return False


def _write_copy(stores: Sequence[FeatureStore], out: Path) -> None:
    image_ids = [image_id for store in stores for image_id in store.listed_ids]
    with PartialStore(out, stores[0].spec, image_ids) as partial:
        start = 0
        for store in stores:
            partial.adopt(store, start=start)
            start += len(store.listed_ids)
        partial.finish()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
