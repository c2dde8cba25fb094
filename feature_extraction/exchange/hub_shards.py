"""Parquet shards on the Hugging Face Hub, imported one after another.

The names of all images are read first, by requests for parts of the files: the end with the
schema, and the column of names. Nothing is written before all schemas are known to be equal. Then
one shard at a time is downloaded next to the output, and removed when the next is needed. It is
downloaded whole rather than read where Parquet asks for it, because a download resumes where the
connection was dropped, even in a later run, and its hash can be checked.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath

from feature_extraction.errors import StoreError
from feature_extraction.exchange.foreign.feature_file import (
    HOW_TO_REPLACE,
    FeatureFile,
    explain_damage,
    find_features_name,
)
from feature_extraction.exchange.foreign.find import TABLE_SUFFIX, natural_order
from feature_extraction.exchange.foreign.found import FoundFeatures, find_parquet_rows
from feature_extraction.exchange.foreign.parquet_columns import (
    ParquetColumns,
    examine_columns,
    open_parquet,
)
from feature_extraction.exchange.hub_files import (
    DOWNLOADS,
    DatasetAddress,
    HubFile,
    download_file,
    list_files,
    open_remote,
    parse_dataset_address,
    pin_commit,
)
from feature_extraction.store.outputs import partial_folder
from feature_extraction.store.source import Source
from feature_extraction.store.store import FeatureStore
from feature_extraction.store.writer import unfinished_source

__all__ = ["find_hub_features"]

CONNECTIONS = 8
# Small, because only the end of a file and its column of names are needed.
READ_AHEAD_BYTES = 2**16


def find_hub_features(text: str, out: Path) -> FoundFeatures:
    """Find the images that have features in Parquet files of a dataset on the Hub.

    If an earlier run with the same address has started or finished `out`, the commit of that run is
    used, even if the branch has changed since.

    Args:
        text: Address `hf://datasets/OWNER/NAME[/PATH][@REVISION]`.
        out: The store that is being made; shards are downloaded next to it.

    Raises:
        InputError: The dataset cannot be read, or the Hub cannot be reached.
        StoreError: It has no Parquet files with features, or their schemas differ.
    """
    address = parse_dataset_address(text)
    action = f"import from {text}"
    earlier = FeatureStore(out).source if out.is_file() else unfinished_source(out)
    is_same = earlier is not None and earlier.address == text
    commit = earlier.revision if earlier and is_same else pin_commit(address, action)
    files = sorted(list_files(address, commit, action), key=lambda f: natural_order(Path(f.path)))
    tables = [file for file in files if file.path.lower().endswith(TABLE_SUFFIX)]
    if not tables:
        raise StoreError(_no_tables(address, files))
    folder = partial_folder(out) / DOWNLOADS
    try:
        shards = _examine(address, commit, tables, folder, action)
        if not shards:
            raise StoreError(
                f"none of the {len(tables):,} Parquet files of {text} has a column of features"
            )
        found = find_parquet_rows(list(shards.values()), {})
    except StoreError as error:
        # The shards are not there yet; and users can seldom replace files on the Hub.
        place = f"hf://datasets/{address.name}@{commit[:12]}/"
        message = str(error).replace(f"{folder}/", place)
        advice = "Import another path or revision of the dataset, or download and repair it."
        raise StoreError(message.replace(HOW_TO_REPLACE, advice)) from error
    fetched = _FetchedShards(address, commit, {s.path: f for f, s in shards.items()}, folder)
    rest = Counter(PurePosixPath(f.path).suffix for f in tables if f not in shards)
    return replace(
        found,
        left_out=dict(rest),
        prepare=fetched.prepare,
        source=_source(address, commit, list(shards)),
    )


class _FetchedShards:
    """Downloads each shard when its first row is needed, and keeps only that one."""

    def __init__(
        self, address: DatasetAddress, commit: str, files: dict[Path, HubFile], folder: Path
    ) -> None:
        self._address = address
        self._commit = commit
        self._files = files
        self._folder = folder
        self._current: Path | None = None

    def prepare(self, file: FeatureFile) -> None:
        """Download the shard of an image unless it is there; images must come in order."""
        if file.path == self._current:
            return
        # Also one that an earlier run has left behind.
        for path in self._files:
            if path != file.path:
                path.unlink(missing_ok=True)
        download_file(
            self._address,
            self._commit,
            self._files[file.path],
            self._folder,
            f"import from {self._address.text}",
        )
        self._current = file.path


def _examine(
    address: DatasetAddress, commit: str, files: Sequence[HubFile], folder: Path, action: str
) -> dict[HubFile, ParquetColumns]:
    """Return the columns of each file that has features."""

    def examine(file: HubFile) -> ParquetColumns | None:
        path = folder / file.path
        remote = open_remote(
            address, commit, file, action, block_bytes=READ_AHEAD_BYTES, reads_ahead=True
        )
        with explain_damage(path), open_parquet(remote) as opened:
            if find_features_name(opened.schema_arrow.names) is None:
                return None
            return examine_columns(path, opened)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        found = zip(files, pool.map(examine, files), strict=True)
        return {file: columns for file, columns in found if columns is not None}


def _source(address: DatasetAddress, commit: str, files: Sequence[HubFile]) -> Source:
    lines = "".join(f"{file.blob_id}  {file.path}\n" for file in files)
    return Source(
        address=address.text,
        repository=address.name,
        revision=commit,
        files=len(files),
        file_bytes=sum(file.size for file in files),
        files_sha256=hashlib.sha256(lines.encode()).hexdigest(),
    )


def _no_tables(address: DatasetAddress, files: Sequence[HubFile]) -> str:
    suffixes = Counter(PurePosixPath(file.path).suffix or "no suffix" for file in files)
    found = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(suffixes.items()))
    advice = "Download the files, and import their folder."
    if ".h5" in suffixes:
        advice = f"For a feature file of this project: vl-lst features pull {address.name}"
    return f"there are no Parquet files at {address.text}: found {found}. {advice}"
