"""Files of a dataset on the Hugging Face Hub: their addresses, and downloading them."""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from eval.hub import CLIENT_ERROR, NAME, HubAddress, explained_hub_errors
from feature_extraction.errors import StoreError
from feature_extraction.progress import OnProgress
from feature_extraction.sizes import needed_and_free
from feature_extraction.store.disk import explain_write_errors, require_regular_file, sync_path

__all__ = [
    "DOWNLOADS",
    "DatasetAddress",
    "HubFile",
    "RemoteFile",
    "blob_id",
    "download_file",
    "is_hub_address",
    "list_files",
    "open_remote",
    "parse_dataset_address",
    "pin_commit",
]

PREFIX = "hf://datasets/"
# The Hub's own form puts the revision after the name; at the end it is accepted as well.
ADDRESS = re.compile(
    rf"(?P<name>{NAME})"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[\w.-]+|[^/@]+))?"
    r"(?:/(?P<path>[^@]*))?(?:@(?P<last>[^@]+))?",
    re.ASCII,
)
# Name of the folder of partial downloads, within that of an unfinished store.
DOWNLOADS = "downloads"
BLOCK_BYTES = 2**25
# In addition to those of the library, which in some versions does not repeat every request.
MAX_ATTEMPTS = 3
EXPECTED = "expected hf://datasets/OWNER/NAME[/PATH][@REVISION]"


@dataclass(frozen=True, slots=True)
class DatasetAddress:
    """A file or folder of a dataset on the Hub.

    Args:
        text: The address as the user gave it.
        repository: The dataset, at a revision.
        path: Path in the repository; empty for all of it.
    """

    text: str
    repository: HubAddress
    path: str

    @property
    def name(self) -> str:
        """Repository, `OWNER/NAME`."""
        return self.repository.name

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit; `None` for the main branch."""
        return self.repository.revision

    def at(self, revision: str | None) -> HubAddress:
        """Return the address of the repository at a revision."""
        return replace(self.repository, revision=revision)


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository.

    Args:
        path: Path in the repository.
        size: Size in bytes.
        blob_id: SHA-256 of a large file, or Git's hash of a small one.
        is_large: Whether `blob_id` is the SHA-256.
    """

    path: str
    size: int
    blob_id: str
    is_large: bool


def is_hub_address(source: object) -> bool:
    """Whether a source is on the Hub."""
    return str(source).startswith("hf:/")


def parse_dataset_address(text: str) -> DatasetAddress:
    """Parse `hf://datasets/OWNER/NAME[/PATH][@REVISION]`; the prefix may be left out.

    Raises:
        StoreError: The text has another form.
    """
    # `Path` turns the two slashes into one.
    text = re.sub(r"^hf:/+", "hf://", text)
    found = ADDRESS.fullmatch(text.removeprefix(PREFIX))
    if found is None or (found["revision"] and found["last"]):
        raise StoreError(f"{text!r:.200} is not the address of a dataset on the Hub; {EXPECTED}")
    if is_hub_address(text) and not text.startswith(PREFIX):
        raise StoreError(f"{text!r:.200} does not start with {PREFIX}; {EXPECTED}")
    revision = found["revision"] or found["last"]
    repository = HubAddress(
        found["name"], revision and unquote(revision), has_prefix=True, is_dataset=True
    )
    return DatasetAddress(text, repository, (found["path"] or "").strip("/"))


def pin_commit(address: DatasetAddress, action: str) -> str:
    """Return the commit of an address's revision.

    Args:
        address: Address of the repository.
        action: What is done, for messages ("import from OWNER/NAME").

    Raises:
        InputError: There is no such repository or revision, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    with explained_hub_errors(action, address.repository):
        info = HfApi().dataset_info(address.name, revision=address.revision)
    return str(info.sha)


def list_files(address: DatasetAddress, commit: str, action: str) -> list[HubFile]:
    """List the files at an address, or below it.

    Args:
        address: File or folder.
        commit: Commit of the repository.
        action: What is done, for messages.

    Raises:
        InputError: The Hub cannot be reached.
        StoreError: There is no such path.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with explained_hub_errors(action, address.at(commit)):
        tree = HfApi().list_repo_tree(
            address.name, recursive=True, revision=commit, repo_type="dataset"
        )
        files = [_hub_file(each) for each in tree if isinstance(each, RepoFile)]
    wanted = PurePosixPath(address.path)
    files = [file for file in files if PurePosixPath(file.path).is_relative_to(wanted)]
    if not files:
        raise StoreError(
            f"there is no file {address.path or 'at all'!r} in the dataset {address.name} at "
            f"{commit[:12]}. Check the path on the Hub."
        )
    return files


