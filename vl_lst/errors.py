"""Errors of training and models that are the user's to mend, not the program's.

    VlLstError
    ├── RecipeError          a recipe or an override is not valid
    ├── ModelError           a backbone or its settings do not fit together
    ├── CheckpointError      a run or checkpoint directory is incomplete or of another model
    ├── LaunchError          a launcher's environment is malformed, or processes cannot meet
    ├── ProcessFailedError   another process of the same training failed
    └── TrainingError        training cannot go on

`USER_ERRORS` adds the roots of the other packages: whatever is in it, the command line prints as
one message without traceback and exits with code 1.
"""

from eval.errors import InputError
from feature_extraction.errors import FeatureError

__all__ = [
    "EXPLAINED_ERRORS",
    "USER_ERRORS",
    "CheckpointError",
    "LaunchError",
    "ModelError",
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
    """A backbone cannot be loaded, or does not fit the settings asked for."""


class CheckpointError(VlLstError):
    """A run directory or a checkpoint is missing, incomplete, or belongs to another model."""


class LaunchError(VlLstError):
    """The variables of a launcher such as torchrun are malformed, or processes cannot meet."""


class ProcessFailedError(VlLstError):
    """A process that trains with others failed; this or another process says why.

    Args:
        message: What failed.
        is_own: Whether it is this process that failed alone, and has logged why.
    """

    def __init__(self, message: str, *, is_own: bool = False) -> None:
        super().__init__(message)
        self.is_own = is_own


class TrainingError(VlLstError):
    """Training met something it cannot go on from, such as a loss that is not finite."""


USER_ERRORS: tuple[type[Exception], ...] = (VlLstError, FeatureError, InputError)
# With those of the operating system, such as a full disk: all that have a message for the user.
EXPLAINED_ERRORS: tuple[type[Exception], ...] = (*USER_ERRORS, OSError)
