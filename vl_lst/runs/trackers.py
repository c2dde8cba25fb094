"""Experiment trackers of a run, through accelerate: TensorBoard, Weights & Biases, Trackio.

A run keeps its name in each tracker when it is resumed, and no line of `metrics.jsonl` reaches a
tracker twice: steps after the last checkpoint are trained again, with other speeds.
"""

import importlib.util
import json
import logging
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.outputs import write_json
from eval.recipe_fields import flatten_fields
from vl_lst.choices import TrackerName
from vl_lst.errors import TrainingError

__all__ = ["Trackers", "require_trackers"]

log = logging.getLogger(__name__)

PROJECT = "vl-lst"
MAX_STATE_BYTES = 4096
# Of Weights & Biases.
MAX_NAME_LENGTH = 128
# How to avoid a tracker that cannot start.
ADVICE = {
    "tensorboard": "Check its installation",
    "wandb": "Run `wandb login`, or set WANDB_MODE=offline",
    "trackio": "Check TRACKIO_DIR and, for a dashboard on the Hub, `hf auth login`",
}


class _State(BaseModel):
    """What the trackers of a run have received, in `trackers.json`.

    Args:
        id: Identity of the run in trackers.
        name: Name of the run in trackers: its folder, when it started.
        logged_bytes: Size of `metrics.jsonl` up to the last line that they have received.
    """

    model_config = ConfigDict(extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    name: str
    logged_bytes: int = Field(default=0, ge=0)


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Require that the packages of trackers are installed.

    Args:
        names: Names of the trackers, which are those of their packages.

    Raises:
        TrainingError: A package is not installed.
    """
    missing = [name for name in dict.fromkeys(names) if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainingError(
            f"training.trackers lists {', '.join(missing)}, which is not installed: run "
            f"`pip install 'vl-lst[{','.join(missing)}]'`, or remove it; metrics.jsonl has the "
            "same values"
        )


class Trackers:
    """Trackers that the first process of a run writes to.

    A tracker that fails later is left out with a warning, since training matters more.

    Args:
        names: Names of the trackers.
        state_file: File that tells what they have received.
        recipe: Recipe of the run, which a new run sends as its configuration.
    """

    def __init__(
        self, names: Sequence[TrackerName], state_file: Path, recipe: Mapping[str, Any]
    ) -> None:
        self._names = tuple(dict.fromkeys(names))
        self._file = state_file
        self._recipe = recipe
        self._started: list[Any] = []

    def start(self) -> None:
        """Start the trackers, or continue their runs.

        Raises:
            TrainingError: A tracker cannot start, and has received nothing so far.
        """
        if not self._names:
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        state = _read_state(self._file)
        is_new = state is None
        self._state = state or _State(
            id=uuid.uuid4().hex[:12], name=_name_of_folder(self._file.parent)
        )
        for name in self._names:
            tracker = LOGGER_TYPE_TO_CLASS[name](**self._arguments(name))
            try:
                # Trackio prints to standard output, which belongs to the results.
                with redirect_stdout(sys.stderr):
                    tracker.start()
                    if is_new:
                        tracker.store_init_configuration(_flat_config(self._recipe))
            except Exception as error:  # noqa: BLE001 - each library has its own errors
                if is_new:
                    self.close()
                    raise TrainingError(
                        f"the tracker {name} cannot start: {_summary(error)}. {ADVICE[name]}, or "
                        "remove it from training.trackers."
                    ) from error
                self._warn(name, error)
            else:
                self._started.append(tracker)
        write_json(self._file, self._state.model_dump())

    def log(self, values: Mapping[str, float], *, step: int, position: int) -> None:
        """Send the values of a line, unless trackers have received them before.

        Args:
            values: Numbers by name.
            step: Number of steps done.
            position: Size of `metrics.jsonl` with this line.
        """
        if not self._started or position <= self._state.logged_bytes:
            return
        # Before, so that a process that is killed loses a line and never repeats one.
        self._state.logged_bytes = position
        write_json(self._file, self._state.model_dump())
        for tracker in tuple(self._started):
            try:
                tracker.log(dict(values), step=step)
            except Exception as error:  # noqa: BLE001 - each library has its own errors
                self._started.remove(tracker)
                self._warn(tracker.name, error)

    def close(self) -> None:
        """End the runs in the trackers, which may wait for what is still to be sent."""
        for tracker in self._started:
            try:
                with redirect_stdout(sys.stderr):
                    _finish(tracker)
            except Exception as error:  # noqa: BLE001 - each library has its own errors
                self._warn(tracker.name, error)
        self._started.clear()

    def _arguments(self, name: TrackerName) -> dict[str, Any]:
        """Return the arguments of accelerate's class of a tracker."""
        folder, state = self._file.parent, self._state
        if name == "tensorboard":
            return {"run_name": name, "logging_dir": folder}
        if name == "wandb":
            return {
                "run_name": os.environ.get("WANDB_PROJECT") or PROJECT,
                "name": state.name,
                "id": state.id,
                "resume": "allow",
                "dir": str(folder),
                # Standard output and error stay as they are.
                "settings": {"console": "off"},
            }
        return {
            "run_name": PROJECT,
            # Trackio knows a run by its name, and folders of other experiments may have the same.
            "name": f"{state.name} {state.id}",
            "resume": "allow",
            "embed": False,
            "auto_log_gpu": False,
            "auto_log_cpu": False,
        }

    def _warn(self, name: str, error: Exception) -> None:
        log.warning(
            "the tracker %s failed and gets no more values in this session: %s. Training "
            "continues; metrics.jsonl has all values.",
            name,
            _summary(error),
        )


def _finish(tracker: Any) -> None:
    if tracker.name == "trackio":
        import trackio

        # accelerate's own method leaves it to the end of the process to forget the run.
        trackio.finish()
    else:
        tracker.finish()


def _name_of_folder(folder: Path) -> str:
    """Return the path of a folder from the working directory, or its name if it is elsewhere."""
    folder = folder.resolve()
    is_inside = Path.cwd() in folder.parents
    return (str(folder.relative_to(Path.cwd())) if is_inside else folder.name)[:MAX_NAME_LENGTH]


def _flat_config(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe as {path: number, text or boolean}, which all trackers accept."""
    return {
        path: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for path, value in flatten_fields(recipe).items()
    }


def _summary(error: Exception) -> str:
    """Return the type and the first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]:.300}" if lines else type(error).__name__


def _read_state(path: Path) -> _State | None:
    """Return the state of an earlier session; `None` if there is none that can be read."""
    try:
        with path.open("rb") as file:
            return _State.model_validate_json(file.read(MAX_STATE_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        log.warning("%s cannot be read, so trackers start a new run", path)
        return None
