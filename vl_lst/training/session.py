"""One session of training: from a recipe and a folder to a finished run and its record."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from feature_extraction.store import open_features
from tasks import ExampleTable, Task, get_task
from vl_lst.progress import ProgressReport, silent
from vl_lst.recipes import Recipe
from vl_lst.training.batches import (
    AnswerScores,
    Batches,
    BlankFeatures,
    Features,
    SampledAnswers,
    Targets,
)
from vl_lst.training.build import BuiltModel, build_model, choose_device
from vl_lst.training.data import (
    ids_digest,
    read_answers,
    require_images,
    require_labels,
    usable_rows,
)
from vl_lst.training.record import RunRecord, Status, describe_run, write_record
from vl_lst.training.run_directory import ModelCard, RunDirectory
from vl_lst.training.texts import Texts
from vl_lst.training.trainer import Trainer, TrainingData

__all__ = ["train"]

log = logging.getLogger(__name__)


def train(
    recipe: Recipe, out: Path, *, resume: bool = False, report: ProgressReport = silent
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
    accelerator = Accelerator(cpu=device.type == "cpu")
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

    def run(self, report: ProgressReport) -> None:
        recipe = self.recipe
        task = get_task(recipe.task)
        reader = open_features(recipe.features)
        train_split = _load_split(task, recipe, recipe.data.train_split)
        validation = _load_split(task, recipe, recipe.data.validation_split)
        if not recipe.data.blind:
            require_images(reader, recipe.data.train_split, train_split)
            require_images(reader, recipe.data.validation_split, validation)
        answers = read_answers(recipe, task, train_split)
        self.built = build_model(recipe, reader.spec, answers)
        self.card = ModelCard(
            backbone_fingerprint=self.built.fingerprint,
            feature_spec=json.loads(reader.spec.to_json()),
            train_examples=len(train_split),
            train_examples_sha256=ids_digest(train_split),
            answers=answers,
        )
        if self.accelerator.is_main_process:
            self.directory.settle_card(self.card)
        features: Features = BlankFeatures(reader) if recipe.data.blind else reader
        texts = self.built.texts
        data = TrainingData(
            train=Batches(
                task, train_split, features, texts, _targets(recipe, task, texts, answers)
            ),
            rows=_training_rows(recipe, train_split),
            validation=Batches(task, validation, features, texts),
            validation_examples=len(validation),
            answers=answers,
        )
        self.trainer = Trainer(
            recipe=recipe,
            task=task,
            data=data,
            built=self.built,
            directory=self.directory,
            accelerator=self.accelerator,
            report=report,
        )
        log.info(
            "training %s parameters of %s on %s examples of %s for %s steps",
            f"{self.built.trainable_count():,}",
            f"{self.built.parameter_count():,}",
            f"{len(data.rows):,}",
            recipe.data.train_split,
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
        )

    def _record(self, status: Status, error: str | None) -> None:
        log.info("%s%s", status, f": {error}" if error else "")
        if self.accelerator.is_main_process:
            write_record(self.directory, self.describe(status, error))


def _load_split(task: Task, recipe: Recipe, split: str) -> ExampleTable:
    examples = task.load(recipe.data.root, split)
    require_labels(task, split, examples)
    return examples


def _targets(recipe: Recipe, task: Task, texts: Texts, answers: list[str] | None) -> Targets:
    if answers is not None:
        return AnswerScores(answers)
    return SampledAnswers(texts, most_tokens=task.max_answer_tokens, seed=recipe.training.seed)


def _training_rows(recipe: Recipe, examples: ExampleTable) -> list[int]:
    """All rows when classifying; those with an answer to sample when generating."""
    if recipe.head == "classify":
        return list(range(len(examples)))
    rows = usable_rows(examples)
    if left_out := len(examples) - len(rows):
        log.warning(
            "%s of %s training examples have no answer with a weight above zero and are left out",
            f"{left_out:,}",
            f"{len(examples):,}",
        )
    return rows
