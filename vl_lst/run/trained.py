"""A trained run."""

import logging
from pathlib import Path

import torch

from eval.errors import InputError
from eval.run_files import Forgetting, Inference, ModelCard
from eval.text import unknown_name
from feature_extraction.spec import FeatureSpec
from tasks import ExampleTable, Score, Task
from tasks._arguments import as_path
from vl_lst.devices import choose_device
from vl_lst.errors import CheckpointError
from vl_lst.hub.pull import find_hub_run, pull_run
from vl_lst.progress import ProgressReport, silent
from vl_lst.recipes import Recipe, ZeroShotRecipe
from vl_lst.recipes.building import BuiltModel, build_model
from vl_lst.run.evaluation import Run
from vl_lst.run.forgetting import FORGETTING_SEED, measure_forgetting
from vl_lst.run.untrained import load_zero_shot_run
from vl_lst.runs.checkpoint import MODEL, load_checkpoint, load_parameters
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.model_card import (
    feature_spec_of,
    require_same_backbone,
    require_same_features,
    require_same_tasks,
)
from vl_lst.runs.record import add_forgetting, add_scores, read_record

__all__ = ["TrainedRun", "load_run"]

log = logging.getLogger(__name__)

BEST = "best"


class TrainedRun(Run):
    """A checkpoint of a trained run; created by `load_run`.

    Args:
        directory: Folder of the run.
        recipe: Recipe of the run.
        card: Model card of the run.
        built: Model with the weights of the checkpoint.
        checkpoint: Name of the checkpoint.
        step: Training step of the checkpoint.
        device: Device of the model.
    """

    def __init__(
        self,
        directory: RunDirectory,
        recipe: Recipe,
        card: ModelCard,
        built: BuiltModel,
        checkpoint: str,
        step: int,
        device: torch.device,
    ) -> None:
        super().__init__(directory, recipe, built, card.answers, feature_spec_of(card), device)
        self._card = card
        self._checkpoint = checkpoint
        self._step = step

    def _require_features(self, spec: FeatureSpec) -> None:
        require_same_features(self._card, spec)

    def _record(
        self,
        task: Task,
        split: str,
        examples: ExampleTable,
        score: Score | None,
        inference: Inference | None,
    ) -> None:
        if score is not None and self._checkpoint == BEST:
            add_scores(
                self.directory,
                task.name,
                split,
                score,
                best_step=self._step,
                inference=inference,
                checkpoint_bytes=self._built.checkpoint_bytes(),
            )

    def measure_forgetting(
        self, text: str | Path, *, seed: int = FORGETTING_SEED, report: ProgressReport = silent
    ) -> Forgetting:
        """Measure what the backbone has forgotten; see `Run.measure_forgetting`."""
        forgetting = measure_forgetting(
            self.recipe,
            self._card,
            self._built,
            as_path("the text", text),
            seed=seed,
            report=report,
        )
        if self._checkpoint == BEST:
            add_forgetting(self.directory, forgetting, best_step=self._step)
        return forgetting

    def _count_trained_on(
        self, task: Task, examples: ExampleTable, *, by_content: bool
    ) -> int | None:
        splits = self.recipe.data.train_split
        return self._count_common(task, splits.get(task.name), examples, by_content=by_content)

    def _count_selected_on(
        self, task: Task, split: str, examples: ExampleTable, *, by_content: bool
    ) -> int | None:
        own = self.recipe.data.validation_split.get(task.name)
        if split == own or not self._checkpoint.startswith(BEST):
            return None
        return self._count_common(task, own, examples, by_content=by_content)

    def _count_common(
        self, task: Task, split: str | None, examples: ExampleTable, *, by_content: bool
    ) -> int | None:
        """Return how many of the examples are in a split of the run; `None` if it is not there."""
        if split is None:
            return None
        try:
            of_run = self.task(task.name).load(self.recipe.data.folder, split)
        except InputError:
            return None
        if by_content:  # IDs in different files of a user are unrelated
            known = {(example.image_ids, example.prompt) for example in of_run}
            return sum((example.image_ids, example.prompt) in known for example in examples)
        common = set(of_run.ids()) & set(examples.ids())
        if task.images_per_example:
            return len(common)
        # IDs of texts are often line numbers, which each split counts from 0.
        prompts = {each.id: each.prompt for each in of_run if each.id in common}
        return sum(prompts.get(each.id) == each.prompt for each in examples)


