"""Argument checks for a task's functions: paths may be strings, predictions are {ID: answer}."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.errors import InputError
from eval.submissions import require_predictions

__all__ = ["PARAMETERS", "CheckedCall", "as_path"]

# The positional parameters of each function of a task.
PARAMETERS = {
    "read_examples": ("data_root", "split"),
    "score": ("predictions", "data_root", "split"),
    "read_predictions": ("path",),
    "is_predictions_file": ("path",),
    "write_predictions": ("predictions", "path"),
    "score_strictly": ("path", "data_root", "split"),
    "prepare": ("data_root",),
}


@dataclass(frozen=True, slots=True)
class CheckedCall:
    """A function of a task that checks its arguments by the names of its parameters.

    Args:
        function: The function.
        parameters: Names of its positional parameters, in order.
    """

    function: Callable[..., Any]
    parameters: Sequence[str]

    def __call__(self, *values: Any, **named: Any) -> Any:
        checked = map(_checked, self.parameters, values)
        rest = values[len(self.parameters) :]
        return self.function(
            *checked, *rest, **{name: _checked(name, value) for name, value in named.items()}
        )


def _checked(name: str, value: Any) -> Any:
    if name == "predictions":
        return require_predictions(value)
    if name == "split" and not isinstance(value, str):
        raise InputError(
            f"split is {value!r:.60} ({type(value).__name__}): expected the name of a split, as a "
            "string"
        )
    return as_path(name, value) if name in ("data_root", "path") else value


def as_path(name: str, value: Any) -> Path:
    """Return a path that may be given as a string.

    Args:
        name: Name of the argument, for messages.
        value: The path.

    Raises:
        InputError: The value is neither a string nor a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise InputError(
            f"{name} is {value!r:.60} ({type(value).__name__}): expected a path, as a string or a "
            "pathlib.Path"
        )
    return Path(value)
