"""A training session: from a recipe and a folder to a finished run and its record.

`train` joins the processes and locks the folder, runs the stages of `_Session.run`, and writes the
record however they end.
"""

import json
import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from eval.run_files import GitState, ModelCard, RunRecord, TaskCard
from feature_extraction.store import open_features
from tasks._arguments import as_path
from vl_lst.backbones.states.reader import StateReader
from vl_lst.data.examples import examples_digest, load_examples
from vl_lst.data.stored_texts import stored_states
from vl_lst.data.task_data import TaskData, build_task_data, sample_examples
from vl_lst.data.text_warnings import log_text_issues
from vl_lst.devices import choose_device, float32_products
from vl_lst.errors import CheckpointError, RecipeError
from vl_lst.launch import read_launch, refuse_separate_processes
from vl_lst.progress import ProgressReport, silent
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel, build_model, require_heads
from vl_lst.recipes.loaded_backbone import backbone_in_memory
from vl_lst.recipes.stored_states import states_sha256
from vl_lst.runs.checkpoint import find_checkpoint, remove_leftovers
from vl_lst.runs.directory import RunDirectory, make_folder
from vl_lst.runs.lock import exclusive_folder
from vl_lst.runs.log_file import log_to_file
from vl_lst.runs.trackers import require_trackers
from vl_lst.training.compilation import require_compilable
from vl_lst.training.description import numeric_environment
from vl_lst.training.distributed import (
    ignored_settings,
    join_processes,
    launch_environment,
    require_same_inputs,
    require_same_recipe,
    with_same_precisions,
)
from vl_lst.training.failures import explain_failures, fail_together
from vl_lst.training.initialisation import initialise
from vl_lst.training.preemption import StopRequest, stop_on_signals
from vl_lst.training.recorder import RunRecorder
from vl_lst.training.trainer import Trainer

__all__ = ["train"]

log = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    report: ProgressReport = silent,
    checkout: GitState | None = None,
) -> RunRecord:
    """Train or resume a run, and write its record however training ends.

    If resuming fails before the first step, the record of the run stays unchanged.

    Args:
        recipe: Recipe from `vl_lst.recipes.resolve_recipe`.
        out: The run's folder.
        resume: Whether to resume the run in the folder, if there is one.
        report: Progress callback.
        checkout: State of the code when the program started, if it did other work before training;
            by default, its state now.

    Returns:
        The record of the run.

    Raises:
        CheckpointError: The folder is not empty and `resume` is not set, another process trains in
            it, or a checkpoint is damaged or cannot be written.
        RecipeError: `recipe` is not a recipe, not that of the run in the folder, or has a head that
            the backbone does not have.
        InputError: `out` is not a path, or the data are not usable.
        StoreError: The features are not usable, or images have none.
        LaunchError: The processes that should train together were not launched correctly.
        ProcessFailedError: Another of these processes failed.
        TrainingError: A loss is not finite, the disk is full, or a tracker is not installed or
            cannot start.
        Preempted: SIGTERM or SIGUSR1 has stopped the training after a checkpoint.
    """
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            f"the recipe is a {type(recipe).__name__}: expected one that "
            "`vl_lst.recipes.resolve_recipe` returns"
        )
    require_heads(recipe)
    directory = RunDirectory(as_path("the run's folder", out))
    launch = read_launch(os.environ)
    refuse_separate_processes(launch, os.environ)
    device = choose_device(recipe.training.device)
    require_compilable(recipe, device)
    require_trackers(recipe.training.trackers)
    ignored = ignored_settings(os.environ, device)
    with launch_environment(launch), ExitStack() as stack:
        # A step of one task leaves the heads of the others unused.
        accelerator = join_processes(launch, device, has_unused_parameters=len(recipe.tasks) > 1)
        recipe = with_same_precisions(recipe)
        require_same_recipe(recipe)
        stack.enter_context(float32_products(tf32=recipe.training.tf32, device=device))
        with fail_together(accelerator):
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
        recorder = RunRecorder(recipe, directory, accelerator, checkout)
        stop = stack.enter_context(stop_on_signals(accelerator))
        session = _Session(recipe, directory, accelerator, recorder, stop)
        with recorder.recording_failures(), explain_failures(accelerator, directory.path):
            session.run(resume, report)
        with explain_failures(accelerator, directory.path):
            return recorder.record_success()


