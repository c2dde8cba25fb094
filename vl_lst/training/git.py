"""Which code a run was trained with."""

import hashlib
import os
import subprocess
from pathlib import Path

from pydantic import BaseModel, ConfigDict

__all__ = ["GitState", "git_state"]


class GitState(BaseModel):
    """The checkout the code ran from, when a session of training started.

    Args:
        commit: Its hash.
        dirty: Whether tracked files had been changed.
        diff_sha256: SHA-256 of those changes; `None` if there were none.
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
        The state, or `None` if no checkout tracks the file.
    """
    file = source or Path(__file__).resolve()
    # GIT_DIR and its like, as in a hook, would name another repository.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}

    def git(*arguments: str) -> bytes:
        return subprocess.run(
            ["git", "-C", str(file.parent), *arguments],
            check=True,
            capture_output=True,
            timeout=10,
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
        ).stdout.strip()

    try:
        # Only if this very file is tracked: an installed package may lie inside some repository.
        git("ls-files", "--error-unmatch", file.name)
        commit = git("rev-parse", "HEAD").decode()
        changes = git("diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color")
    except (OSError, subprocess.SubprocessError):
        return None
    digest = hashlib.sha256(changes).hexdigest() if changes else None
    return GitState(commit=commit, dirty=bool(changes), diff_sha256=digest)
