"""Which code a run was trained with."""

import hashlib
import logging
import os
import subprocess
from pathlib import Path

from pydantic import BaseModel, ConfigDict

__all__ = ["GitState", "git_state"]

log = logging.getLogger(__name__)

CODE_FOLDERS = ("eval", "tasks", "feature_extraction", "vl_lst")
# Of the whole checkout and as git writes it, whatever the user's configuration says.
DIFF_OPTIONS = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-relative")
NEW_MODULES = ("--others", "--exclude-standard", "-z")


class GitState(BaseModel):
    """The checkout the code ran from, when a session of training started.

    Args:
        commit: Its hash.
        dirty: Whether tracked files had been changed, or modules added without a commit.
        diff_sha256: SHA-256 of those changes and modules; `None` if there were none.
        changed_during_run: Whether any of these was different when the session ended.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    commit: str
    dirty: bool
    diff_sha256: str | None = None
    changed_during_run: bool = False


def git_state(source: Path | None = None) -> GitState | None:
    """Return the state of the checkout that the code runs from.

    Args:
        source: A file of the code; this one by default.

    Returns:
        The state, or `None` if no checkout tracks the file or git cannot read it, which is logged.
    """
    file = source or Path(__file__).resolve()
    folders = [file.parent] if source else [file.parents[2] / name for name in CODE_FOLDERS]
    # GIT_DIR and its like, as in a hook, would name another repository.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}

    def git(*arguments: str) -> bytes:
        return subprocess.run(
            ["git", "-C", str(file.parent), *arguments],
            check=True,
            capture_output=True,
            timeout=10,
            env=environment | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
        ).stdout.strip()

    try:
        # Only if this very file is tracked: an installed package may lie inside some repository.
        git("ls-files", "--error-unmatch", file.name)
        commit = git("rev-parse", "HEAD").decode()
        changes = hashlib.sha256(git("diff", "HEAD", *DIFF_OPTIONS))
        is_dirty = changes.digest() != hashlib.sha256().digest()
        # A module runs whether or not git knows it, such as a new method's.
        for name in git("ls-files", *NEW_MODULES, "--", *map(str, folders)).split(b"\0"):
            path = file.parent / os.fsdecode(name)
            # Not what editors leave, such as the broken link `.#module.py`.
            if path.suffix == ".py" and path.stem.isidentifier() and path.is_file():
                is_dirty = True
                changes.update(b"\0" + name + b"\0" + path.read_bytes())
    except (OSError, subprocess.SubprocessError) as error:
        is_untracked = isinstance(error, subprocess.CalledProcessError) and error.returncode == 1
        if not is_untracked and any((parent / ".git").exists() for parent in file.parents):
            log.warning(
                "git cannot read the checkout of the code, so the record does not name its commit: "
                "%s",
                _reason(error),
            )
        return None
    return GitState(
        commit=commit, dirty=is_dirty, diff_sha256=changes.hexdigest() if is_dirty else None
    )


def _reason(error: OSError | subprocess.SubprocessError) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.decode(errors="replace").splitlines()
        return lines[0] if lines else f"exit code {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no answer within {error.timeout:.0f} seconds"
    return str(error)
