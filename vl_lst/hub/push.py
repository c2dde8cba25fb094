"""Uploading runs to the Hugging Face Hub.

All files go into one commit, so that nobody ever sees a part of them. Large files are uploaded
before it, and the Hub keeps them: a push that was interrupted continues with the others.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelInfo,
    hf_hub_download,
)

from eval.errors import InputError
from eval.hub import (
    HubAddress,
    create_repository,
    explained_hub_errors,
    parse_hub_address,
    require_hub_token,
)
from eval.regular_files import open_regular
from tasks import task_names
from vl_lst.hub.card import LICENSE, model_card
from vl_lst.hub.curve import CURVE_FILE, draw_training_curve
from vl_lst.hub.files import portable_run
from vl_lst.hub.scores import result_files
from vl_lst.runs.directory import RunDirectory

__all__ = ["PushedRun", "push_run"]

MAIN = "main"
CARD_FILE = "README.md"
MAX_CARD_BYTES = 1 << 24
HEADER = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)
LICENSE_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
BRANCH = re.compile(r"[A-Za-z0-9][\w./-]{0,127}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PushedRun:
    """An uploaded run.

    Args:
        url: Page of the repository.
        commit: Commit with the run.
        is_changed: Whether there was anything to upload.
        license_id: License in the model card.
        files: Paths in the repository, with their sizes in bytes.
    """

    url: str
    commit: str
    is_changed: bool
    license_id: str
    files: dict[str, int]


def push_run(
    run: str | Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    license_id: str | None = None,
    backbone: str | None = None,
    report: Callable[[str], None] = lambda message: None,
) -> PushedRun:
    """Upload a run, or update it.

    Args:
        run: Folder of a finished run.
        repository: OWNER/NAME, which is created if it does not exist.
        private: Whether only the owner may see the repository.
        revision: Branch to upload to, which is created if it does not exist. Default: `main`.
        license_id: Identifier of a license on the Hub, such as `apache-2.0`. Default: that of
            the repository's model card, else unknown.
        backbone: See `portable_run`.
        report: Called with what is done next.

    Raises:
        CheckpointError: The folder holds no finished run.
        InputError: An argument is not valid, there is no token or it has no right to write, or the
            connection is lost.
    """
    address = _address(repository, revision)
    if license_id is not None and not LICENSE_NAME.fullmatch(license_id):
        raise InputError(
            f"license {license_id!r:.100}: expected an identifier of the Hub, such as apache-2.0 "
            "(https://huggingface.co/docs/hub/repositories-licenses)"
        )
    require_hub_token(f"push to {address.name}")
    directory = RunDirectory(run)
    portable = portable_run(directory, backbone=backbone)
    files: dict[str, bytes | Path] = portable.files()
    curve = draw_training_curve(directory.metrics_file.parent, portable.record.tasks)
    if curve is not None:
        files[CURVE_FILE] = curve
    files |= result_files(portable)
    with explained_hub_errors(f"push to {address}", address):
        before = _prepare_repository(address, private=private)
        license_id = license_id or _stated_license(before)
        card = model_card(
            portable, address.name, license_id=license_id, has_curve=curve is not None
        )
        files[CARD_FILE] = card.encode()
        sizes = {
            path: content.stat().st_size if isinstance(content, Path) else len(content)
            for path, content in files.items()
        }
        report(f"uploading {len(files)} files ({sum(sizes.values()):,} bytes) to {address.name}")
        commit = _upload(files, address, before)
    return PushedRun(address.page, commit, commit != before.sha, license_id, sizes)


def _address(repository: str, revision: str | None) -> HubAddress:
    address = parse_hub_address(repository)
    if address is None:
        raise InputError(f"{repository!r:.200} is no name on the Hub; expected OWNER/NAME")
    if address.revision is not None:
        raise InputError(f"{repository}: give the branch to upload to as --revision")
    if revision is not None and not BRANCH.fullmatch(revision):
        raise InputError(f"revision {revision!r:.200}: expected the name of a branch")
    return HubAddress(address.name, revision)


def _prepare_repository(address: HubAddress, *, private: bool) -> ModelInfo:
    """Create the repository and the branch, unless they exist, and return what the branch holds.

    Raises:
        InputError: The repository is to be private, but exists and is public.
    """
    create_repository(address, private=private)
    api, name, branch = HfApi(), address.name, address.revision or MAIN
    if branch != MAIN:
        api.create_branch(name, branch=branch, exist_ok=True)
    return api.model_info(name, revision=branch)


def _stated_license(before: ModelInfo) -> str:
    """Return the license in the model card of a repository, so that a new card keeps it."""
    if CARD_FILE not in _files_in(before):
        return LICENSE
    path = hf_hub_download(before.id, CARD_FILE, revision=before.sha)
    with open_regular(Path(path), expected="a model card", max_bytes=MAX_CARD_BYTES) as file:
        header = HEADER.match(file.read().decode("utf-8", "replace"))
    try:
        content = yaml.safe_load(header[1]) if header else None
    except yaml.YAMLError:
        return LICENSE
    found = content.get("license") if isinstance(content, dict) else None
    return found if isinstance(found, str) and LICENSE_NAME.fullmatch(found) else LICENSE


def _upload(files: dict[str, bytes | Path], address: HubAddress, before: ModelInfo) -> str:
    """Commit the files, without those of an earlier push that they replace; return the commit."""
    outdated = (_files_in(before) & _files_of_other_runs()) - files.keys()
    commit = HfApi().create_commit(
        address.name,
        [
            *(CommitOperationAdd(path, content) for path, content in sorted(files.items())),
            *(CommitOperationDelete(path) for path in sorted(outdated)),
        ],
        commit_message="Upload a run of vl-lst",
        revision=address.revision or MAIN,
    )
    return commit.oid


def _files_in(repository: ModelInfo) -> set[str]:
    return {sibling.rfilename for sibling in repository.siblings or ()}


def _files_of_other_runs() -> set[str]:
    """Return the files that an earlier push may have written and this one may not."""
    return {CURVE_FILE, *(f".eval_results/{task}.yaml" for task in task_names())}
