"""The folder of one run: what it must contain to be resumed, evaluated and used for predictions.

RUN/recipe.yaml     all settings, resolved; enough to run again
    model.json      what the model was built from: backbone, feature spec, answer lists
    record.json     settings and results, for leaderboards
    metrics.jsonl   losses and scores; the same bytes however often the run was interrupted
    checkpoints/    last, best; best-TASK if several tasks train
    predictions/    TASK-SPLIT.json (or the task's official format), TASK-SPLIT.scores.json
    submission/     files for test servers
    log.txt         messages with times
    trackers.json   what experiment trackers have received; their own files are beside it
"""

import os
from pathlib import Path

from pydantic import ValidationError

from eval.outputs import write_json
from eval.recipe_fields import CHANGEABLE_ON_RESUME, flatten_fields, is_within
from eval.regular_files import file_kind, require_regular_if_any
from eval.run_files import (
    METRICS_FILE,
    MODEL_FILE,
    RECIPE_FILE,
    RECORD_FILE,
    ModelCard,
    first_problem,
    read_run_file,
)
from tasks import Task
from vl_lst.errors import CheckpointError, RecipeError
from vl_lst.recipes import Recipe, dump_recipe, load_recipe
from vl_lst.runs.model_card import require_same_model
from vl_lst.runs.predictions import predictions_file

__all__ = ["RunDirectory", "make_folder", "recipe_differences"]


