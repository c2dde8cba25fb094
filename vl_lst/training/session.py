"""One session of training: from a recipe and a folder to a finished run and its record."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator

from eval.errors import InputError
from eval.run_files import GitState, ModelCard, RunRecord, Status, TaskCard
from feature_extraction.store import open_features
from feature_extraction.store.disk import is_out_of_space
from tasks._arguments import as_path
from vl_lst.data.examples import ids_digest
from vl_lst.data.task_data import TaskData, batch_task, load_examples, text_samples
from vl_lst.data.text_limits import log_texts
from vl_lst.devices import choose_device
from vl_lst.errors import (
    USER_ERRORS,
    CheckpointError,
    ProcessFailedError,
    RecipeError,
    TrainingError,
)
from vl_lst.launch import read_launch, refuse_separate_processes
from vl_lst.progress import ProgressReport, silent
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel, build_model
from vl_lst.runs.checkpoint import find_checkpoint, remove_leftovers
from vl_lst.runs.directory import RunDirectory, make_folder
from vl_lst.runs.git import git_state
from vl_lst.runs.lock import exclusive_folder
from vl_lst.runs.log_file import log_to_file
from vl_lst.runs.record import read_record, update_record
from vl_lst.training.description import describe_run, numeric_environment
from vl_lst.training.initialisation import initialise
from vl_lst.training.processes import (
    agreed,
    ignored_settings,
    is_lost_connection,
    launch_environment,
    require_equal,
    start_processes,
)
from vl_lst.training.trainer import Trainer

__all__ = ["train"]

log = logging.getLogger(__name__)

# The error in the record of a run that has not ended, for as long as it trains.
UNFINISHED = "training has not ended, or its process was killed"


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    report: ProgressReport = silent,
    checkout: GitState | None = None,
) -> RunRecord:
    """Train, or go on training, and write the run's record however it ends.

    What fails before training continues leaves the record of a run that has trained as it was.

    Args:
        recipe: From `vl_lst.recipes.resolve_recipe`.
        out: The run's folder.
        resume: Go on with the run in it, if there is one.
        report: Told how far training is.
        checkout: State of the code when the program began, where it has worked before training;
            as it is now by default.

    Raises:
        CheckpointError: The folder holds something and `resume` is not set, another process
            trains in it, or a checkpoint is damaged or cannot be written.
        RecipeError: The run in the folder has another recipe, or `recipe` is none.
        InputError: `out` is no path.
        LaunchError: The processes that are to train together were not launched as they should be.
        ProcessFailedError: Another of these processes failed.
        TrainingError: A loss is not finite, or the disk is full.
    """
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            f"the recipe is a {type(recipe).__name__}: expected one that "
            "`vl_lst.recipes.resolve_recipe` returns"
        )
    directory = RunDirectory(as_path("the run's folder", out))
    launch = read_launch(os.environ)
    refuse_separate_processes(launch, os.environ)
    device = choose_device(recipe.training.device)
    ignored = ignored_settings(os.environ, device)
    with launch_environment(launch), ExitStack() as stack:
        # A step of one task leaves the heads of the others unused.
        accelerator = start_processes(launch, device, has_unused_parameters=len(recipe.tasks) > 1)
        with agreed(accelerator):
            if accelerator.is_main_process:
                make_folder(directory.path)
                stack.enter_context(exclusive_folder(directory.path))
                directory.prepare(recipe, resume=resume)
                stack.enter_context(log_to_file(directory.log_file))
        if ignored:
            log.warning(
                "ignoring settings of accelerate in the environment: %s. The recipe decides; "
                "change it with --set.",
                ", ".join(ignored),
            )
        session = _Session(recipe, directory, accelerator, resume, checkout or git_state())
        return session.run_recorded(report)


@dataclass(slots=True)
class _Session:
    """What there is of a run so far."""

    recipe: Recipe
    directory: RunDirectory
    accelerator: Accelerator
    resume: bool
    git: GitState | None
    card: ModelCard | None = None
    built: BuiltModel | None = None
    trainer: Trainer | None = None
    answer_coverage: dict[str, float] = field(default_factory=dict)

    def run_recorded(self, report: ProgressReport) -> RunRecord:
        """Train to the end, and write the record however it ends.

        Returns:
            The record as written; in processes other than the first, as they would write it.
        """
        try:
            with self._failures_explained():
                self.run(report)
        except KeyboardInterrupt:
            self._record_failure("cancelled", "interrupted")
            raise
        except BaseException as error:
            self._record_failure("failed", str(error) or type(error).__name__)
            raise
        return self._record_success()

    def run(self, report: ProgressReport) -> None:
        recipe = self.recipe
        with agreed(self.accelerator):
            data, built, card = self._prepare()
        require_equal(self.accelerator, card.model_dump_json())
        if find_checkpoint(self.directory.last) is None:
            samples = text_samples(data, built.texts, seed=recipe.training.seed)
            initialise(recipe, built, samples, self.accelerator)
        built.quantise_backbone()
        self.trainer = Trainer(
            recipe=recipe,
            data=data,
            built=built,
            directory=self.directory,
            accelerator=self.accelerator,
            report=report if self.accelerator.is_main_process else silent,
            checkout=self.git,
            on_best=self._record_progress,
        )
        self._remember_checkout()
        # Data and features have been found where this recipe says.
        with agreed(self.accelerator):
            if self.accelerator.is_main_process:
                self.directory.write_recipe(recipe)
        self._log_start(data)
        self.trainer.train()
        with agreed(self.accelerator):
            if self.accelerator.is_main_process:
                remove_leftovers(self.directory.last)

    def _prepare(self) -> tuple[dict[str, TaskData], BuiltModel, ModelCard]:
        """Load the data and build the model; without collective operations."""
        recipe = self.recipe
        self._require_resumable()
        reader = open_features(recipe.features)
        examples = {name: load_examples(recipe, name, reader) for name in recipe.tasks}
        answers = {name: each.answers for name, each in examples.items()}
        self.built = build_model(recipe, reader.spec, answers)
        self.card = ModelCard(
            backbone_fingerprint=self.built.fingerprint,
            feature_spec=json.loads(reader.spec.to_json()),
            tasks={
                name: TaskCard(
                    train_examples=len(each.train),
                    train_examples_sha256=ids_digest(each.train),
                    validation_examples_sha256=ids_digest(each.validation),
                    answers=each.answers,
                )
                for name, each in examples.items()
            },
        )
        if self.accelerator.is_main_process:
            self.directory.ensure_card(self.card)
        texts = self.built.texts
        if self.accelerator.is_main_process:
            self.answer_coverage = log_texts(recipe, examples, texts)
        data = {name: batch_task(recipe, each, reader, texts) for name, each in examples.items()}
        return data, self.built, self.card

    def _require_resumable(self) -> None:
        """Refuse to train a finished run from scratch.

        Raises:
            CheckpointError: The last checkpoint of a finished run is missing.
        """
        if not self.resume or find_checkpoint(self.directory.last) is not None:
            return
        record = self._record_before()
        if record is not None and record.status == "success":
            raise CheckpointError(
                f"the run in {self.directory.path} is finished, but {self.directory.last}, which "
                "resuming needs, is missing. Restore it, or choose another --out to train from "
                "scratch."
            )
        log.info(
            "%s has no checkpoint to resume from: training starts from scratch",
            self.directory.path,
        )

    def _remember_checkout(self) -> None:
        """Add the checkout in the record to those of the checkpoint.

        Checkpoints of older versions do not have any.
        """
        before = self._record_before()
        if self.trainer is None or not self.trainer.first_step or before is None:
            return
        checkouts = self.trainer.counters.checkouts
        if before.git is not None:
            earlier = before.git.model_copy(update={"changed_during_run": False})
            if earlier not in checkouts:
                checkouts.insert(0, earlier)

    def _log_start(self, data: Mapping[str, TaskData]) -> None:
        assert self.built is not None, "there is a trainer"
        assert self.trainer is not None, "it is about to train"
        recipe, total = self.recipe, self.trainer.schedule.total_steps
        if self.trainer.first_step >= total:
            log.info("the run was finished at step %d: nothing is left to train", total)
            return
        processes = self.accelerator.num_processes
        log.info(
            "training %s parameters of %s on %s for %s steps in %s on %s",
            f"{self.built.trainable_count():,}",
            f"{self.built.parameter_count():,}",
            " and ".join(
                f"{len(each.rows):,} examples of {name} {recipe.data.train_split[name]}"
                for name, each in data.items()
            ),
            f"{total:,}",
            "one process" if processes == 1 else f"{processes} processes",
            self.accelerator.device.type,
        )
        if precision := numeric_environment(os.environ):
            log.warning(
                "the environment changes the precision of arithmetic, which the record notes: %s",
                ", ".join(f"{name}={value}" for name, value in precision.items()),
            )

    @contextmanager
    def _failures_explained(self) -> Iterator[None]:
        """Turn a full disk, and processes that are gone, into errors that say what to do.

        In processes other than the first, an error that the first cannot know is logged.
        """
        accelerator = self.accelerator
        try:
            yield
        except ProcessFailedError:
            raise
        except OSError as error:
            if not is_out_of_space(error):
                raise
            # Not the name of a temporary file in the folder.
            inside = error.filename is None or self.directory.path in Path(error.filename).parents
            where = self.directory.path if inside else error.filename
            raise TrainingError(
                f"no space left on the device at {where}. Free some space and run the same "
                "command again with --resume."
            ) from error
        except RuntimeError as error:
            if accelerator.num_processes == 1 or not is_lost_connection(error):
                raise
            raise ProcessFailedError(
                f"another of the {accelerator.num_processes} processes failed or was killed; its "
                "own message says why. Run the same command again with --resume."
            ) from error
        except USER_ERRORS as error:
            if accelerator.is_main_process:
                raise
            rank, processes = accelerator.process_index, accelerator.num_processes
            log.error("process %d of %d: %s", rank, processes, error)
            raise ProcessFailedError(str(error), is_own=True) from error

    def _describe(self, status: Status, error: str | None = None) -> RunRecord:
        return describe_run(
            self.recipe,
            status,
            git=self.git,
            num_processes=self.accelerator.num_processes,
            error=error,
            card=self.card,
            built=self.built,
            trainer=self.trainer,
            answer_coverage=self.answer_coverage,
        )

    def _record_before(self) -> RunRecord | None:
        """The record of an earlier session; `None` if there is none that can be read."""
        try:
            return read_record(self.directory)
        except (CheckpointError, InputError):
            return None

    def _trained_before(self) -> bool:
        """Whether an earlier session has results, also if its record is lost or cannot be read."""
        if find_checkpoint(self.directory.last) is not None:
            return True
        before = self._record_before()
        return before is not None and bool(before.steps)

    def _has_trained(self) -> bool:
        return self.trainer is not None and self.trainer.counters.step > self.trainer.first_step

    def _note_changed_code(self) -> None:
        if self.git is not None and git_state() != self.git:
            self.git = self.git.model_copy(update={"changed_during_run": True})

    def _record_progress(self) -> None:
        """Record a new best checkpoint, so that its scores have a record to be added to."""
        update_record(self.directory, self._describe("cancelled", UNFINISHED))

    def _record_failure(self, status: Status, error: str) -> None:
        # The command line says itself how it ends.
        log.info("%s: %s", status, error, extra={"only_in_file": True})
        if not self.accelerator.is_main_process:
            return
        if self._trained_before() and not self._has_trained():
            return
        self._note_changed_code()
        try:
            update_record(self.directory, self._describe(status, error))
        except OSError as failure:
            log.warning("the record could not be written: %s", failure)

    def _record_success(self) -> RunRecord:
        log.info("success", extra={"only_in_file": True})
        self._note_changed_code()
        record = self._describe("success")
        if not self.accelerator.is_main_process:
            return record
        before = self._record_before()
        if before is not None and before.status == "success" and not self._has_trained():
            return before
        with self._failures_explained():
            return update_record(self.directory, record)
