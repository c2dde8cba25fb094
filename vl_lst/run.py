"""A trained run: ask it about pictures, or evaluate it on a split.

run = load_run("runs/vqa")
print(run.predict(image="cat.jpg", question="what animal is this?").answer)
"""

import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from eval.errors import InputError, OutputError
from eval.outputs import check_output
from feature_extraction.encoders.encoder import Encoder, encode_image, encoder_from_spec
from feature_extraction.store.store import open_features
from tasks import ExampleTable, Score, Task, with_own_files
from tasks._calls import as_path
from vl_lst.backbones.loading import DEMO
from vl_lst.bundled import CLIP_FOLDER
from vl_lst.data.batches import (
    Batches,
    BlankFeatures,
    Features,
    load_in_order,
    prompt_fields,
)
from vl_lst.data.examples import has_labels, require_images, task_of
from vl_lst.data.order import in_turn
from vl_lst.data.text_limits import question_notes, split_notes
from vl_lst.devices import choose_device
from vl_lst.errors import CheckpointError
from vl_lst.generation.answering import Answerer
from vl_lst.models.batch import Batch
from vl_lst.progress import ProgressReport, silent
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel, build_model
from vl_lst.runs.checkpoint import MODEL, load_checkpoint, load_parameters
from vl_lst.runs.directory import ModelCard, RunDirectory
from vl_lst.runs.record import add_scores, read_record

__all__ = ["Answer", "Evaluation", "Run", "load_run"]

log = logging.getLogger(__name__)

BEST = "best"
ImageSource = str | Path | Image.Image

SHOWN_ANSWERS = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run says to one question.

    Args:
        answer: The answer.
        ranked: The answers with the highest scores, and these: in [0, 1], each the accuracy that
            the model expects of that answer alone, so that they need not add up to one. `None` of a
            model that generates.
        notes: What of the question the model did not read, as sentences without a period.
    """

    answer: str
    ranked: list[tuple[str, float]] | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a run says to the questions of a split.

    Args:
        predictions: Answer by example id.
        score: Official scores; `None` where the split has no labels.
        path: The predictions in the official results format.
        unwritten: Why the predictions, or the scores in the run's record, could not be written;
            `None` where both were.
        trained_on: How many of the examples the run was trained on; `None` where its training
            annotations are not at hand.
        notes: What of the prompts the model did not read and which answers it cannot give, as
            sentences without a period.
    """

    predictions: dict[str, str]
    score: Score | None
    path: Path
    unwritten: OutputError | None
    trained_on: int | None
    notes: tuple[str, ...] = ()


