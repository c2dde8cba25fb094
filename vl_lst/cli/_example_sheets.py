"""Examples of trained runs for the leaderboard: what was asked, said and right, with pictures."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from eval.errors import InputError
from eval.leaderboard.runs import Run
from eval.report.examples import ExampleCard, ExampleSheet
from feature_extraction.errors import ImageError
from feature_extraction.images.decode import decode_image
from feature_extraction.images.finding import find_images
from feature_extraction.names import near_names_hint
from tasks import Example, Task, get_task, with_own_files, with_prompt_prefix
from vl_lst.progress import ProgressReport

__all__ = ["example_sheets", "thumbnails"]

THUMBNAIL_SIDE = 176
JPEG_QUALITY = 72
TRUTHS_SHOWN = 3
# An example is right where the metric gives at least this share of what can be had.
RIGHT_FROM = 0.5


def example_sheets(run: Run, splits: Mapping[str, str], count: int) -> list[ExampleSheet]:
    """Examples of each task of a run; where something is missing, a note that says what.

    Args:
        run: The run.
        splits: The split of each task whose examples are shown.
        count: At most so many of each, spread over the split, half of them wrong where possible.
    """
    return [_sheet(run, task, splits[task], count) for task in run.record.tasks]


def thumbnails(
    folder: Path, sheets: Sequence[ExampleSheet], report: ProgressReport
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Small JPEG pictures of what examples are about.

    Args:
        folder: Where the photographs are, in folders of any depth.
        sheets: The examples.
        report: Told how many pictures are done.

    Returns:
        The pictures by image id, and why some are missing, by image id too.

    Raises:
        ImageError: There is no such folder, or no image in it.
    """
    found = find_images(folder)
    path_of = {file.image_id: file.path for file in found}
    note = f"; {found.note}" if found.note else ""
    wanted = {i: None for sheet in sheets for card in sheet.cards for i in card.image_ids}
    pictures: dict[str, bytes] = {}
    missing: dict[str, str] = {}
    for done, image_id in enumerate(wanted, start=1):
        if image_id not in path_of:
            missing[image_id] = f"there is no file of this name in {folder}{note}"
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
    task = _task_of(run, name)
    path = run.folder / "predictions" / f"{name}-{split}{task.predictions_suffix}"
    # A file that exists and cannot be read is reported when it is read.
    if not os.path.lexists(path):
        return ExampleSheet(
            name,
            split,
            note=f"There are no predictions of {split}: make them with `vl-lst evaluate "
            f"{run.folder} --task {name} --split {split}`.",
        )
    root = _data(run).get("root")
    data_root = Path(root if isinstance(root, str) else "")
    try:
        predictions = task.read_predictions(path)
        examples = task.load(data_root, split)
        ids = examples.ids()
        shares = _shares(task, predictions, data_root, split)
        cards = [
            _card(task, examples[place], predictions, shares)
            for place in _chosen([_is_right(shares, id_) for id_ in ids], count)
        ]
    except (InputError, OSError) as error:
        return ExampleSheet(name, split, note=f"The examples cannot be shown: {error}")
    return ExampleSheet(name, split, total=len(ids), cards=cards)


def _task_of(run: Run, name: str) -> Task:
    """The task with its prefix, and the user's own files as splits where it was trained on such."""
    data, task, files = _data(run), get_task(name), {}
    prefixes = data.get("prompt_prefix")
    prefix = prefixes.get(name) if isinstance(prefixes, dict) else None
    if isinstance(prefix, str):
        task = with_prompt_prefix(task, prefix)
    for split, field in (("train", "train_file"), ("val", "validation_file")):
        own = data.get(field)
        path = own.get(name) if isinstance(own, dict) else None
        if not isinstance(path, str):
            return task
        files[split] = Path(path)
    return with_own_files(task, files)


def _data(run: Run) -> Mapping[str, Any]:
    data = run.record.recipe.get("data")
    return data if isinstance(data, dict) else {}


def _shares(
    task: Task, predictions: Mapping[str, str], data_root: Path, split: str
) -> Mapping[str, float]:
    """What share of the best score each example gets; nothing where texts are compared."""
    if task.answers_are == "references":
        return {}
    scores = task.score(predictions, data_root, split).per_example
    return {id_: value * task.primary_factor / 100 for id_, value in scores.items()}


def _is_right(shares: Mapping[str, float], id_: str) -> bool | None:
    return shares[id_] >= RIGHT_FROM if id_ in shares else None


def _chosen(right: Sequence[bool | None], count: int) -> list[int]:
    """Places of some examples, spread over the split, half of them wrong where possible."""
    wrong = [place for place, each in enumerate(right) if each is False]
    others = [place for place, each in enumerate(right) if each is not False]
    of_wrong = max(count - len(others), min(len(wrong), count // 2))
    return sorted([*_spread(wrong, of_wrong), *_spread(others, count - of_wrong)])


def _spread(places: Sequence[int], count: int) -> list[int]:
    if count >= len(places):
        return list(places)
    return [places[number * len(places) // count] for number in range(count)]


def _card(
    task: Task, example: Example, predictions: Mapping[str, str], shares: Mapping[str, float]
) -> ExampleCard:
    targets = sorted(example.targets, key=lambda target: -target[1])
    return ExampleCard(
        id=example.id,
        prompt=example.prompt.removeprefix(task.prompt_prefix),
        prediction=predictions.get(example.id, ""),
        truth=[answer for answer, _ in targets[:TRUTHS_SHOWN]],
        right=_is_right(shares, example.id),
        image_ids=example.image_ids,
    )
