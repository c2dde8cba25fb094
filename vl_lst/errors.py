"""Errors caused by user input.

    VlLstError
    ├── RecipeError          a recipe or an override is not valid
    ├── ModelError           a backbone cannot be loaded, or does not fit the settings
    ├── CheckpointError      a run directory or checkpoint is incomplete, or of another model
    ├── LaunchError          a launcher's environment is malformed, or processes cannot connect
    ├── ProcessFailedError   another process of the same training failed
    └── TrainingError        training cannot continue

`USER_ERRORS` adds the root errors of the other packages. The command line prints each of these as a
message without traceback and exits with code 1.

`Preempted` is not an error: like `KeyboardInterrupt`, it ends a program that would continue with
its next work after an error.
"""

from eval.errors import InputError
from feature_extraction.errors import FeatureError

__all__ = [
    "EXPLAINED_ERRORS",
    "USER_ERRORS",
    "CheckpointError",
    "LaunchError",
    "ModelError",
    "Preempted",
    "ProcessFailedError",
    "RecipeError",
    "TrainingError",
    "VlLstError",
]


class VlLstError(Exception):
    """Root of the tree above."""


class RecipeError(VlLstError):
    """A recipe, or a `--set` override, is not valid."""


class ModelError(VlLstError):
    """A backbone cannot be loaded, or does not fit the settings."""


class CheckpointError(VlLstError):
    """A run directory or a checkpoint is missing, incomplete, or belongs to another model."""


class LaunchError(VlLstError):
    """The variables of a launcher such as torchrun are malformed, or processes cannot connect."""


class ProcessFailedError(VlLstError):
    """One of several training processes failed; that process reports the reason.

    Args:
        message: What failed.
        is_own: Whether this process failed, and has logged the reason.
    """

    def __init__(self, message: str, *, is_own: bool = False) -> None:
        super().__init__(message)
        self.is_own = is_own


class TrainingError(VlLstError):
    """Training cannot continue, for example because the loss is not finite."""


class Preempted(BaseException):
    """A signal has asked the training to stop, and what resuming needs is saved."""


USER_ERRORS: tuple[type[Exception], ...] = (VlLstError, FeatureError, InputError)
# With errors of the operating system, such as a full disk: all errors with a message for the user.
EXPLAINED_ERRORS: tuple[type[Exception], ...] = (*USER_ERRORS, OSError)
