"""The git checkout that a run's code comes from."""

import hashlib
import logging
import os
import subprocess
from pathlib import Path

from eval.run_files import GitState

__all__ = ["git_state"]

log = logging.getLogger(__name__)

CODE_FOLDERS = ("eval", "tasks", "feature_extraction", "vl_lst")
# Diff the whole checkout in git's own format, whatever the user's configuration says.
DIFF_OPTIONS = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-relative")
NEW_MODULES = ("--others", "--exclude-standard", "-z")


def git_state(source: Path | None = None) -> GitState | None:
    """Return the state of the git checkout that the code runs from.

    Args:
        source: File of the code; this one by default.

    Returns:
        The state; `None` if no checkout tracks the file or, with a warning, if git fails.
    """
    file = source or Path(__file__).resolve()
    folders = [file.parent] if source else [file.parents[2] / name for name in CODE_FOLDERS]
    # In a git hook, GIT_DIR and similar variables name another repository.
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
        # An installed package may lie inside an unrelated repository.
        git("ls-files", "--error-unmatch", file.name)
        commit = git("rev-parse", "HEAD").decode()
        changes = hashlib.sha256(git("diff", "HEAD", *DIFF_OPTIONS))
        is_dirty = changes.digest() != hashlib.sha256().digest()
        # A new module, such as that of a new method, runs before git tracks it.
        for name in git("ls-files", *NEW_MODULES, "--", *map(str, folders)).split(b"\0"):
            path = file.parent / os.fsdecode(name)
            # Skip files of editors, such as the broken link `.#module.py`.
            if path.suffix == ".py" and path.stem.isidentifier() and path.is_file():
                is_dirty = True
                changes.update(b"\0" + name + b"\0" + path.read_bytes())
    except (OSError, subprocess.SubprocessError) as error:
        is_untracked = isinstance(error, subprocess.CalledProcessError) and error.returncode == 1
        if not is_untracked and any((parent / ".git").exists() for parent in file.parents):
            log.warning(
                "git cannot read the checkout of the code, so the record will not contain the "
                "commit: %s",
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