def load_run(path: str | Path, *, checkpoint: str = BEST, revision: str | None = None) -> Run:
    """Load a trained run, or one that evaluates a backbone without training.

    Args:
        path: Folder written by `vl-lst train --out`; or `OWNER/NAME` or `OWNER/NAME@REVISION` on
            the Hugging Face Hub, where `vl-lst push` uploaded it. A local folder comes first;
            `hf://OWNER/NAME` is always on the Hub.
        checkpoint: Name of the checkpoint: `best` (by validation score), `last` or, if several
            tasks were trained, `best-TASK` (by the score of one task).
        revision: Branch, tag or commit on the Hub.

    Raises:
        InputError: The repository or the revision does not exist, is not accessible, or the
            connection is lost.
        CheckpointError: The folder or the repository holds no run, the checkpoint is incomplete, or
            the backbone has other weights.
    """
    folder = as_path("the run's folder", path)
    address = find_hub_run(path, revision)
    pulled = None if address is None else pull_run(address, checkpoint)
    directory = RunDirectory(folder if pulled is None else pulled.path)
    recipe = directory.recipe()
    if isinstance(recipe, ZeroShotRecipe):
        if checkpoint != BEST:
            raise CheckpointError(
                f"no checkpoint {checkpoint!r}: {path} holds a zero-shot run, which has none. "
                "Leave out --checkpoint."
            )
        return load_zero_shot_run(directory, recipe)
    card = directory.card()
    names = [BEST, "last", *(f"{BEST}-{task}" for task in recipe.tasks if len(recipe.tasks) > 1)]
    if checkpoint not in names:
        raise CheckpointError(unknown_name("checkpoint", checkpoint, names))
    require_same_tasks(card, recipe.tasks)
    built = build_model(
        recipe, feature_spec_of(card), card.answers, loads_backbone=_needs_backbone(recipe)
    )
    require_same_backbone(card, recipe.backbone.name, built.fingerprint)
    weights = directory.checkpoint(checkpoint)
    saved = load_checkpoint(weights, MODEL)
    load_parameters(built.stored, saved.tensors[MODEL], source=weights)
    built.quantize_backbone()
    wanted = recipe.training.device
    device = choose_device(wanted if torch.cuda.is_available() else "auto")
    if device.type == "cpu" and (wanted == "cuda" or _was_trained_on_cuda(directory)):
        log.warning(
            "the run was trained on CUDA, which is not available here: it runs on the CPU, which "
            "is slower and causes small numerical differences"
        )
    built.model.to(device).eval()
    step = int(saved.state.get("step", 0))
    run = TrainedRun(directory, recipe, card, built, checkpoint, step, device)
    run.pulled = pulled
    return run


def _needs_backbone(recipe: Recipe) -> bool:
    """Return whether a run needs its backbone at once, although it was trained on its states."""
    if recipe.states is None:
        return True
    if "generate" in recipe.head.values():
        log.info("loading the backbone %s, which generates answers", recipe.backbone.name)
        return True
    if not recipe.states.exists():
        log.warning(
            "the file of states %s, on which the run was trained, is not there: loading the "
            "backbone %s",
            recipe.states,
            recipe.backbone.name,
        )
        return True
    return False


def _was_trained_on_cuda(directory: RunDirectory) -> bool:
    try:
        record = read_record(directory)
    except (CheckpointError, InputError):
        return False
    return record is not None and (record.device or "").startswith("cuda")
