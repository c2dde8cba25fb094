"""A pretrained backbone that answers without training: the floor for all trained runs.

model = zero_shot("google/flan-t5-base")
print(model.predict(question="what colour is the sky?").answer)
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eval.errors import InputError
from eval.outputs import write_json
from eval.run_files import Inference, Memory, ModelCard, TaskCard
from feature_extraction.encoders.encoder import build_encoder
from feature_extraction.spec import FeatureSpec
from feature_extraction.store import open_features
from tasks import ExampleTable, Score, Task, get_task
from tasks._arguments import as_path
from vl_lst.bundled import ENCODER_FOLDERS
from vl_lst.choices import ChosenBackbonePrecision
from vl_lst.data.answer_lists import load_answers
from vl_lst.data.batches import Features
from vl_lst.data.examples import examples_digest
from vl_lst.devices import choose_device
from vl_lst.errors import CheckpointError, RecipeError
from vl_lst.progress import ProgressReport, silent
from vl_lst.recipes import Recipe, ZeroShotRecipe, resolve_zero_shot_recipe
from vl_lst.recipes.building import BuiltModel, build_untrained_model
from vl_lst.recipes.visual import LANGUAGE, encoder_name
from vl_lst.run.evaluation import Evaluation, Run
from vl_lst.run.predictor import Predictor
from vl_lst.run.untrained_settings import (
    prompt_settings,
    read_saved_recipe,
    require_same_settings,
    resolve_settings,
)
from vl_lst.runs.directory import RunDirectory, make_folder
from vl_lst.runs.git import git_state
from vl_lst.runs.lock import exclusive_folder
from vl_lst.runs.model_card import feature_spec_of, require_same_backbone, require_same_features
from vl_lst.runs.record import read_record, update_record
from vl_lst.training.description import describe_run

__all__ = ["ZeroShotRun", "load_zero_shot_run", "open_zero_shot_run", "zero_shot"]


class ZeroShotRun(Run):
    """A backbone that is evaluated as it is, and the folder of its results.

    Args:
        directory: Folder of the run.
        recipe: Recipe of the run.
        card: Model card of earlier evaluations; `None` if this is the first.
        built: Model.
        spec: Spec of the features that it reads; `None` if it reads the text alone.
    """

    recipe: ZeroShotRecipe

    def __init__(
        self,
        directory: RunDirectory,
        recipe: ZeroShotRecipe,
        card: ModelCard | None,
        built: BuiltModel,
        spec: FeatureSpec | None,
    ) -> None:
        earlier = {} if card is None else card.answers
        answers = {
            name: earlier[name] if name in earlier else _listed_answers(recipe, name)
            for name in recipe.tasks
        }
        device = choose_device(recipe.training.device)
        built.model.to(device)
        super().__init__(directory, recipe, built, answers, spec, device)
        self._built = built
        self._card = ModelCard(
            backbone_fingerprint=built.fingerprint,
            backbone_fingerprint_bf16=built.fingerprint_bf16,
            feature_spec=None if spec is None else json.loads(spec.to_json()),
            tasks={} if card is None else card.tasks,
        )
        self._checkout = git_state()
        record = read_record(directory)
        checkouts = [] if record is None else [*record.earlier_git, record.git]
        self._earlier_checkouts = [each for each in checkouts if each not in (None, self._checkout)]

    def task(self, name: str | None = None, *, official: bool = False) -> Task:
        """Return a task with the settings of the run; see `Predictor.task`.

        Raises:
            InputError: The run has several tasks, or none of this name.
        """
        known = self.recipe.tasks
        if name is None and len(known) > 1:
            raise InputError(
                f"the run has the tasks {', '.join(known)}: expected the name of one (--task)"
            )
        if name is not None and name not in known:
            raise InputError(
                f"the run has {', '.join(known)} and not {name}: add it with `vl-lst evaluate "
                f"{self.directory.path} --zero-shot --task {name}`"
            )
        return super().task(name, official=official)

    def evaluate(
        self,
        split: str | Path,
        *,
        task_name: str | None = None,
        data_root: str | Path | None = None,
        features: str | Path | Sequence[str | Path] | None = None,
        report: ProgressReport = silent,
    ) -> Evaluation:
        """Predict a split, and add its predictions and scores to the run; see `Run.evaluate`.

        Raises:
            CheckpointError: Another process uses the folder.
        """
        with exclusive_folder(self.directory.path):
            return super().evaluate(
                split, task_name=task_name, data_root=data_root, features=features, report=report
            )

    def _require_features(self, spec: FeatureSpec) -> None:
        require_same_features(self._card, spec)

    def _load(
        self,
        task: Task,
        root: Path,
        split: str,
        features: str | Path | Sequence[str | Path] | None,
    ) -> tuple[Features | None, ExampleTable]:
        loaded = super()._load(task, root, split, features)
        # Only now, when data and features have been found.
        self.directory.write_recipe(self.recipe)
        return loaded

    def _record(
        self,
        task: Task,
        split: str,
        examples: ExampleTable,
        score: Score | None,
        inference: Inference | None,
    ) -> None:
        is_chosen = split == self.recipe.data.validation_split[task.name]
        before = self._card.tasks.get(task.name)
        earlier = None if before is None else before.validation_examples_sha256
        of_task = TaskCard(
            train_examples=None,
            train_examples_sha256=None,
            validation_examples_sha256=examples_digest(task, examples) if is_chosen else earlier,
            answers=self._answers[task.name],
        )
        tasks = {**self._card.tasks, task.name: of_task}
        self._card = self._card.model_copy(update={"tasks": tasks})
        write_json(self.directory.card_file, self._card.model_dump(mode="json"))
        record = describe_run(
            self.recipe,
            "success",
            git=self._checkout,
            num_processes=1,
            card=self._card,
            built=self._built,
        )
        update = {
            "scores": {} if score is None else {task.name: {split: dict(score.metrics)}},
            "protocol": record.protocol | {task.name: score and score.protocol},
            "memory_bytes": Memory(parameters=self._built.parameter_bytes()),
            "earlier_git": self._earlier_checkouts,
            "inference": {task.name: inference} if is_chosen and inference else {},
        }
        update_record(self.directory, record.model_copy(update=update))


def zero_shot(
    backbone: str | Path,
    *,
    task: str = "vqa",
    prompt: str | None = None,
    precision: ChosenBackbonePrecision = "fp32",
) -> Predictor:
    """Load a pretrained backbone that answers questions as it is, without training.

    Args:
        backbone: Name or folder of the backbone; one that reads images also loads its own image
            encoder.
        task: Name of the task.
        prompt: Prompt, in which "{}" stands for the question. Default: the task's own, such as
            "Question: {} Short answer:".
        precision: Precision of the weights; see `load_backbone`. `auto` is bf16 where the device
            computes it natively, else fp32; with fp32, all arithmetic is in float32 too.

    Raises:
        ModelError: The backbone cannot be loaded, or has no decoder.
        RecipeError: The prompt does not fit the task.
        InputError: There is no such task.
    """
    recipe = resolve_zero_shot_recipe(
        {},
        [
            ("task", task),
            ("backbone.name", str(backbone)),
            ("backbone.precision", precision),
            *prompt_settings(task, prompt),
        ],
    )
    built = build_untrained_model(recipe, None)
    device = choose_device(recipe.training.device)
    built.model.to(device)
    encoder = None
    if built.model.backbone.reads_images and get_task(task).images_per_example:
        name = encoder_name(recipe.backbone.name)
        encoder = build_encoder(ENCODER_FOLDERS.get(name, name), layer=LANGUAGE, device=str(device))
    spec = None if encoder is None else encoder.spec
    return Predictor(recipe, built, {task: None}, spec, device, encoder)


def open_zero_shot_run(
    path: str | Path,
    *,
    split: str | Path,
    task: str | None = None,
    prompt: str | None = None,
    overrides: Iterable[tuple[str, Any]] = (),
) -> ZeroShotRun:
    """Start a run without training in a folder, or open the one in it to add results.

    Args:
        path: Folder of the run, new or of such a run.
        split: Split that will be evaluated. For a task that the run does not have yet, it is the
            one that leaderboards compare.
        task: Name of the task. Default: the only one of the run in the folder.
        prompt: See `zero_shot`.
        overrides: Fields of the recipe; a single value of a field with one value per task is that
            of `task`.

    Raises:
        CheckpointError: The folder holds something else.
        RecipeError: A setting is not valid, or differs from those of the run in the folder.
        InputError: There is no such task.
        ModelError: The backbone cannot be loaded, or has no decoder.
        StoreError: The features are not those that the backbone reads.
    """
    directory = RunDirectory(as_path("the run's folder", path))
    saved = read_saved_recipe(directory)
    recipe = resolve_settings(saved, split, task, prompt, overrides)
    if saved is not None:
        require_same_settings(directory, saved, recipe)
    spec = open_features(recipe.features).spec if recipe.features else None
    return _build(directory, recipe, spec)


def load_zero_shot_run(directory: RunDirectory, recipe: ZeroShotRecipe) -> ZeroShotRun:
    """Load the run without training in a folder.

    Args:
        directory: Folder of the run.
        recipe: Its recipe.

    Raises:
        CheckpointError: The run has no results yet, or the backbone has other weights.
    """
    if not directory.card_file.exists():
        raise CheckpointError(
            f"{directory.path} holds a zero-shot run without results. Evaluate a split with "
            f"`vl-lst evaluate {directory.path} --zero-shot`."
        )
    card = directory.card()
    return _build(directory, recipe, feature_spec_of(card))


def _build(
    directory: RunDirectory, recipe: ZeroShotRecipe, spec: FeatureSpec | None
) -> ZeroShotRun:
    card = directory.card() if directory.card_file.exists() else None
    built = build_untrained_model(recipe, spec)
    backbone, name = built.model.backbone, recipe.backbone.name
    has_images = any(get_task(task).images_per_example for task in recipe.tasks)
    if has_images and backbone.reads_images and spec is None:
        raise RecipeError(
            f"the backbone {name} reads images: found no features, expected --features FILE.h5 "
            "with the tokens of its own image encoder (`vl-lst extract-features --images DIR "
            f"--out FILE.h5 --encoder {encoder_name(name)} --layer {LANGUAGE}`)"
        )
    if spec is not None and not backbone.reads_images:
        raise RecipeError(
            f"the backbone {name} reads the text alone: found --features, expected none. Leave "
            "them out to evaluate what the questions alone reveal."
        )
    if card is not None:
        require_same_backbone(card, name, built.fingerprint)
        # Without a spec, all results so far are of tasks without images.
        if spec is not None and card.feature_spec is not None:
            require_same_features(card, spec)
    make_folder(directory.path)
    return ZeroShotRun(directory, recipe, card, built, spec)


def _listed_answers(recipe: Recipe, name: str) -> list[str] | None:
    task = recipe.configured_task(name)
    split = recipe.data.train_split[name]
    return load_answers(recipe, task, lambda: task.load(recipe.data.folder, split))
