"""The folder of one run, and what it must hold to be continued, evaluated and asked.

RUN/recipe.yaml     every setting, resolved; enough to run again
    model.json      what the model was built from: backbone, feature spec, answer lists
    record.json     what came of it
    metrics.jsonl   losses and scores, the same however often the run was interrupted
    checkpoints/    last, best; best-TASK where several tasks train
    predictions/    TASK-SPLIT.json, or what else the task's official format is
    submission/     files for test servers
    log.txt         what happened when
"""

import json
import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from eval.files import MAX_RUN_FILE_BYTES, read_json
from eval.outputs import write_json
from eval.regular_files import file_kind, require_regular_if_any
from feature_extraction.errors import StoreError
from feature_extraction.spec import FeatureSpec
from tasks import Task
from vl_lst.errors import CheckpointError, RecipeError
from vl_lst.recipes import Recipe, dump_recipe, load_recipe

__all__ = ["ModelCard", "RunDirectory", "TaskCard", "make_folder", "recipe_differences"]


LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"

# Where and how fast, not what: these may change when a run goes on.
FREE_TO_CHANGE = frozenset(
    {
        "data.root",
        "features",
        "training.workers",
        "training.checkpoint_every_steps",
        "training.tensorboard",
    }
)


class TaskCard(BaseModel):
    """What a model was built from in one task.

    Args:
        train_examples: How many examples there are to train on.
        train_examples_sha256: Of their ids.
        validation_examples_sha256: Of the ids of those that choose the best checkpoint.
        answers: The list its answers are from; `None` where it may generate any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train_examples: int
    train_examples_sha256: str
    validation_examples_sha256: str | None = None
    answers: list[str] | None


class ModelCard(BaseModel):
    """What a model was built from besides its recipe.

    Args:
        backbone_fingerprint: SHA-256 of the frozen weights.
        feature_spec: Of the features it was trained on.
        tasks: Each task that trains, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = 2
    backbone_fingerprint: str
    feature_spec: dict[str, Any]
    tasks: dict[str, TaskCard]

    @property
    def answers(self) -> dict[str, list[str] | None]:
        """The list each task's answers are from; `None` where it may generate any."""
        return {name: card.answers for name, card in self.tasks.items()}

    def spec(self) -> FeatureSpec:
        """How the features it was trained on were made."""
        return FeatureSpec.from_json(json.dumps(self.feature_spec))

    def require_features(self, found: FeatureSpec) -> None:
        """Refuse features made otherwise.

        Raises:
            StoreError: With all differences.
        """
        differences = found.differences(self.spec())
        if differences:
            raise StoreError(
                "the features were not made as those the run was trained on "
                f"({'; '.join(differences)}; here is the file, there the run). Extract the "
                "features again with the run's settings, or train on these."
            )

    def require_tasks(self, tasks: Collection[str]) -> None:
        """Refuse a card that is not of the tasks of the run's recipe.

        Raises:
            CheckpointError: The tasks differ.
        """
        if self.tasks.keys() != set(tasks):
            raise CheckpointError(
                f"the run's model.json is of another run: found the tasks {', '.join(self.tasks)}, "
                f"expected {', '.join(tasks)}. Copy the run again."
            )

    def require_backbone(self, name: str, fingerprint: str) -> None:
        """Refuse a backbone with other weights.

        Raises:
            CheckpointError: The fingerprints differ.
        """
        if fingerprint != self.backbone_fingerprint:
            raise CheckpointError(
                f"the backbone {name} has other weights than the one the run was trained with "
                f"(SHA-256 {fingerprint[:12]}, expected {self.backbone_fingerprint[:12]}): what "
                "was trained fits no other. Give back the original weights."
            )