class RemoteFile:
    """A file on the Hub, of which parts can be read; requests that fail are repeated.

    Errors of the connection are raised as `InputError`, so that they cannot be mistaken for damage.

    Args:
        file: The file, as `huggingface_hub` opens it.
        explain: Returns the context that explains errors.
    """

    def __init__(self, file: Any, explain: Callable[[], AbstractContextManager[None]]) -> None:
        self._file = file
        self._explain = explain

    def read(self, size: int = -1) -> bytes:
        """Read from the current position.

        Args:
            size: Number of bytes.

        Raises:
            InputError: The Hub cannot be reached, or refuses the request.
        """
        with self._explain():
            for attempt in range(1, MAX_ATTEMPTS):
                try:
                    return bytes(self._file.read(size))
                except CLIENT_ERROR as error:
                    # The Hub's answers are of this class too.
                    if isinstance(error, OSError):
                        raise
                    time.sleep(attempt)
            return bytes(self._file.read(size))

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the file."""
        return getattr(self._file, name)


def open_remote(
    address: DatasetAddress,
    commit: str,
    file: HubFile,
    action: str,
    *,
    block_bytes: int,
    reads_ahead: bool,
) -> RemoteFile:
    """Open a file on the Hub.

    Args:
        address: Address of the repository.
        commit: Commit of the repository.
        file: The file.
        action: What is done, for messages.
        block_bytes: Number of bytes to request in addition, if `reads_ahead`.
        reads_ahead: Whether to keep more than what is asked for in memory.

    Raises:
        InputError: The Hub cannot be reached.
    """
    from huggingface_hub import HfFileSystem

    explain = partial(explained_hub_errors, action, address.at(commit))
    with explain():
        opened = HfFileSystem().open(
            f"datasets/{address.name}/{file.path}",
            revision=commit,
            block_size=block_bytes,
            size=file.size,
            cache_type="readahead" if reads_ahead else "none",
        )
    return RemoteFile(opened, explain)


def download_file(
    address: DatasetAddress,
    commit: str,
    file: HubFile,
    folder: Path,
    action: str,
    *,
    on_progress: OnProgress | None = None,
) -> Path:
    """Download a file into a folder, at its path in the repository, and check it.

    The file is requested block by block, and a block again if the connection is dropped. A partial
    download in the folder is resumed, also by another process; a complete one is kept.

    Args:
        address: Address of the repository.
        commit: Commit of the repository.
        file: The file.
        folder: Folder for files of this commit alone.
        action: What is done, for messages.
        on_progress: Called after each block, with numbers of bytes.

    Raises:
        InputError: The Hub cannot be reached.
        StoreError: The content differs from what the Hub announced, or cannot be written.
    """
    if ".." in PurePosixPath(file.path).parts or file.path.startswith("/"):
        raise StoreError(f"the path {file.path!r} leads out of the dataset {address.name}: refused")
    path = folder / file.path
    partial = path.with_name(f"{path.name}.incomplete")
    for each in (path, partial):
        require_regular_file(each)
    if path.exists():
        return path
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("ab") as target:
            if target.tell() > file.size:
                target.truncate(0)
            _check_space(folder, file, target.tell())
            source = open_remote(
                address, commit, file, action, block_bytes=BLOCK_BYTES, reads_ahead=False
            )
            while target.tell() < file.size:
                source.seek(target.tell())
                block = source.read(min(BLOCK_BYTES, file.size - target.tell()))
                if not block:
                    break
                target.write(block)
                target.flush()
                if on_progress is not None:
                    on_progress(target.tell(), file.size)
        if blob_id(partial, is_large=file.is_large) != file.blob_id:
            partial.unlink()
            raise StoreError(
                f"{file.path} of {address.name} was not downloaded correctly: its content differs "
                "from what the Hub announced. Run the same command again to download it again."
            )
        sync_path(partial)
        os.replace(partial, path)
    return path


def blob_id(path: Path, *, is_large: bool) -> str:
    """Return the hash by which the Hub identifies the content of a file.

    Args:
        path: The file.
        is_large: Whether it is stored as a large file; see `HubFile`.
    """
    if is_large:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    # Git's hash of a small file.
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _check_space(folder: Path, file: HubFile, done: int) -> None:
    needed, free = file.size - done, shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"the download of {file.path} needs {needed_and_free(needed, free)} at {folder}. "
            "Free some space, or choose another --out."
        )


def _hub_file(entry: Any) -> HubFile:
    is_large = entry.lfs is not None
    found = entry.lfs.sha256 if is_large else entry.blob_id
    # It becomes the name of a folder.
    if not re.fullmatch("[0-9a-f]{40,64}", found):
        raise StoreError(f"the Hub lists {entry.path!r} with the hash {found!r:.100}: refused")
    return HubFile(entry.path, entry.size, found, is_large)
