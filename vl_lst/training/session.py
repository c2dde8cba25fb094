"""One session of training: from a recipe and a folder to a finished run and its record."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator, DistributedDataParallelKwargs

from feature_extraction.store import open_features
from vl_lst.progress import ProgressReport, silent
from vl_lst.recipes import Recipe
from vl_lst.training.build import BuiltModel, build_model, choose_device
from vl_lst.training.checkpoint import find_checkpoint
from vl_lst.training.data import ids_digest
from vl_lst.training.initialisation import initialise
from vl_lst.training.record import RunRecord, Status, describe_run, write_record
from vl_lst.training.run_directory import ModelCard, RunDirectory, TaskCard
from vl_lst.training.task_data import batch_task, load_examples, text_samples
from vl_lst.training.text_limits import log_texts
from vl_lst.training.trainer import Trainer

__all__ = ["train"]

log = logging.getLogger(__name__)


def train(
    recipe: Recipe, out: str | Path, *, resume: bool = False, report: ProgressReport = silent
) -> RunRecord:
    """Train, or go on training, and write the run's record however it ends.

    Args:
        recipe: From `vl_lst.recipes.resolve_recipe`.
        out: The run's folder.
        resume: Go on with the run in it, if there is one.
        report: Told how far training is.

    Raises:
        CheckpointError: The folder holds something and `resume` is not set, or a checkpoint is
            damaged or cannot be written.
        RecipeError: The run in the folder has another recipe.
        TrainingError: A loss is not finite.
    """
    device = choose_device(recipe.training.device)
    # A step of one task leaves the heads of the others unused.
    parallel = DistributedDataParallelKwargs(find_unused_parameters=len(recipe.tasks) > 1)
    accelerator = Accelerator(cpu=device.type == "cpu", kwargs_handlers=[parallel])
    directory = RunDirectory(out)
    if accelerator.is_main_process:
        directory.begin(recipe, resume=resume)
    accelerator.wait_for_everyone()
    session = _Session(recipe, directory, accelerator)
    log_file = directory.logging() if accelerator.is_main_process else nullcontext()
    with log_file, session.recorded():
        session.run(report)
    return session.describe("success")


@dataclass(slots=True)
class _Session:
    """What there is of a run so far."""

    recipe: Recipe
    directory: RunDirectory
    accelerator: Accelerator
    card: ModelCard | None = None
    built: BuiltModel | None = None
    trainer: Trainer | None = None
    answer_coverage: dict[str, float] = field(default_factory=dict)

    def run(self, report: ProgressReport) -> None:
        recipe = self.recipe
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
            self.directory.settle_card(self.card)
        texts = self.built.texts
        if self.accelerator.is_main_process:
            self.answer_coverage = log_texts(recipe, examples, texts)
        data = {name: batch_task(recipe, each, reader, texts) for name, each in examples.items()}
        if find_checkpoint(self.directory.last) is None:
            samples = text_samples(data, texts, seed=recipe.training.seed)
            initialise(recipe, self.built, samples, self.accelerator)
        self.built.quantise_backbone()
        self.trainer = Trainer(
            recipe=recipe,
            data=data,
            built=self.built,
            directory=self.directory,
            accelerator=self.accelerator,
            report=report if self.accelerator.is_main_process else silent,
        )
        log.info(
            "training %s parameters of %s on %s for %s steps",
            f"{self.built.trainable_count():,}",
            f"{self.built.parameter_count():,}",
            " and ".join(
                f"{len(each.rows):,} examples of {name} {recipe.data.train_split[name]}"
                for name, each in data.items()
            ),
            f"{self.trainer.schedule.total_steps:,}",
        )
        self.trainer.train()

    @contextmanager
    def recorded(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            self._record("cancelled", "interrupted")
            raise
        except BaseException as error:
            self._record("failed", str(error) or type(error).__name__)
            raise
        self._record("success", None)

    def describe(self, status: Status, error: str | None = None) -> RunRecord:
        return describe_run(
            self.recipe,
            status,
            error=error,
            card=self.card,
            built=self.built,
            trainer=self.trainer,
            answer_coverage=self.answer_coverage,
        )

    def _record(self, status: Status, error: str | None) -> None:
        # The command line says itself how it ends.
        log.info("%s%s", status, f": {error}" if error else "", extra={"only_in_file": True})
        if self.accelerator.is_main_process:
            write_record(self.directory, self.describe(status, error))
