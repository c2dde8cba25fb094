"""Uploading runs to the Hugging Face Hub.

All files go into one commit, so that nobody ever sees a part of them. Large files are uploaded
before it, and the Hub keeps them: a push that was interrupted continues with the others.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants

from eval.errors import InputError
from eval.hub import HubAddress, explained_hub_errors, parse_hub_address, require_hub_token
from tasks import task_names
from vl_lst.hub.card import LICENSE, model_card
from vl_lst.hub.curve import CURVE_FILE, draw_training_curve
from vl_lst.hub.files import portable_run
from vl_lst.hub.scores import result_files
from vl_lst.runs.directory import RunDirectory

__all__ = ["PushedRun", "push_run"]

MAIN = "main"
LICENSE_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
BRANCH = re.compile(r"[A-Za-z0-9][\w./-]{0,127}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PushedRun:
    """An uploaded run.

    Args:
        url: Page of the repository.
        commit: Commit with the run.
        is_changed: Whether there was anything to upload.
        files: Paths in the repository, with their sizes in bytes.
    """

    url: str
    commit: str
    is_changed: bool
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
        license_id: Identifier of a license on the Hub, such as `apache-2.0`. Default: unknown.
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
    card = model_card(
        portable, address.name, license_id=license_id or LICENSE, has_curve=curve is not None
    )
    files["README.md"] = card.encode()
    with explained_hub_errors(f"push to {address}", address):
        return _upload(files, address, private=private, report=report)


def _address(repository: str, revision: str | None) -> HubAddress:
    address = parse_hub_address(repository)
    if address is None:
        raise InputError(f"{repository!r:.200} is no name on the Hub; expected OWNER/NAME")
    if address.revision is not None:
        raise InputError(f"{repository}: give the branch to upload to as --revision")
    if revision is not None and not BRANCH.fullmatch(revision):
        raise InputError(f"revision {revision!r:.200}: expected the name of a branch")
    return HubAddress(address.name, revision)


def _upload(
    files: dict[str, bytes | Path],
    address: HubAddress,
    *,
    private: bool,
    report: Callable[[str], None],
) -> PushedRun:
    api, name = HfApi(), address.name
    api.create_repo(name, private=private or None, exist_ok=True)
    info = api.model_info(name)
    if private and not info.private:
        raise InputError(
            f"{name} already exists and is public, so nothing was uploaded. Make it private at "
            f"{constants.ENDPOINT}/{name}/settings, or choose another name."
        )
    branch = address.revision or MAIN
    if branch != MAIN:
        api.create_branch(name, branch=branch, exist_ok=True)
    before = api.model_info(name, revision=branch)
    sizes = {
        path: content.stat().st_size if isinstance(content, Path) else len(content)
        for path, content in files.items()
    }
    report(f"uploading {len(files)} files ({sum(sizes.values()):,} bytes) to {name}")
    there = {sibling.rfilename for sibling in before.siblings or ()}
    outdated = (there & _files_of_other_runs()) - files.keys()
    commit = api.create_commit(
        name,
        [
            *(CommitOperationAdd(path, content) for path, content in sorted(files.items())),
            *(CommitOperationDelete(path) for path in sorted(outdated)),
        ],
        commit_message="Upload a run of vl-lst",
        revision=branch,
    )
    return PushedRun(f"{constants.ENDPOINT}/{name}", commit.oid, commit.oid != before.sha, sizes)


def _files_of_other_runs() -> set[str]:
    """Return the files that an earlier push may have written and this one may not."""
    return {CURVE_FILE, *(f".eval_results/{task}.yaml" for task in task_names())}
