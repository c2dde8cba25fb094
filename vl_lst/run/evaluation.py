"""A model in the folder of a run, which is evaluated on a split."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from eval.errors import InputError, OutputError
from eval.outputs import check_output
from feature_extraction.spec import FeatureSpec
from feature_extraction.store import open_features
from tasks import ExampleTable, Score, Task, with_own_files
from tasks._arguments import as_path
from vl_lst.data.batches import Batches, BlankFeatures, Features, load_in_order
from vl_lst.data.examples import has_labels, require_images
from vl_lst.data.order import evaluation_batches
from vl_lst.data.stored_texts import stored_states
from vl_lst.data.text_warnings import split_notes
from vl_lst.hub.pull import PulledRun
from vl_lst.progress import ProgressReport, silent
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel
from vl_lst.recipes.loaded_backbone import load_backbone_of
from vl_lst.run.predictor import Predictor
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.predictions import write_example_scores

__all__ = ["Evaluation", "Run"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Predictions and scores of a split.

    Args:
        predictions: Answers by example id.
        score: Official scores; `None` if the split has no labels.
        path: Predictions file, in the official results format.
        write_error: Error from writing the predictions or their scores; `None` if there was none.
        num_trained_on: Number of these examples that the run was trained on; `None` if its training
            annotations cannot be found.
        num_selected_on: Number of these examples that selected the checkpoint as part of another
            split; `None` if there is no such split, or its annotations cannot be found.
        notes: Parts of the prompts that the model did not read and answers that it cannot give, as
            sentences without a period.
    """

    predictions: dict[str, str]
    score: Score | None
    path: Path
    write_error: OutputError | None
    num_trained_on: int | None
    num_selected_on: int | None = None
    notes: tuple[str, ...] = ()


