"""A run as a model of lmms-eval: `lmms-eval --model vl_lst --model_args run=RUN`.

lmms-eval puts instructions for chat models around each question, such as "Answer the question using
a single word or phrase.". A run was trained on questions alone, so the adapter takes the question
from the data set instead, and the model gets the same prompt as in `vl-lst predict`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from PIL import Image
from tqdm import tqdm

from eval.errors import InputError
from vl_lst.run import Question, load_run

__all__ = ["LmmsEvalModel"]

# The value of `text_field` that stands for the whole prompt of lmms-eval.
WHOLE_PROMPT = "prompt"
MAX_SHOWN_FIELDS = 20


class LmmsEvalModel(lmms):  # type: ignore[misc]
    """A run that answers the questions of lmms-eval's tasks.

    The run answers as in `vl-lst evaluate`, with its own head, beams and maximum length: the
    `generation_kwargs` of a task do not apply to it.

    Args:
        run: Run directory, or OWNER/NAME[@REVISION] on the Hugging Face Hub.
        task: Task of the run, if it was trained on several.
        checkpoint: Name of the checkpoint: `best`, `last` or `best-TASK`.
        text_field: Field of the data set with the question, the statement or the first text; or
            `prompt` for the prompt of lmms-eval, with its instructions. It does not matter for a
            task that takes no text, such as captions.
        text2_field: Field of the data set with the second text, if the task takes two.
        encoder_weights: File or folder with the weights of the image encoder, if the features were
            extracted with local weights.
        batch_size: Number of questions answered at once (`--batch_size`).
        max_batch_size: Not used; lmms-eval passes it to every model.
        device: Device (`--device`). A run chooses its device itself, so any other is refused.

    Raises:
        InputError: An argument is not valid, or the run cannot be loaded.
    """

    is_simple = True

    def __init__(
        self,
        run: str,
        *,
        task: str | None = None,
        checkpoint: str = "best",
        text_field: str = "question",
        text2_field: str | None = None,
        encoder_weights: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self._batch_size = _positive(batch_size)
        if torch.cuda.is_available():
            # Each process of `torchrun` or `accelerate launch` answers its share on its own GPU.
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        # A name of digits alone reaches the adapter as a number.
        self._run = load_run(str(run), checkpoint=str(checkpoint))
        self._task_name = task
        self._task = self._chosen_task(task)
        self._fields = [text_field, text2_field][: self._task.texts_per_example]
        if None in self._fields:
            raise InputError(
                f"{self._task.name} takes two texts: found only text_field={text_field}, expected "
                "also text2_field=FIELD in --model_args"
            )
        self._weights = encoder_weights
        chosen = self._run.device
        if device is not None and device.partition(":")[0] != chosen.type:
            raise InputError(
                f"the run uses the device {chosen}: found --device {device}. Leave out --device; "
                "CUDA_VISIBLE_DEVICES= hides all GPUs."
            )

    @property
    def device(self) -> torch.device:
        """The device of the run, which lmms-eval reads if there are several processes."""
        return self._run.device

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Return the run's answer to each request, in order."""
        answers: list[str] = []
        with tqdm(total=len(requests), desc="vl-lst answers", disable=self.rank != 0) as bar:
            for start in range(0, len(requests), self._batch_size):
                batch = requests[start : start + self._batch_size]
                asked = [self._question(request) for request in batch]
                found = self._run.predict_batch(
                    asked, task_name=self._task_name, encoder_weights=self._weights
                )
                answers += [each.answer for each in found]
                bar.update(len(batch))
        return answers

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Refuse tasks of the type `multiple_choice` or `loglikelihood`."""
        raise NotImplementedError(self._refusal(requests, "the likelihood of given answers"))

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Refuse tasks with several rounds."""
        raise NotImplementedError(self._refusal(requests, "several rounds of questions"))

    def _refusal(self, requests: Sequence[Instance], found: str) -> str:
        names = ", ".join(sorted({request.task_name for request in requests}))
        return (
            f"{names} asks for {found}: a run answers one question at a time. Choose a task with "
            "output_type: generate_until."
        )

    def _chosen_task(self, name: str | None) -> Any:
        known = self._run.recipe.tasks
        if name not in known and (name is not None or len(known) > 1):
            raise InputError(
                f"the run was trained on {', '.join(known)}: found task={name} in --model_args, "
                "expected one of them"
            )
        return self._run.task(name)

    def _question(self, request: Instance) -> Question:
        context, _, doc_to_visual, doc_id, task_name, split = request.args
        row = self.task_dict[task_name][split][doc_id]
        texts = [
            context if field == WHOLE_PROMPT else _text(row, str(field), task_name)
            for field in self._fields
        ]
        visuals = [] if self._run.is_text_only else list(doc_to_visual(row) or [])
        images = [_image(visual, task_name) for visual in visuals]
        return Question(images, *texts)


def _positive(batch_size: int | str) -> int:
    try:
        size = int(batch_size)
    except ValueError:
        size = 0
    if size < 1:
        raise InputError(f"--batch_size is {batch_size!r:.40}: expected a number of at least 1")
    return size


def _text(row: Mapping[str, Any], field: str, task_name: str) -> str:
    text = row.get(field)
    if isinstance(text, str):
        return text
    names = [name for name, value in row.items() if isinstance(value, str)]
    shown = ", ".join(names[:MAX_SHOWN_FIELDS]) or "(none)"
    found = "no such field" if field not in row else f"a {type(text).__name__} there"
    raise InputError(
        f"the question of {task_name} is not in the field {field!r} of its data set: found "
        f"{found}, expected one of the texts {shown}. Name it in --model_args with "
        f"text_field=FIELD, or use text_field={WHOLE_PROMPT}, the task's whole prompt with its "
        "instructions."
    )


def _image(visual: object, task_name: str) -> Image.Image | Path:
    if isinstance(visual, Image.Image):
        return visual
    if isinstance(visual, str):
        return Path(visual)
    raise InputError(
        f"{task_name} has a {type(visual).__name__} as an image: expected a picture (a Pillow "
        "image or the path of a file). Videos and sounds are not supported."
    )
