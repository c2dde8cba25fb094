"""Files of a dataset on the Hugging Face Hub: their addresses, and downloading them."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from eval.hub import HubAddress, explained_hub_errors
from feature_extraction.errors import StoreError
from feature_extraction.sizes import needed_and_free
from feature_extraction.store.disk import explain_write_errors, require_regular_file

__all__ = [
    "DatasetAddress",
    "HubFile",
    "download_file",
    "file_sha256",
    "is_hub_address",
    "list_files",
    "parse_dataset_address",
    "pin_commit",
    "progress_bars",
]

PREFIX = "hf://datasets/"
# The Hub's own form puts the revision after the name; at the end it is accepted as well.
ADDRESS = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[\w.-]+|[^/@]+))?"
    r"(?:/(?P<path>[^@]*))?(?:@(?P<last>[^@]+))?",
    re.ASCII,
)
EXPECTED = "expected hf://datasets/OWNER/NAME[/PATH][@REVISION]"


@dataclass(frozen=True, slots=True)
class DatasetAddress:
    """A file or folder of a dataset on the Hub.

    Args:
        text: The address as the user gave it.
        name: Repository, `OWNER/NAME`.
        path: Path in the repository; empty for all of it.
        revision: Branch, tag or commit; `None` for the main branch.
    """

    text: str
    name: str
    path: str
    revision: str | None

    def at(self, revision: str | None) -> HubAddress:
        """Return the address of the repository at a revision."""
        return HubAddress(self.name, revision, has_prefix=True)


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
    return DatasetAddress(
        text, found["name"], (found["path"] or "").strip("/"), revision and unquote(revision)
    )


def pin_commit(address: DatasetAddress, action: str) -> str:
    """Return the commit of an address's revision.

    Args:
        address: Address of the repository.
        action: What is done, for messages ("import from OWNER/NAME").

    Raises:
        InputError: There is no such repository or revision, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    with explained_hub_errors(action, address.at(address.revision)):
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
    from huggingface_hub import HfApi, RepoFile

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


def download_file(
    address: DatasetAddress, commit: str, file: HubFile, folder: Path, action: str
) -> Path:
    """Download a file into a folder, at its path in the repository, and check it.

    A partial download in the folder is resumed; a complete one is kept. The library behind it
    requests the rest again if a connection is dropped.

    Args:
        address: Address of the repository.
        commit: Commit of the repository.
        file: The file.
        folder: Folder to write to.
        action: What is done, for messages.

    Raises:
        InputError: The Hub cannot be reached.
        StoreError: The content differs from what the Hub announced.
    """
    from huggingface_hub import hf_hub_download

    if ".." in PurePosixPath(file.path).parts or file.path.startswith("/"):
        raise StoreError(f"the path {file.path!r} leads out of the dataset {address.name}: refused")
    path = folder / file.path
    require_regular_file(path)
    with explain_write_errors(path), explained_hub_errors(action, address.at(commit)):
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(folder, file)
        hf_hub_download(
            address.name, file.path, repo_type="dataset", revision=commit, local_dir=folder
        )
    require_regular_file(path, must_exist=True)
    if path.stat().st_size != file.size or (file.is_large and file_sha256(path) != file.blob_id):
        path.unlink()
        raise StoreError(
            f"{file.path} of {address.name} was not downloaded correctly: its content differs from "
            "what the Hub announced. Run the same command again to download it again."
        )
    return path


@contextmanager
def progress_bars(*, show: bool) -> Iterator[None]:
    """Show or hide the progress bars of uploads and downloads in the block.

    Args:
        show: Whether to show them, unless the user has switched them off.
    """
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if show or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _check_space(folder: Path, file: HubFile) -> None:
    free = shutil.disk_usage(folder).free
    if file.size > free:
        raise StoreError(
            f"the download of {file.path} needs {needed_and_free(file.size, free)} at {folder}. "
            "Free some space, or choose another --out."
        )


def _hub_file(entry: Any) -> HubFile:
    if entry.lfs is None:
        return HubFile(entry.path, entry.size, entry.blob_id, is_large=False)
    return HubFile(entry.path, entry.size, entry.lfs.sha256, is_large=True)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
