"""Examples for the leaderboard page: prompts, predictions, reference answers and thumbnails."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from eval.errors import InputError
from eval.leaderboard.runs import Run
from eval.recipe_fields import get_field
from eval.report.examples import ExampleCard, ExampleSheet
from eval.run_files import ExampleScores
from feature_extraction.errors import ImageError
from feature_extraction.images.decode import decode_image
from feature_extraction.images.finding import find_images
from feature_extraction.names import near_names_hint
from tasks import Example, Task
from vl_lst.progress import ProgressReport
from vl_lst.runs.predictions import predictions_file, read_example_scores
from vl_lst.task_settings import configure_task

__all__ = ["example_sheets", "kept_scores", "thumbnails"]

THUMBNAIL_SIDE = 176
JPEG_QUALITY = 72
MAX_REFERENCES_SHOWN = 3
# A prediction counts as right if it earns at least this share of the maximum score.
MIN_SHARE_IF_RIGHT = 0.5


def example_sheets(run: Run, splits: Mapping[str, str], count: int) -> list[ExampleSheet]:
    """Return examples of each task of a run; a sheet without examples has a note why.

    Args:
        run: Run.
        splits: Split to show, by task.
        count: Maximum number of examples per task, spread over the split; half of them are
            answered wrong if possible.
    """
    return [_sheet(run, task, splits[task], count) for task in run.record.tasks]


def kept_scores(run: Run, name: str, split: str) -> ExampleScores | None:
    """Return the per-example scores that a run kept with its predictions, if it did.

    Args:
        run: Run.
        name: Name of the task.
        split: Name of the split.
    """
    task = configure_task(run.record.recipe, name)
    try:
        return read_example_scores(predictions_file(run.folder, task, split), task)
    except (InputError, OSError):
        return None


def thumbnails(
    folder: Path, sheets: Sequence[ExampleSheet], report: ProgressReport
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return small JPEG versions of the images of examples.

    Args:
        folder: Folder with the images, at any depth.
        sheets: Examples.
        report: Called with the number of finished images.

    Returns:
        The thumbnails, and the reasons why some are missing; both by image id.

    Raises:
        ImageError: The folder does not exist or has no image.
    """
    found = find_images(folder)
    path_of = {file.image_id: file.path for file in found}
    note = f"; {found.note}" if found.note else ""
    wanted = {i: None for sheet in sheets for card in sheet.cards for i in card.image_ids}
    pictures: dict[str, bytes] = {}
    missing: dict[str, str] = {}
    for done, image_id in enumerate(wanted, start=1):
        if image_id not in path_of:
            missing[image_id] = f"found no file of this name in {folder}{note}"
        else:
            try:
                pictures[image_id] = _thumbnail(path_of[image_id])
            except ImageError as error:
                missing[image_id] = str(error)
        report(done, len(wanted))
    nowhere = [image_id for image_id in missing if image_id not in path_of]
    if nowhere:
        missing[nowhere[0]] += f".{near_names_hint(nowhere, path_of, place='the folder')}"
    return pictures, missing


def _thumbnail(path: Path) -> bytes:
    image = decode_image(path, THUMBNAIL_SIDE).image
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return encoded.getvalue()


def _sheet(run: Run, name: str, split: str, count: int) -> ExampleSheet:
    task = configure_task(run.record.recipe, name)
    path = predictions_file(run.folder, task, split)
    # A file that exists and cannot be read is reported when it is read.
    if not os.path.lexists(path):
        return ExampleSheet(
            name,
            split,
            note=f"No predictions of {split}. Run `vl-lst evaluate {run.folder} --task {name} "
            f"--split {split}` to make them.",
        )
    root = get_field(run.record.recipe, ("data", "root"))
    data_root = Path(root if isinstance(root, str) else "")
    try:
        predictions = task.read_predictions(path)
        examples = task.load(data_root, split)
        ids = examples.ids()
        shares = _shares(task, path, predictions, data_root, split, ids)
        cards = [
            _card(task, examples[index], predictions, shares)
            for index in _select([_is_right(shares, id_) for id_ in ids], count)
        ]
    except (InputError, OSError) as error:
        return ExampleSheet(name, split, note=f"The examples cannot be shown: {error}")
    return ExampleSheet(name, split, total=len(ids), cards=cards)


def _shares(
    task: Task,
    path: Path,
    predictions: Mapping[str, str],
    data_root: Path,
    split: str,
    ids: Sequence[str],
) -> Mapping[str, float]:
    """Return each example's share of the best score; nothing if answers are compared as texts."""
    if task.answers_are == "references":
        return {}
    found = read_example_scores(path, task)
    scores: Mapping[str, float] = {} if found is None else found.scores
    if scores.keys() != set(ids):
        scores = task.score(predictions, data_root, split).per_example
    return {id_: task.metric.percent(value) / 100 for id_, value in scores.items()}


def _is_right(shares: Mapping[str, float], id_: str) -> bool | None:
    return shares[id_] >= MIN_SHARE_IF_RIGHT if id_ in shares else None


def _select(right: Sequence[bool | None], count: int) -> list[int]:
    """Return the indices of some examples, spread over the split; half are wrong if possible."""
    wrong = [index for index, each in enumerate(right) if each is False]
    others = [index for index, each in enumerate(right) if each is not False]
    num_wrong = max(count - len(others), min(len(wrong), count // 2))
    return sorted([*_spread(wrong, num_wrong), *_spread(others, count - num_wrong)])


def _spread(indices: Sequence[int], count: int) -> list[int]:
    if count >= len(indices):
        return list(indices)
    return [indices[number * len(indices) // count] for number in range(count)]


def _card(
    task: Task, example: Example, predictions: Mapping[str, str], shares: Mapping[str, float]
) -> ExampleCard:
    targets = sorted(example.targets, key=lambda target: -target[1])
    return ExampleCard(
        id=example.id,
        prompt=_text_by_lines(task, example.text),
        prediction=predictions.get(example.id, ""),
        references=[answer for answer, _ in targets[:MAX_REFERENCES_SHOWN]],
        is_right=_is_right(shares, example.id),
        image_ids=example.image_ids,
    )


def _text_by_lines(task: Task, text: str) -> str:
    """Return the text of a prompt with each of the task's texts on its own line."""
    for label in task.text_format.split("{}")[1:-1]:
        text = text.replace(label, f"\n{label.lstrip()}", 1)
    return text