class Run:
    """A run's model, ready to answer; made by `load_run`.

    Args:
        directory: Where it lies.
        recipe: Its settings.
        card: What its model was built from.
        built: The model, with the checkpoint's weights.
        checkpoint: Which one.
        step: The training step of that checkpoint.
        device: Where it computes.
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
        self._texts = built.texts
        self._device = device
        self._answerer = Answerer(built, recipe, card.answers, device)
        self._encoder: Encoder | None = None

    def task(self, name: str | None = None, *, official: bool = False) -> Task:
        """A task the run can answer, with the files it was trained on as its splits.

        Args:
            name: Which one; `None` is the only one it was trained on. A run of one task may be
                tried on another, which its head then answers.
            official: With the official splits, also where it was trained on a user's own files.

        Raises:
            InputError: The run has several tasks and this is none of them.
        """
        known = self.recipe.tasks
        if len(known) == 1:
            name = name or known[0]
        elif name not in known:
            raise InputError(
                f"the run was trained on {', '.join(known)}; found {name or 'no task'}, expected "
                "one of them (--task)"
            )
        return task_of(self.recipe, name, official=official)

    def has_own_files(self, name: str | None = None) -> bool:
        """Whether the run was trained on a user's own files in a task; see `task`."""
        return self.recipe.data.train_file.get(self.task(name).name) is not None

    def predict(
        self,
        image: ImageSource | Sequence[ImageSource],
        question: str | None = None,
        *,
        task_name: str | None = None,
        encoder_weights: str | Path | None = None,
    ) -> Answer:
        """Answer a question about a photograph, prepared as in training.

        Args:
            image: A file, or an image Pillow has opened; several where the task takes several.
            question: As people ask it, without the task's prefix; none for captions.
            task_name: Which of the run's tasks it is, where there are several.
            encoder_weights: Where the vision tower's weights are, if the features were made with
                weights from a file or folder.

        Raises:
            InputError: The task takes another number of images, or a question is missing, empty,
                or there is none to be asked.
            ImageError: A photograph cannot be decoded.
            EncoderError: The tower cannot be built as the features were made.
        """
        images = _image_list(image)
        task = self.task(task_name)
        if question is not None:
            _require_text(question)
        if (question is not None) != task.takes_text:
            found = "none" if question is None else f"{question!r:.60}"
            raise InputError(
                f"{task.name} takes {'a question' if task.takes_text else 'no question'}; "
                f"found {found}"
            )
        if len(images) != task.images_per_example:
            raise InputError(
                f"{task.name} is about {task.images_per_example} image(s) at a time; "
                f"found {len(images)}"
            )
        features_INF = self._features(images, encoder_weights)
        text = task.prompt_prefix + (question or "")
        prompt = prompt_fields([text], self._texts, most_tokens=task.max_prompt_tokens)
        notes = question_notes(text, task, self._texts)
        batch = Batch(
            features_BINF=features_INF[None], example_ids=("",), task=self._head(task), **prompt
        )
        if not self._answerer.is_ranked(self._head(task)):
            return Answer(self._answerer.answer(batch)[0], None, notes)
        ranked = self._answerer.rank(batch, SHOWN_ANSWERS)[0]
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
        """Predict a split, write the predictions, and score them where labels are public.

        Args:
            split: Of the task, which is `train` or `val` where the run was trained on a user's own
                files; or the path of a further file of such examples.
            task_name: See `task`.
            data_root: Another folder of official annotations than the recipe's.
            features: Other feature files than the recipe's.
            report: Told how many examples are done.

        Raises:
            InputError: The run has several tasks and `task_name` is none of them, or there is no
                folder of annotations.
            StoreError: The features were made otherwise than those of training, or are missing.
            OutputError: The predictions cannot be written where they belong. What is only found
                out at the end, such as a full disk, is in the result's `unwritten`.
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
        self._card.require_features(reader.spec)
        examples = task.load(root, split)
        if not recipe.data.blind:
            require_images(reader, split, examples)
        source: Features = BlankFeatures(reader) if recipe.data.blind else reader
        batches = load_in_order(
            Batches(task, examples, source, self._texts, answered_as=self._head(task)),
            in_turn(len(examples), recipe.training.evaluation_batch_size),
            workers=recipe.training.workers,
            pin_memory=self._device.type == "cuda",
        )
        total = len(examples)
        predictions = self._answerer.answer_all(batches, lambda done: report(done, total))
        unwritten = None
        try:
            task.write_predictions(predictions, path)
        except OutputError as error:
            unwritten = error
        score = task.score(predictions, root, split) if has_labels(examples) else None
        if score is not None and self._checkpoint == BEST:
            try:
                add_scores(self.directory, task.name, split, score, best_step=self._step)
            except OutputError as error:
                unwritten = error
        trained_on = None
        if task.name in recipe.tasks:
            trained_on = self._trained_on(task.name, examples, by_content=by_content)
        head = self._head(task)
        notes = split_notes(recipe, task, examples, self._texts, self._card.answers[head], head)
        return Evaluation(predictions, score, path, unwritten, trained_on, notes)

    def _head(self, task: Task) -> str:
        return task.name if task.name in self.recipe.tasks else self.recipe.tasks[0]

    def _trained_on(self, name: str, examples: ExampleTable, *, by_content: bool) -> int | None:
        data = self.recipe.data
        try:
            trained = self.task(name).load(data.folder, data.train_split[name])
        except InputError:
            return None
        if not by_content:
            return len(set(trained.ids()) & set(examples.ids()))
        # The ids in one file of a user's own say nothing of those in another.
        known = {(example.image_ids, example.prompt) for example in trained}
        return sum((example.image_ids, example.prompt) in known for example in examples)

    def _features(self, images: Sequence[ImageSource], weights: str | Path | None) -> Tensor:
        spec = self._card.spec()
        if self.recipe.data.blind:
            return torch.zeros(len(images), spec.tokens, spec.channels, dtype=torch.float16)
        if self._encoder is None:
            if weights is None and spec.encoder == DEMO:
                weights = CLIP_FOLDER
            self._encoder = encoder_from_spec(spec, weights, device=str(self._device))
        encoder = self._encoder
        return torch.stack([torch.from_numpy(encode_image(image, encoder)) for image in images])


def _require_text(question: object) -> None:
    if not isinstance(question, str):
        raise InputError(
            f"the question is {question!r:.60} ({type(question).__name__}): expected a text"
        )
    if not question.strip():
        raise InputError(f"the question is empty: found {question!r}, expected a text")
    try:
        question.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"the question is not valid Unicode: found {question!a:.60}, expected a text"
        ) from None


def _image_list(given: ImageSource | Sequence[ImageSource]) -> list[ImageSource]:
    """Return photographs as a list, in the order given.

    Raises:
        InputError: They have no order, or one is neither a file nor an image of Pillow.
    """
    images = [given] if isinstance(given, str | Path | Image.Image) else given
    if not isinstance(images, Iterable) or isinstance(images, Set | Mapping):
        raise InputError(
            f"the images are a {type(given).__name__}: expected one image, or a list in the order "
            "the task takes them"
        )
    images = list(images)
    for image in images:
        if not isinstance(image, str | Path | Image.Image):
            raise InputError(
                f"an image is a {type(image).__name__}: expected the path of a file, or an image "
                "opened with Pillow (of an array: PIL.Image.fromarray)"
            )
    return images


def load_run(path: str | Path, *, checkpoint: str = BEST) -> Run:
    """Load a trained run.

    Args:
        path: The folder `vl-lst train --out` wrote.
        checkpoint: `best` by the validation scores, `last`, or, where several tasks were trained,
            `best-TASK` by the score of one.

    Raises:
        CheckpointError: It is no run, the checkpoint is incomplete, or the backbone is another.
    """
    directory = RunDirectory(as_path("the run's folder", path))
    recipe, card = directory.recipe(), directory.card()
    names = [BEST, "last", *(f"{BEST}-{task}" for task in recipe.tasks if len(recipe.tasks) > 1)]
    if checkpoint not in names:
        raise CheckpointError(f"no checkpoint {checkpoint!r}: expected one of: {', '.join(names)}")
    card.require_tasks(recipe.tasks)
    built = build_model(recipe, card.spec(), card.answers)
    card.require_backbone(recipe.backbone.name, built.fingerprint)
    folder = directory.checkpoint(checkpoint)
    saved = load_checkpoint(folder, MODEL)
    load_parameters(built.trainable, saved.tensors[MODEL], source=folder)
    built.quantise_backbone()
    wanted = recipe.training.device
    device = choose_device(wanted if torch.cuda.is_available() else "auto")
    if device.type == "cpu" and (wanted == "cuda" or _was_trained_on_cuda(directory)):
        log.warning(
            "the run was trained on CUDA, which cannot be used here: it runs on the CPU, more "
            "slowly and with small numerical differences"
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