class RunDirectory:
    """Paths below a run's folder, and its small files.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = path
        self.recipe_file = path / "recipe.yaml"
        self.card_file = path / "model.json"
        self.record_file = path / "record.json"
        self.metrics_file = path / "metrics.jsonl"
        self.log_file = path / "log.txt"
        self.tensorboard = path / "tensorboard"
        self.last = self.checkpoint("last")
        self.best = self.checkpoint("best")

    def checkpoint(self, name: str) -> Path:
        """Folder of a checkpoint: `last`, `best`, or `best-TASK`."""
        return self.path / "checkpoints" / name

    def predictions_file(self, task: Task, split: str) -> Path:
        """Where the predictions of a split go."""
        return self.path / "predictions" / f"{task.name}-{split}{task.predictions_suffix}"

    def begin(self, recipe: Recipe, *, resume: bool) -> None:
        """Make the folder, or check that the run in it can be resumed.

        The recipe of a run that is resumed stays as it is; see `write_recipe`.

        Raises:
            CheckpointError: The folder cannot be made; or there is something in it and `resume` is
                not set, other than a run that failed before it had a model.
            RecipeError: The run in it has another recipe.
            InputError: A log of the run is not a regular file.
        """
        make_folder(self.path)
        for path in (self.metrics_file, self.log_file):
            require_regular_if_any(path)
        if self.recipe_file.exists() and resume:
            differences = recipe_differences(self.recipe(), recipe)
            if differences:
                raise RecipeError(
                    f"the run in {self.path} has another recipe, so it cannot go on with this "
                    f"one: {'; '.join(differences)}. Leave the options out to take the run's own, "
                    "or choose another --out."
                )
            # A finished run must stay readable if the new data root or features do not exist.
            if self._has_model():
                return
        elif self.recipe_file.exists():
            # One that failed before it had a model, over a slip in the data say, is just begun.
            if self._has_model():
                raise CheckpointError(
                    f"{self.path} holds a run, which will not be overwritten: pass --resume to "
                    "continue it, or choose another --out"
                )
        # What begins with a dot was left by a process that was killed while it wrote.
        elif self.path.is_dir() and any(p.name[0] != "." for p in self.path.iterdir()):
            raise CheckpointError(
                f"{self.path} is not empty and holds no run: choose another --out, which may be "
                "a folder that does not exist yet"
            )
        self.write_recipe(recipe)

    def _has_model(self) -> bool:
        """Whether training has got as far as a model, also if its card was lost since."""
        return self.card_file.exists() or self.last.parent.exists()

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the resolved recipe."""
        dump_recipe(recipe, self.recipe_file)

    def recipe(self) -> Recipe:
        """The resolved recipe.

        Raises:
            CheckpointError: This is not the folder of a run.
        """
        if not self.recipe_file.exists():
            raise CheckpointError(
                f"{self.path} holds no run: expected {self.recipe_file.name} in it, as "
                "`vl-lst train --out` writes it"
            )
        return load_recipe(self.recipe_file)

    def settle_card(self, card: ModelCard) -> None:
        """Write the card, or check that a run that goes on is built from the same.

        Raises:
            CheckpointError: Backbone, training examples or answers differ.
            StoreError: The features differ.
        """
        if not self.card_file.exists():
            write_json(self.card_file, card.model_dump(mode="json"))
            return
        known = self.card()
        known.require_tasks(card.tasks)
        known.require_features(card.spec())
        known.require_backbone("of this recipe", card.backbone_fingerprint)
        for task, before in known.tasks.items():
            for name in TaskCard.model_fields:
                if getattr(before, name) != getattr(card.tasks[task], name):
                    raise CheckpointError(
                        f"the training data of {task} have changed since the run in {self.path} "
                        f"began ({name} differ), so it cannot go on exactly; restore them, or "
                        "choose another --out"
                    )

    def card(self) -> ModelCard:
        """What the model was built from.

        Raises:
            CheckpointError: The file is not what it should be.
        """
        if not self.card_file.exists():
            raise CheckpointError(
                f"{self.path} has no {self.card_file.name}: its training has not begun. Continue "
                f"it with `vl-lst train --resume --out {self.path}`."
            )
        content = read_json(
            self.card_file,
            expected="what the run's model was built from",
            max_bytes=MAX_RUN_FILE_BYTES,
        )
        try:
            return ModelCard.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise CheckpointError(
                f"{self.card_file} is damaged: {field}: {first['msg']}; copy the run again"
            ) from None

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Append what happens to `log.txt`."""
        handler = _LogFile(self.log_file)
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        logger = logging.getLogger("vl_lst")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            handler.close()


class _LogFile(logging.Handler):
    """Handler that appends to a file and drops lines that cannot be written, as on a full disk.

    Training then fails with a message of its own when it writes; the handlers of `logging` would
    print a traceback per line.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        # Without a buffer, which would be written again when the file is closed.
        self._file = path.open("ab", buffering=0)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line."""
        line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        with suppress(OSError):
            self._file.write(line)

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._file.close()
        super().close()


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there.

    Raises:
        CheckpointError: Something else is there, or the folder cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise CheckpointError(_what_is_in_the_way(path)) from None
    except OSError as error:
        raise CheckpointError(
            f"cannot make the folder {path}: {error.strerror}. Choose another --out."
        ) from None
    except ValueError:
        raise CheckpointError(f"{str(path)!a}: no folder can have such a name") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise CheckpointError(
            f"cannot write to the folder {path}: permission denied. Choose another --out, or "
            "change its permissions."
        )


def _what_is_in_the_way(path: Path) -> str:
    """Describe the part of a path that is not a folder, and what to do."""
    obstacle = next(part for part in (*reversed(path.parents), path) if not part.is_dir())
    expected = "a folder, or a name that does not exist yet"
    if obstacle.is_symlink() and not obstacle.exists():
        found = f"a link to {os.readlink(obstacle)}, which does not exist"
    else:
        found = file_kind(obstacle.stat().st_mode)
    where = "" if obstacle == path else f"cannot make the folder {path}: "
    return f"{where}{obstacle} is {found}; expected {expected}. Choose another --out."


def recipe_differences(saved: Recipe, given: Recipe) -> list[str]:
    """Say in what two recipes differ, as `optimizer.lr: 0.001 in the run, 0.003 given`.

    Fields that do not change what is computed (folders, workers) are left out.
    """
    before, now = _flat(saved.model_dump(mode="json")), _flat(given.model_dump(mode="json"))
    return [
        f"{name}: {before.get(name)} in the run, {now.get(name)} given"
        for name in before | now
        if name not in FREE_TO_CHANGE and before.get(name) != now.get(name)
    ]


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
