"""Push feature files to a dataset on the Hugging Face Hub, and pull them.

The HDF5 file itself is moved, not its Parquet export: after a pull it is byte-identical, with its
settings, failures, image sizes and compression, and nothing has to be converted.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from eval.hub import create_repository, explained_hub_errors, require_hub_token
from feature_extraction.errors import StoreError
from feature_extraction.exchange.dataset_card import hdf5_card
from feature_extraction.exchange.hub_files import (
    DOWNLOADS,
    DatasetAddress,
    HubFile,
    blob_id,
    download_file,
    list_files,
    parse_dataset_address,
    pin_commit,
)
from feature_extraction.names import abbreviate
from feature_extraction.progress import OnProgress
from feature_extraction.store.open import is_index
from feature_extraction.store.outputs import (
    check_output_file,
    claimed_folder,
    move_into_place,
    remove_leftovers,
    remove_locked_folder,
    resolve_link,
)
from feature_extraction.store.store import FeatureStore

__all__ = ["PulledFeatures", "PushedFeatures", "pull_features", "push_features"]

CARD = "README.md"
SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True, slots=True)
class PushedFeatures:
    """An uploaded feature file.

    Args:
        url: Page of the dataset.
        commit: Commit with the file.
        file_name: Path of the file in the dataset.
        is_changed: Whether there was anything to upload.
        has_new_card: Whether a README was written; one that is there is kept.
    """

    url: str
    commit: str
    file_name: str
    is_changed: bool
    has_new_card: bool


@dataclass(frozen=True, slots=True)
class PulledFeatures:
    """A downloaded feature file.

    Args:
        store: The file.
        repository: The dataset, `OWNER/NAME`.
        commit: Commit it was downloaded from.
        file_name: Path of the file in the dataset.
        is_changed: Whether it was downloaded now.
    """

    store: FeatureStore
    repository: str
    commit: str
    file_name: str
    is_changed: bool


def push_features(path: Path, repository: str, *, private: bool = False) -> PushedFeatures:
    """Upload a feature file to a dataset, which is created if it does not exist.

    Large files are uploaded before the commit that names them, and the Hub keeps them: after an
    interruption, what has arrived is not uploaded again.

    Args:
        path: A finished feature file.
        repository: Dataset, `OWNER/NAME`.
        private: Whether only the owner may see the dataset.

    Raises:
        InputError: There is no token, it has no right to write, the connection is lost, or the
            dataset exists and is public although `private` is set.
        StoreError: The file is not a finished feature file.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    address = parse_dataset_address(repository)
    if address.path or address.revision:
        raise StoreError(f"{repository!r:.200}: expected OWNER/NAME, without path and revision")
    if is_index(path):
        raise StoreError(
            f"{path} is an index of other files. Push each of these, or copy them into one: "
            "vl-lst features join FILES --out whole.h5 --copy"
        )
    store = FeatureStore(path)
    store.require_finished()
    dataset, action = address.at(None), f"push to {address.name}"
    require_hub_token(action)
    api = HfApi()
    with explained_hub_errors(action, dataset):
        create_repository(dataset, private=private)
        before = api.dataset_info(address.name)
        operations = [CommitOperationAdd(path.name, path)]
        has_card = CARD in {sibling.rfilename for sibling in before.siblings or ()}
        if not has_card:
            card = hdf5_card(store, address.name, path.name)
            operations.append(CommitOperationAdd(CARD, card.encode()))
        commit = api.create_commit(
            address.name,
            operations,
            commit_message=f"Upload {path.name}",
            repo_type="dataset",
        )
    return PushedFeatures(
        dataset.page, commit.oid, path.name, commit.oid != before.sha, not has_card
    )


def pull_features(text: str, out: Path, *, on_progress: OnProgress | None = None) -> PulledFeatures:
    """Download a feature file from a dataset. After an interruption, the same call resumes it.

    Args:
        text: `OWNER/NAME[/FILE.h5][@REVISION]`; the file may be left out if there is only one.
        out: File to create. The same file is left unchanged.
        on_progress: Called after each block, with numbers of bytes.

    Raises:
        InputError: The dataset cannot be read, or the connection is lost.
        StoreError: It has no feature file, or several; or `out` is another file.
    """
    address = parse_dataset_address(text)
    action = f"pull from {address.name}"
    if out.exists():
        check_output_file(out)
    commit = pin_commit(address, action)
    file = _choose_file(address, list_files(address, commit, action))
    check_output_file(out)
    is_there = out.exists()
    if is_there and not _is_same(out, file):
        raise StoreError(
            f"{out} exists, and is not {file.path} of {address.name}. Remove it if it is not "
            "needed, or choose another --out."
        )
    if is_there:
        remove_leftovers(out)
    else:
        _download(address, commit, file, out, action, on_progress)
    return PulledFeatures(FeatureStore(out), address.name, commit, file.path, not is_there)


def _choose_file(address: DatasetAddress, files: list[HubFile]) -> HubFile:
    found = [file for file in files if PurePosixPath(file.path).suffix.lower() in SUFFIXES]
    if not found:
        raise StoreError(
            f"there is no feature file (.h5) at {address.text}: found "
            f"{abbreviate([file.path for file in files])}. For Parquet files: vl-lst features "
            f"import hf://datasets/{address.name}"
        )
    if len(found) > 1:
        raise StoreError(
            f"there are {len(found):,} files at {address.text}: "
            f"{abbreviate([file.path for file in found])}. Name one: "
            f"{address.name}/{found[0].path}"
        )
    return found[0]


def _is_same(path: Path, file: HubFile) -> bool:
    is_same_size = path.stat().st_size == file.size
    return is_same_size and blob_id(path, is_large=file.is_large) == file.blob_id


def _download(
    address: DatasetAddress,
    commit: str,
    file: HubFile,
    out: Path,
    action: str,
    on_progress: OnProgress | None,
) -> None:
    with claimed_folder(out, DOWNLOADS) as folder:
        # The branch may have changed since an earlier run.
        place = folder / DOWNLOADS / file.blob_id
        downloaded = download_file(address, commit, file, place, action, on_progress=on_progress)
        try:
            FeatureStore(downloaded)
        except StoreError as error:
            downloaded.unlink()
            message = str(error).replace(f"{place}/", f"{address.name}: ")
            raise StoreError(f"{message} Nothing was written to {out}.") from error
        move_into_place(downloaded, resolve_link(out))
        remove_locked_folder(folder)
