"""A trained run, which answers questions about images or is evaluated on a split.

run = load_run("runs/vqa")
print(run.predict(image="cat.jpg", question="what animal is this?").answer)
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from eval.errors import InputError, OutputError
from eval.outputs import check_output
from eval.run_files import ModelCard
from feature_extraction.encoders.encoder import Encoder, encode_image, encoder_from_spec
from feature_extraction.spec import FeatureSpec
from feature_extraction.store import open_features
from feature_extraction.store.reader import FeatureReader
from tasks import ExampleTable, Score, Task, with_own_files
from tasks._arguments import as_path
from vl_lst.bundled import ENCODER_FOLDERS
from vl_lst.data.batches import (
    Batches,
    BlankFeatures,
    Features,
    load_in_order,
    prompt_fields,
)
from vl_lst.data.examples import has_labels, require_images
from vl_lst.data.order import sequential_batches
from vl_lst.data.text_warnings import question_notes, split_notes
from vl_lst.devices import choose_device
from vl_lst.errors import CheckpointError
from vl_lst.generation.answering import Answerer
from vl_lst.models.batch import Batch
from vl_lst.progress import ProgressReport, silent
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel, build_model
from vl_lst.run_arguments import ImageSource, image_list, require_question
from vl_lst.runs.checkpoint import MODEL, load_checkpoint, load_parameters
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.model_card import (
    feature_spec_of,
    require_same_backbone,
    require_same_features,
    require_same_tasks,
)
from vl_lst.runs.predictions import write_example_scores
from vl_lst.runs.record import add_scores, read_record

__all__ = ["Answer", "Evaluation", "Run", "load_run"]

log = logging.getLogger(__name__)

BEST = "best"
NUM_RANKED_ANSWERS = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer to one question.

    Args:
        answer: The answer.
        ranked: (answer, score) pairs with the highest scores. A score in [0, 1] is the accuracy
            that the model expects of that answer alone, so scores need not sum to one. `None` if
            the model generates its answers.
        notes: Parts of the question that the model did not read, as sentences without a period.
    """

    answer: str
    ranked: list[tuple[str, float]] | None
    notes: tuple[str, ...] = ()


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
        notes: Parts of the prompts that the model did not read and answers that it cannot give, as
            sentences without a period.
    """

    predictions: dict[str, str]
    score: Score | None
    path: Path
    write_error: OutputError | None
    num_trained_on: int | None
    notes: tuple[str, ...] = ()


class Run:
    """A trained model, ready to answer questions; created by `load_run`.

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
        self.directory = directory
        self.recipe = recipe
        self._card = card
        self._checkpoint = checkpoint
        self._step = step
        self._tokenizer = built.tokenizer
        self._backbone_reads_images = built.model.backbone_reads_images
        self._device = device
        self._answerer = Answerer(built, recipe, card.answers, device)
        self._encoder: Encoder | None = None

    def task(self, name: str | None = None, *, official: bool = False) -> Task:
        """Return a task with the settings of the run, and the files it was trained on as splits.

        Args:
            name: Name of the task. Default: the only task that the run was trained on. Such a run
                can also answer another task, with the head of its own task.
            official: Whether to keep the official splits even if the run was trained on the user's
                own files.

        Raises:
            InputError: The run was trained on several tasks, and `name` is not one of them.
        """
        known = self.recipe.tasks
        if len(known) == 1:
            name = name or known[0]
        elif name not in known:
            raise InputError(
                f"the run was trained on {', '.join(known)}; found {name or 'no task'}, expected "
                "one of them (--task)"
            )
        return self.recipe.configured_task(name, official=official)

    def has_own_files(self, name: str | None = None) -> bool:
        """Return whether the run was trained on the user's own files of a task; see `task`."""
        return self.recipe.data.train_file.get(self.task(name).name) is not None

    def predict(
        self,
        image: ImageSource | Sequence[ImageSource],
        question: str | None = None,
        *,
        task_name: str | None = None,
        encoder_weights: str | Path | None = None,
    ) -> Answer:
        """Answer a question about an image, which is preprocessed as in training.

        Args:
            image: Path of an image, or an image opened with Pillow; a sequence of them if the task
                takes several.
            question: Question without the task's prefix; `None` for captions.
            task_name: Name of the task, if the run was trained on several.
            encoder_weights: File or folder with the weights of the image encoder, if the features
                were extracted with local weights.

        Raises:
            InputError: The number of images is wrong, or the question is missing, empty or not
                allowed by the task.
            ImageError: An image cannot be decoded.
            EncoderError: The image encoder of the features cannot be built.
        """
        images = image_list(image)
        task = self.task(task_name)
        if question is not None:
            require_question(question)
        if (question is not None) != task.takes_text:
            found = "none" if question is None else f"{question!r:.60}"
            raise InputError(
                f"{task.name} takes {'a question' if task.takes_text else 'no question'}; "
                f"found {found}"
            )
        if len(images) != task.images_per_example:
            raise InputError(
                f"wrong number of images for {task.name}: found {len(images)}, expected "
                f"{task.images_per_example}"
            )
        features_INF = self._features(images, encoder_weights)
        text = task.prompt_prefix + (question or "")
        prompt = prompt_fields(
            [text],
            self._tokenizer,
            max_tokens=task.max_prompt_tokens,
            image_ids=[()] if self._backbone_reads_images else None,
        )
        notes = question_notes(text, task, self._tokenizer)
        batch = Batch(
            features_BINF=features_INF[None], example_ids=("",), task=self._head(task), **prompt
        )
        if not self._answerer.is_ranked(self._head(task)):
            return Answer(self._answerer.answer(batch)[0], None, notes)
        ranked = self._answerer.rank(batch, NUM_RANKED_ANSWERS)[0]
        return Answer(ranked[0][0], ranked, notes)

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
            InputError: The run was trained on several tasks and `task_name` is not one of them, or
                there are no annotations.
            StoreError: Features are missing, or were extracted with settings other than those of
                training.
            OutputError: The path of the predictions is not writable. An error while writing them,
                such as a full disk, is not raised but returned as `write_error`.
        """
        recipe = self.recipe
        task = self.task(task_name, official=data_root is not None)
        if isinstance(split, str) and split not in task.splits and Path(split).is_file():
            split = Path(split)
        trained_on_own = self.has_own_files(task_name)
        by_content = trained_on_own or isinstance(split, Path)
        if isinstance(split, Path):
            task, split = with_own_files(task, {split.name: split}), split.name
        elif not trained_on_own and data_root is None and recipe.data.root is None:
            raise InputError(
                f"the run was trained without official annotations; {task.name} {split} needs "
                "their folder (--data-root)"
            )
        path = self.directory.predictions_file(task, split)
        check_output(path)
        root = recipe.data.folder if data_root is None else as_path("data_root", data_root)
        reader = open_features(features or recipe.features)
        require_same_features(self._card, reader.spec)
        examples = task.load(root, split)
        if not recipe.data.blind:
            require_images(reader, split, examples)
        predictions = self._predict(task, examples, reader, report)
        write_error = None
        try:
            task.write_predictions(predictions, path)
        except OutputError as error:
            write_error = error
        score = task.score(predictions, root, split) if has_labels(examples) else None
        if score is not None:
            try:
                if self._checkpoint == BEST:
                    add_scores(self.directory, task.name, split, score, best_step=self._step)
                if write_error is None:
                    write_example_scores(path, task, score)
            except OutputError as error:
                write_error = error
        num_trained_on = None
        if task.name in recipe.tasks:
            num_trained_on = self._count_trained_on(task.name, examples, by_content=by_content)
        head = self._head(task)
        notes = split_notes(recipe, task, examples, self._tokenizer, self._card.answers[head], head)
        return Evaluation(predictions, score, path, write_error, num_trained_on, notes)

    def _predict(
        self, task: Task, examples: ExampleTable, reader: FeatureReader, report: ProgressReport
    ) -> dict[str, str]:
        training, total = self.recipe.training, len(examples)
        source: Features = BlankFeatures(reader) if self.recipe.data.blind else reader
        batches = load_in_order(
            Batches(
                task,
                examples,
                source,
                self._tokenizer,
                answered_as=self._head(task),
                backbone_reads_images=self._backbone_reads_images,
            ),
            sequential_batches(total, training.evaluation_batch_size),
            workers=training.workers,
            pin_memory=self._device.type == "cuda",
        )
        return self._answerer.answer_all(batches, lambda done: report(done, total))

    def _head(self, task: Task) -> str:
        return task.name if task.name in self.recipe.tasks else self.recipe.tasks[0]

    def _count_trained_on(
        self, name: str, examples: ExampleTable, *, by_content: bool
    ) -> int | None:
        data = self.recipe.data
        try:
            trained = self.task(name).load(data.folder, data.train_split[name])
        except InputError:
            return None
        if not by_content:
            return len(set(trained.ids()) & set(examples.ids()))
        # Ids in different files of a user are unrelated.
        known = {(example.image_ids, example.prompt) for example in trained}
        return sum((example.image_ids, example.prompt) in known for example in examples)

    def _features(self, images: Sequence[ImageSource], weights: str | Path | None) -> Tensor:
        spec = feature_spec_of(self._card)
        if self.recipe.data.blind:
            return torch.zeros(len(images), spec.tokens, spec.channels, dtype=torch.float16)
        if self._encoder is None:
            if weights is None:
                weights = self._known_weights(spec)
            self._encoder = encoder_from_spec(spec, weights, device=str(self._device))
        encoder = self._encoder
        return torch.stack([torch.from_numpy(encode_image(image, encoder)) for image in images])

    def _known_weights(self, spec: FeatureSpec) -> str | Path | None:
        """Return the folder of the image encoder, if it needs no search."""
        if spec.encoder in ENCODER_FOLDERS:
            return ENCODER_FOLDERS[spec.encoder]
        # A local backbone that reads images is saved together with its image encoder.
        name = self.recipe.backbone.name
        return name if self._backbone_reads_images and Path(name).is_dir() else None


def load_run(path: str | Path, *, checkpoint: str = BEST) -> Run:
    """Load a trained run.

    Args:
        path: Folder written by `vl-lst train --out`.
        checkpoint: Name of the checkpoint: `best` (by validation score), `last` or, if several
            tasks were trained, `best-TASK` (by the score of one task).

    Raises:
        CheckpointError: The folder holds no run, the checkpoint is incomplete, or the backbone has
            other weights.
    """
    directory = RunDirectory(as_path("the run's folder", path))
    recipe, card = directory.recipe(), directory.card()
    names = [BEST, "last", *(f"{BEST}-{task}" for task in recipe.tasks if len(recipe.tasks) > 1)]
    if checkpoint not in names:
        raise CheckpointError(f"no checkpoint {checkpoint!r}: expected one of: {', '.join(names)}")
    require_same_tasks(card, recipe.tasks)
    built = build_model(recipe, feature_spec_of(card), card.answers)
    require_same_backbone(card, recipe.backbone.name, built.fingerprint)
    folder = directory.checkpoint(checkpoint)
    saved = load_checkpoint(folder, MODEL)
    load_parameters(built.trainable, saved.tensors[MODEL], source=folder)
    built.quantise_backbone()
    wanted = recipe.training.device
    device = choose_device(wanted if torch.cuda.is_available() else "auto")
    if device.type == "cpu" and (wanted == "cuda" or _was_trained_on_cuda(directory)):
        log.warning(
            "the run was trained on CUDA, which is not available here: it runs on the CPU, which "
            "is slower and causes small numerical differences"
        )
    built.model.to(device).eval()
    step = int(saved.state.get("step", 0))
    return Run(directory, recipe, card, built, checkpoint, step, device)


def _was_trained_on_cuda(directory: RunDirectory) -> bool:
    try:
        record = read_record(directory)
    except (CheckpointError, InputError):
        return False
    return record is not None and (record.device or "").startswith("cuda")