class Run(Predictor, ABC):
    """A model in the folder of a run, ready to answer questions; see `load_run`.

    Args:
        directory: Folder of the run.
        recipe: See `Predictor`.
        built: See `Predictor`.
        answers: See `Predictor`.
        spec: See `Predictor`.
        device: See `Predictor`.
    """

    def __init__(
        self,
        directory: RunDirectory,
        recipe: Recipe,
        built: BuiltModel,
        answers: dict[str, list[str] | None],
        spec: FeatureSpec | None,
        device: torch.device,
    ) -> None:
        super().__init__(recipe, built, answers, spec, device)
        self.directory = directory
        # Where on the Hub the run comes from, if it does.
        self.pulled: PulledRun | None = None

    @abstractmethod
    def _require_features(self, spec: FeatureSpec) -> None:
        """Refuse features that the model cannot read.

        Raises:
            StoreError: They were extracted with other settings.
        """

    @abstractmethod
    def _record(self, task: Task, split: str, examples: ExampleTable, score: Score | None) -> None:
        """Add the scores of a split to the record of the run.

        Args:
            task: Task of the split.
            split: Name of the split.
            examples: Examples of the split.
            score: Official scores; `None` if the split has no labels.
        """

    def has_own_files(self, name: str | None = None) -> bool:
        """Return whether the run reads the user's own files of a task; see `task`."""
        return self.recipe.data.train_file.get(self.task(name).name) is not None

    def evaluate(
        self,
        split: str | Path,
        *,
        task_name: str | None = None,
        data_root: str | Path | None = None,
        features: str | Path | Sequence[str | Path] | None = None,
        report: ProgressReport = silent,
    ) -> Evaluation:
        """Predict a split, write the predictions, and score them if the labels are public.

        Args:
            split: Split of the task (`train` or `val` if the run was trained on the user's own
                files), or path of another JSONL file of examples.
            task_name: Name of the task; see `task`.
            data_root: Folder of official annotations. Default: the recipe's.
            features: Feature files. Default: the recipe's.
            report: Progress callback.

        Raises:
            InputError: The run was made for several tasks and `task_name` is not one of them,
                there are no annotations, or features are given that nothing would read.
            StoreError: Features are missing, or were extracted with settings other than those of
                the run.
            OutputError: The path of the predictions is not writable. An error while writing them,
                such as a full disk, is not raised but returned as `write_error`.
        """
        recipe = self.recipe
        task = self.task(task_name, official=data_root is not None)
        if isinstance(split, str) and split not in task.splits and Path(split).is_file():
            split = Path(split)
        has_own = self.has_own_files(task_name)
        by_content = has_own or isinstance(split, Path)
        if isinstance(split, Path):
            task, split = with_own_files(task, {split.name: split}), split.name
        elif not has_own and data_root is None and recipe.data.root is None:
            raise InputError(
                f"the run has no folder of official annotations, which {task.name} {split} needs: "
                "give --data-root"
            )
        path = self.directory.predictions_file(task, split)
        check_output(path)
        root = recipe.data.folder if data_root is None else as_path("data_root", data_root)
        source, examples = self._load(task, root, split, features)
        predictions = self._predict(task, examples, source, report)
        write_error = None
        try:
            task.write_predictions(predictions, path)
        except OutputError as error:
            write_error = error
        score = task.score(predictions, root, split) if has_labels(examples) else None
        try:
            self._record(task, split, examples, score)
            if score is not None and write_error is None:
                write_example_scores(path, task, score, examples)
        except OutputError as error:
            write_error = error
        num_trained_on = self._count_trained_on(task, examples, by_content=by_content)
        num_selected_on = self._count_selected_on(task, split, examples, by_content=by_content)
        head = self._head(task)
        notes = split_notes(recipe, task, examples, self._tokenizer, self._answers[head], head)
        if task.images_per_example and source is None:
            notes = ("the model reads the text alone and does not see the images", *notes)
        return Evaluation(
            predictions, score, path, write_error, num_trained_on, num_selected_on, notes
        )

    def _load(
        self,
        task: Task,
        root: Path,
        split: str,
        features: str | Path | Sequence[str | Path] | None,
    ) -> tuple[Features | None, ExampleTable]:
        """Return the features and the examples of a split, checked.

        There are no features if the model reads the text alone, or if the task has no images.

        Raises:
            InputError: Features were given that nothing would read, or the annotations are not
                usable.
            StoreError: Features are missing, or were extracted with other settings.
        """
        if self._spec is None or not task.images_per_example:
            if features:
                why = (
                    f"examples of {task.name} have no images"
                    if not task.images_per_example
                    else "the model reads the text alone"
                )
                raise InputError(
                    f"--features: found feature files, but {why}, so nothing reads them: expected "
                    "none"
                )
            return None, task.load(root, split)
        reader = open_features(features or self.recipe.features)
        self._require_features(reader.spec)
        examples = task.load(root, split)
        if self.recipe.data.blind:
            return BlankFeatures(reader), examples
        require_images(reader, split, examples)
        return reader, examples

    def _predict(
        self, task: Task, examples: ExampleTable, source: Features | None, report: ProgressReport
    ) -> dict[str, str]:
        training, total = self.recipe.training, len(examples)
        head = self._head(task)
        states = stored_states(self.recipe, self._built, task, head)
        if states is not None and states.missing(examples):
            path, states = self.recipe.states, None
            reason = f"{path} lacks states of texts of {task.name}"
            load_backbone_of(self.recipe, self._built, reason)
        batches = load_in_order(
            Batches(
                task,
                examples,
                source,
                self._tokenizer,
                answered_as=head,
                backbone_reads_images=self._backbone_reads_images,
                states=states,
            ),
            evaluation_batches(
                [example.prompt for example in examples], training.evaluation_batch_size
            ),
            workers=training.workers,
            pin_memory=self._device.type == "cuda",
        )
        answers = self._answerer.answer_all(batches, lambda done: report(done, total))
        return {key: answers[key] for key in examples.ids()}

    def _count_trained_on(
        self, task: Task, examples: ExampleTable, *, by_content: bool
    ) -> int | None:
        """Return how many of the examples the run was trained on; `None` if that is unknown."""
        return None

    def _count_selected_on(
        self, task: Task, split: str, examples: ExampleTable, *, by_content: bool
    ) -> int | None:
        """Return how many of the examples selected the checkpoint; see `Evaluation`."""
        return None
