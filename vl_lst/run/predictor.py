"""A model that answers questions about photographs or texts.

B questions, I images, N tokens per image, F channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.errors import InputError
from feature_extraction.encoders.encoder import Encoder, encode_images, encoder_from_spec
from feature_extraction.spec import FeatureSpec
from tasks import Task
from vl_lst.bundled import ENCODER_FOLDERS
from vl_lst.data.batches import prompt_fields
from vl_lst.data.text_warnings import question_notes
from vl_lst.generation.answering import Answerer
from vl_lst.models.batch import Batch
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel
from vl_lst.recipes.loaded_backbone import load_backbone_of
from vl_lst.run.arguments import ImageSource, image_list, task_text

__all__ = ["Answer", "Predictor", "Question"]

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
        meaning: What the answer stands for, if it does not tell, such as a class for its number.
    """

    answer: str
    ranked: list[tuple[str, float]] | None
    notes: tuple[str, ...] = ()
    meaning: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What a model answers about images, or about text alone.

    Args:
        image: See `Predictor.predict`.
        question: See `Predictor.predict`.
        text2: See `Predictor.predict`.
    """

    image: ImageSource | Sequence[ImageSource] = ()
    question: str | None = None
    text2: str | None = None


class Predictor:
    """A model ready to answer questions.

    Args:
        recipe: Recipe of the model.
        built: Model in evaluation mode, on `device`.
        answers: Answer list of each task; `None` for a task that may generate any answer.
        spec: Spec of the features that the model reads; `None` if it reads the text alone.
        device: Device of the model.
        encoder: Image encoder. Default: built from `spec` when it is needed.
    """

    def __init__(
        self,
        recipe: Recipe,
        built: BuiltModel,
        answers: dict[str, list[str] | None],
        spec: FeatureSpec | None,
        device: torch.device,
        encoder: Encoder | None = None,
    ) -> None:
        self.recipe = recipe
        self._answers = answers
        self._spec = spec
        self._tokenizer = built.tokenizer
        self._backbone_reads_images = built.model.backbone_reads_images
        self._device = device
        self._built = built
        self._answerer = Answerer(built, recipe, answers, device)
        self._encoder = encoder

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self._device

    @property
    def is_text_only(self) -> bool:
        """Whether the model reads the text alone, even for tasks with images."""
        return self._spec is None

    def task(self, name: str | None = None, *, official: bool = False) -> Task:
        """Return a task with the settings of the model, and the files of its recipe as splits.

        Args:
            name: Name of the task. Default: the only task that the model was made for. Such a model
                can also answer another task, with the head of its own task.
            official: Whether to keep the official splits even if the recipe names the user's own
                files.

        Raises:
            InputError: The model was made for several tasks, and `name` is not one of them.
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

    def predict(
        self,
        image: ImageSource | Sequence[ImageSource] = (),
        question: str | None = None,
        *,
        text2: str | None = None,
        task_name: str | None = None,
        encoder_weights: str | Path | None = None,
    ) -> Answer:
        """Answer a question about an image, which is preprocessed like those of the features.

        Args:
            image: Path of an image, or an image opened with Pillow; a sequence of them if the task
                takes several, an empty one if the model reads the text alone.
            question: Question, statement or first text, without the task's prefix; `None` for
                captions.
            text2: Second text, if the task takes two.
            task_name: Name of the task, if the model was made for several.
            encoder_weights: File or folder with the weights of the image encoder, if the features
                were extracted with local weights.

        Raises:
            InputError: The number of images or of texts is not that of the task, or a text is
                empty.
            ImageError: An image cannot be decoded.
            EncoderError: The image encoder of the features cannot be built.
        """
        asked = Question(image, question, text2)
        return self.predict_batch([asked], task_name=task_name, encoder_weights=encoder_weights)[0]

    def predict_batch(
        self,
        questions: Sequence[Question],
        *,
        task_name: str | None = None,
        encoder_weights: str | Path | None = None,
    ) -> list[Answer]:
        """Answer several questions of one task at once.

        Args:
            questions: At least one question. All images are decoded and encoded as one batch.
            task_name: See `predict`.
            encoder_weights: See `predict`.

        Raises:
            InputError: See `predict`.
            ImageError: See `predict`.
            EncoderError: See `predict`.
        """
        task = self.task(task_name)
        prompts = [self._prompt(task, each) for each in questions]
        images = [self._images(task, each) for each in questions]
        # Photographs have no IDs here, so that all count as different.
        reads_images = self._backbone_reads_images and any(images)
        fields: dict[str, Any] = prompt_fields(
            prompts,
            self._tokenizer,
            max_tokens=task.max_prompt_tokens,
            suffix=task.prompt_suffix,
            image_ids=[(str(row),) for row in range(len(images))] if reads_images else None,
        )
        if any(images):
            fields["features_BINF"] = self._features(images, encoder_weights)
        load_backbone_of(self.recipe, self._built, "a new question has no states in a file")
        notes = [question_notes(prompt, task, self._tokenizer) for prompt in prompts]
        head = self._head(task)
        batch = Batch(example_ids=("",) * len(questions), task=head, **fields)
        ranked: Sequence[list[tuple[str, float]] | None]
        if self._answerer.is_ranked(head):
            rankings = self._answerer.rank(batch, NUM_RANKED_ANSWERS)
            ranked, answers = rankings, [ranking[0][0] for ranking in rankings]
        else:
            ranked, answers = [None] * len(questions), self._answerer.answer(batch)
        return [
            Answer(answer, ranking, note, task.answer_meanings.get(answer))
            for answer, ranking, note in zip(answers, ranked, notes, strict=True)
        ]

    def _prompt(self, task: Task, asked: Question) -> str:
        text = task_text(task, asked.question, asked.text2)
        return task.prompt_prefix + text + task.prompt_suffix

    def _images(self, task: Task, asked: Question) -> list[ImageSource]:
        images = image_list(asked.image)
        expected = 0 if self._spec is None else task.images_per_example
        if len(images) != expected:
            reads_text = self._spec is None and task.images_per_example
            reason = ", since the model reads the text alone" if reads_text else ""
            raise InputError(
                f"wrong number of images for {task.name}: found {len(images)}, expected "
                f"{expected}{reason}"
            )
        return images

    def _head(self, task: Task) -> str:
        return task.name if task.name in self.recipe.tasks else self.recipe.tasks[0]

    def _features(
        self, images: Sequence[Sequence[ImageSource]], weights: str | Path | None
    ) -> Tensor:
        spec = self._spec
        assert spec is not None, "a model that reads images has the spec of their features"
        shape = (len(images), len(images[0]), spec.tokens, spec.channels)
        if self.recipe.data.blind:
            return torch.zeros(shape, dtype=torch.float16)
        if self._encoder is None:
            if weights is None:
                weights = self._known_weights(spec)
            self._encoder = encoder_from_spec(spec, weights, device=str(self._device))
        every = [image for images_I in images for image in images_I]
        return torch.from_numpy(encode_images(every, self._encoder)).reshape(shape)

    def _known_weights(self, spec: FeatureSpec) -> str | Path | None:
        """Return the folder of the image encoder, if it needs no search."""
        if spec.encoder in ENCODER_FOLDERS:
            return ENCODER_FOLDERS[spec.encoder]
        # A local backbone that reads images is saved together with its image encoder.
        name = self.recipe.backbone.name
        return name if self._backbone_reads_images and Path(name).is_dir() else None
