"""Loading runs from the Hugging Face Hub.

The files are downloaded to the cache of the Hub, where other programs find them too. What a run
writes, such as predictions, goes to a folder of its own:

    $VL_LST_CACHE/runs/OWNER--NAME/COMMIT/
        recipe.yaml ...     copies of the downloaded files; the weights are a link
        hub.json            repository and commit
        predictions/ ...
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from eval.errors import InputError
from eval.hub import HubAddress, explained_hub_errors, parse_hub_address
from eval.outputs import atomic_path, write_json
from eval.run_files import MODEL_FILE, RECIPE_FILE, RECORD_FILE
from tasks._arrow import cache_folder
from vl_lst.errors import CheckpointError
from vl_lst.hub.files import checkpoint_files

__all__ = ["PulledRun", "find_hub_run", "pull_run"]

log = logging.getLogger(__name__)

SOURCE_FILE = "hub.json"
MAIN = "main"
SMALL_FILE_BYTES = 1 << 28
# Files that are unpickled when they are loaded, and may run any code.
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")


@dataclass(frozen=True, slots=True)
class PulledRun:
    """A run of the Hub in a folder on this machine.

    Args:
        name: OWNER/NAME.
        commit: Commit that was loaded.
        path: Folder of the run.
    """

    name: str
    commit: str
    path: Path


def find_hub_run(path: str | Path, revision: str | None) -> HubAddress | None:
    """Return the address of a run on the Hub; `None` for a local folder.

    A local folder comes first. `OWNER/NAME` is also local if there is a folder `OWNER`, in which
    the run would be expected.

    Args:
        path: Folder, `OWNER/NAME`, or `OWNER/NAME@REVISION`; the latter may begin with `hf://`.
        revision: Branch, tag or commit.

    Raises:
        CheckpointError: There is a local folder `OWNER`, but no run in it.
        InputError: A revision is given twice, or for a local folder.
    """
    address = parse_hub_address(str(path))
    if address is not None and not address.has_prefix and _is_local(Path(path), address):
        if not Path(path).exists():
            raise CheckpointError(
                f"{path} does not exist: expected a run in the folder {Path(path).parent}, as "
                f"`vl-lst train --out` writes it. To load one from the Hub, write hf://{path}."
            )
        address = None
    if revision is None:
        return address
    if address is None:
        raise InputError(
            f"revision {revision!r}: only runs on the Hub have revisions, and {path} is a local "
            "folder. Leave it out, or write hf://OWNER/NAME."
        )
    if address.revision is not None:
        raise InputError(f"{path} already names a revision: found also {revision!r}, expected one")
    return HubAddress(address.name, revision, has_prefix=address.has_prefix)


def _is_local(path: Path, address: HubAddress) -> bool:
    return path.exists() or (address.revision is None and path.parent.is_dir())


def pull_run(address: HubAddress, checkpoint: str) -> PulledRun:
    """Download the files that loading a run reads, unless they are in the cache.

    Args:
        address: Repository and revision.
        checkpoint: Name of the checkpoint.

    Raises:
        InputError: The repository or the revision does not exist or is not accessible, or the
            connection is lost.
        CheckpointError: The repository holds no run, or not this checkpoint.
    """
    small = (RECIPE_FILE, MODEL_FILE, RECORD_FILE, checkpoint_files(checkpoint)[0])
    weights = checkpoint_files(checkpoint)[1]
    place = "from the Hub" if address.has_prefix else "(no folder here, so from the Hub)"
    with explained_hub_errors(f"load {address} {place}", address):
        snapshot = Path(
            snapshot_download(
                address.name,
                revision=address.revision or MAIN,
                allow_patterns=[*small, weights],
            )
        )
        commit = snapshot.name
        required = (RECIPE_FILE, MODEL_FILE, small[-1], weights)
        if missing := [name for name in required if not (snapshot / name).is_file()]:
            found = HfApi().list_repo_files(address.name, revision=commit)
            raise _explain_missing(address, missing, found)
    log.info("%s: commit %s of the Hugging Face Hub", address.name, commit)
    folder = cache_folder() / "runs" / address.name.replace("/", "--") / commit
    for name in small:
        if (snapshot / name).is_file():
            _copy(snapshot / name, folder / name, keep=name == RECORD_FILE)
    _link(snapshot / weights, folder / weights)
    write_json(folder / SOURCE_FILE, {"repository": address.name, "commit": commit})
    return PulledRun(address.name, commit, folder)


def _explain_missing(
    address: HubAddress, missing: Sequence[str], found: Sequence[str]
) -> CheckpointError:
    pickles = [name for name in found if name.endswith(PICKLES)]
    if pickles and not any(name.endswith(".safetensors") for name in found):
        return CheckpointError(
            f"{address} has its weights as pickles alone ({pickles[0]:.100}), which can run any "
            "code when they are loaded, so they are not downloaded. Expected safetensors, as "
            "`vl-lst push` uploads them."
        )
    if RECIPE_FILE in missing or MODEL_FILE in missing:
        listed = ", ".join(sorted(found)[:5]) or "no files"
        return CheckpointError(
            f"{address} is not a run of vl-lst: found {listed:.300}, expected {missing[0]} and the "
            "other files that `vl-lst push` uploads"
        )
    names = {name.split("/")[1] for name in found if name.startswith("checkpoints/")}
    return CheckpointError(
        f"{address} lacks {missing[0]}; its checkpoints are: {', '.join(sorted(names)) or 'none'}"
    )


def _copy(source: Path, target: Path, *, keep: bool) -> None:
    """Copy a small file; with `keep`, unless it is there, as evaluation adds scores to it."""
    if keep and target.exists():
        return
    if source.stat().st_size > SMALL_FILE_BYTES:
        raise CheckpointError(
            f"{source.name} has {source.stat().st_size:,} bytes; expected at most "
            f"{SMALL_FILE_BYTES:,} in a run"
        )
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _link(source: Path, target: Path) -> None:
    """Make `target` a link to a file of the cache, in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder:
        link = Path(folder) / target.name
        link.symlink_to(source.resolve())
        os.replace(link, target)