@dataclass(frozen=True, slots=True)
class _Session:
    """Stages of a session between locking the folder and writing the record."""

    recipe: Recipe
    directory: RunDirectory
    accelerator: Accelerator
    recorder: RunRecorder
    stop: StopRequest

    def run(self, resume: bool, report: ProgressReport) -> None:
        """Run the stages in order.

        1. Load the data and build the model; all processes must have the same.
        2. In a new run, let the method compute initial weights.
        3. Quantize the backbone.
        4. Create the trainer, which restores the last checkpoint.
        5. Train.
        """
        recipe, directory, accelerator = self.recipe, self.directory, self.accelerator
        with fail_together(accelerator):
            self._require_resumable(resume)
            data, built, card = self._prepare()
        require_same_inputs(card.model_dump_json())
        if find_checkpoint(directory.last) is None:
            samples = sample_examples(data, built.tokenizer, seed=recipe.training.seed)
            initialise(recipe, built, samples, accelerator)
        built.quantize_backbone()
        trainer = Trainer(
            recipe=recipe,
            data=data,
            built=built,
            directory=directory,
            accelerator=accelerator,
            report=report if accelerator.is_main_process else silent,
            checkout=self.recorder.checkout,
            on_best=self.recorder.record_progress,
            stop=self.stop,
        )
        self.recorder.trainer = trainer
        self._add_recorded_checkout(trainer)
        if not trainer.is_finished:
            self._require_backbone_for_validation(built)
        # Only now, when data and features have been found at this recipe's paths.
        with fail_together(accelerator):
            if accelerator.is_main_process:
                directory.write_recipe(recipe)
        self._log_start(data, built, trainer)
        trainer.train()
        with fail_together(accelerator):
            if accelerator.is_main_process:
                remove_leftovers(directory.last)

    def _require_resumable(self, resume: bool) -> None:
        """Refuse to train a finished run from scratch.

        Raises:
            CheckpointError: The last checkpoint of a finished run is missing.
        """
        if not resume or find_checkpoint(self.directory.last) is not None:
            return
        record = self.recorder.read_earlier()
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

    def _prepare(self) -> tuple[dict[str, TaskData], BuiltModel, ModelCard]:
        """Load the data and build the model, without collective operations."""
        recipe, recorder = self.recipe, self.recorder
        reader = open_features(recipe.features) if recipe.features else None
        spec = None if reader is None else reader.spec
        examples = {name: load_examples(recipe, name, reader) for name in recipe.tasks}
        answers = {name: each.answers for name, each in examples.items()}
        recorder.built = built = build_model(recipe, spec, answers)
        recorder.card = card = ModelCard(
            backbone_fingerprint=built.fingerprint,
            backbone_fingerprint_bf16=built.fingerprint_bf16,
            feature_spec=None if spec is None else json.loads(spec.to_json()),
            tasks={
                name: TaskCard(
                    train_examples=len(each.train),
                    train_examples_sha256=examples_digest(each.task, each.train),
                    validation_examples_sha256=examples_digest(each.task, each.validation),
                    answers=each.answers,
                )
                for name, each in examples.items()
            },
            states_sha256=None if built.states is None else states_sha256(built.states),
            states_dtype=None if built.states is None else built.states.spec.dtype,
        )
        if self.accelerator.is_main_process:
            self.directory.ensure_card(card)
            recorder.answer_coverage = log_text_issues(recipe, examples, built.tokenizer)
        data = {
            name: build_task_data(
                recipe,
                each,
                reader,
                built.tokenizer,
                backbone_reads_images=built.model.backbone_reads_images,
                states=stored_states(recipe, built, each.task),
            )
            for name, each in examples.items()
        }
        return data, built, card

    def _add_recorded_checkout(self, trainer: Trainer) -> None:
        """Add the checkout in an earlier record to those of the checkpoint.

        Checkpoints of older versions do not hold any.
        """
        record = self.recorder.read_earlier()
        if trainer.first_step and record is not None and record.git is not None:
            earlier = record.git.model_copy(update={"changed_during_run": False})
            if earlier not in trainer.counters.checkouts:
                trainer.counters.checkouts.insert(0, earlier)

    def _require_backbone_for_validation(self, built: BuiltModel) -> None:
        """Load the backbone that validation will need, before hours of training depend on it."""
        if "generate" not in self.recipe.head.values():
            return
        reason = "its weights are compared with those of the states"
        with (
            fail_together(self.accelerator),
            backbone_in_memory(self.recipe, built, reason),
        ):
            pass

    def _log_states(self, states: StateReader) -> None:
        generating = [name for name, head in self.recipe.head.items() if head == "generate"]
        name, extracted_from = self.recipe.backbone.name, states.spec.backbone
        if name != extracted_from and not generating:
            log.warning(
                "the states in %s are of the backbone %s, and the recipe names %s: tokenizer and "
                "sizes are equal, and weights are not compared until they are loaded",
                states.path,
                extracted_from,
                name,
            )
        log.info(
            "reading the backbone's states from %s, so its weights stay out of memory%s",
            states.path,
            f"; each validation of {' and '.join(generating)} loads them to generate answers, and "
            "frees them afterwards"
            if generating
            else "",
        )

    def _log_start(self, data: Mapping[str, TaskData], built: BuiltModel, trainer: Trainer) -> None:
        total, num_processes = trainer.schedule.total_steps, self.accelerator.num_processes
        if trainer.is_finished:
            log.info("the run was finished at step %d: nothing is left to train", total)
            return
        if built.states is not None:
            self._log_states(built.states)
        log.info(
            "training %s parameters of %s on %s for %s steps in %s on %s",
            f"{built.trainable_count():,}",
            f"{built.parameter_count():,}",
            " and ".join(
                f"{len(each.rows):,} examples of {name} {self.recipe.data.train_split[name]}"
                for name, each in data.items()
            ),
            f"{total:,}",
            "one process" if num_processes == 1 else f"{num_processes} processes",
            self.accelerator.device.type,
        )
        if precision := numeric_environment(os.environ):
            log.warning(
                "the environment changes the precision of arithmetic, which the record notes: %s",
                ", ".join(f"{name}={value}" for name, value in precision.items()),
            )