class RunDirectory:
    """Paths in a run's folder, and its small files.

    Args:
        path: Folder of the run.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = path
        self.recipe_file = path / RECIPE_FILE
        self.card_file = path / MODEL_FILE
        self.record_file = path / RECORD_FILE
        self.metrics_file = path / METRICS_FILE
        self.log_file = path / "log.txt"
        self.trackers_file = path / "trackers.json"
        self.last = self.checkpoint("last")
        self.best = self.checkpoint("best")

    def checkpoint(self, name: str) -> Path:
        """Return the folder of a checkpoint: `last`, `best`, or `best-TASK`."""
        return self.path / "checkpoints" / name

    def predictions_file(self, task: Task, split: str) -> Path:
        """Return the path of a split's predictions."""
        return predictions_file(self.path, task, split)

    def prepare(self, recipe: Recipe, *, resume: bool) -> None:
        """Create the folder for a new run, or check that the run in it can be resumed.

        Resuming leaves the recipe in the folder unchanged; see `write_recipe`.

        Args:
            recipe: Recipe to train with.
            resume: Resume the run in the folder, if there is one.

        Raises:
            CheckpointError: The folder cannot be created; or see `check`.
            RecipeError: The run in the folder has another recipe.
            InputError: A log of the run is not a regular file.
        """
        make_folder(self.path)
        self.check(recipe, resume=resume)
        # A finished run must stay readable if the new data root or features do not exist.
        if not (self.recipe_file.exists() and resume and self._has_model()):
            self.write_recipe(recipe)

    def check(self, recipe: Recipe, *, resume: bool) -> None:
        """Check that a run can be trained in the folder, which need not exist yet.

        Args:
            recipe: Recipe to train with.
            resume: Resume the run in the folder, if there is one.

        Raises:
            CheckpointError: `resume` is not set and the folder contains something other than a run
                that failed before it had a model.
            RecipeError: The run in the folder has another recipe.
            InputError: A log of the run is not a regular file.
        """
        for path in (self.metrics_file, self.log_file):
            require_regular_if_any(path)
        if self.recipe_file.exists() and resume:
            differences = recipe_differences(self.recipe(), recipe)
            if differences:
                raise RecipeError(
                    f"the run in {self.path} has another recipe, so it cannot be resumed with this "
                    f"one: {'; '.join(differences)}. Leave out these options to use those of the "
                    "run, or choose another --out."
                )
        elif self.recipe_file.exists():
            # A run that failed before it had a model, for example because of a typo in the data
            # root, may be started again.
            if self._has_model():
                raise CheckpointError(
                    f"{self.path} already holds a run, which will not be overwritten: pass "
                    "--resume to resume it, or choose another --out"
                )
        # Files whose names start with a dot are leftovers of processes that were killed.
        elif self.path.is_dir() and any(p.name[0] != "." for p in self.path.iterdir()):
            raise CheckpointError(
                f"{self.path} is not empty and holds no run: expected a run, or a new or empty "
                "folder. Choose another --out."
            )

    def _has_model(self) -> bool:
        """Whether training has built a model, also if its card has been lost since."""
        return self.card_file.exists() or self.last.parent.exists()

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the resolved recipe."""
        dump_recipe(recipe, self.recipe_file)

    def recipe(self) -> Recipe:
        """Return the resolved recipe.

        Raises:
            CheckpointError: The folder holds no run.
        """
        if not self.recipe_file.exists():
            raise CheckpointError(
                f"{self.path} holds no run: expected {self.recipe_file.name} in it, as "
                "`vl-lst train --out` writes it"
            )
        return load_recipe(self.recipe_file)

    def ensure_card(self, card: ModelCard) -> None:
        """Write the model card of a new run, or check that a resumed run has the same one.

        Raises:
            CheckpointError: Backbone, training or validation examples, or answers differ.
            StoreError: The features differ.
        """
        if self.card_file.exists():
            require_same_model(self.card(), card)
        else:
            write_json(self.card_file, card.model_dump(mode="json"))

    def card(self) -> ModelCard:
        """Return the model card.

        Raises:
            CheckpointError: The file is missing or damaged.
        """
        if not self.card_file.exists():
            raise CheckpointError(
                f"{self.path} has no {self.card_file.name}: its training has not started. Resume "
                f"it with `vl-lst train --resume --out {self.path}`."
            )
        content = read_run_file(self.card_file, expected="the model card of a run")
        try:
            return ModelCard.model_validate(content)
        except ValidationError as error:
            raise CheckpointError(
                f"{self.card_file} is damaged: {first_problem(error)}. Copy the run again."
            ) from None


def make_folder(path: Path) -> None:
    """Create a folder and its parents, unless it exists.

    Raises:
        CheckpointError: The path is something else, or the folder cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise CheckpointError(_explain_obstacle(path)) from None
    except OSError as error:
        raise CheckpointError(
            f"cannot create the folder {path}: {error.strerror}. Choose another folder."
        ) from None
    except ValueError:
        raise CheckpointError(f"{str(path)!a}: no folder can have such a name") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise CheckpointError(
            f"cannot write to the folder {path}: permission denied. Choose another folder, or "
            "change its permissions."
        )


def _explain_obstacle(path: Path) -> str:
    """Return which part of a path is not a folder, and what to do."""
    obstacle = next(part for part in (*reversed(path.parents), path) if not part.is_dir())
    if obstacle.is_symlink() and not obstacle.exists():
        found = f"a link to {os.readlink(obstacle)}, which does not exist"
    else:
        found = file_kind(obstacle.stat().st_mode)
    where = "" if obstacle == path else f"cannot create the folder {path}: "
    expected = "a folder, or a name that does not exist yet"
    return f"{where}{obstacle} is {found}; expected {expected}. Choose another folder."


def recipe_differences(saved: Recipe, given: Recipe) -> list[str]:
    """Return how two recipes differ, such as `optimizer.lr: 0.001 in the run, 0.003 given`.

    Fields that may change when a run is resumed, such as folders, are left out.
    """
    before, now = (flatten_fields(recipe.model_dump(mode="json")) for recipe in (saved, given))
    return [
        f"{name}: {before.get(name)} in the run, {now.get(name)} given"
        for name in before | now
        if not is_within(name, CHANGEABLE_ON_RESUME) and before.get(name) != now.get(name)
    ]
