"""Examples for the leaderboard page: prompts, predictions, reference answers and thumbnails."""

import hashlib
import io
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from eval.errors import InputError
from eval.leaderboard.board import Board
from eval.report.example_data import ExampleData
from eval.report.examples import ExampleCard, ExampleSheet
from eval.report.run_data import RunData
from eval.statistics.estimates import Estimate
from eval.text import escape_controls
from feature_extraction.errors import ImageError
from feature_extraction.images.decode import decode_image
from feature_extraction.images.finding import find_images
from feature_extraction.names import near_names_hint
from vl_lst.cli._answered_splits import AnsweredSplit, SplitReader
from vl_lst.progress import ProgressReport

__all__ = ["THUMBNAIL_SIDE", "Thumbnails", "collect_examples", "make_sheet", "read_thumbnails"]

THUMBNAIL_SIDE = 176
JPEG_QUALITY = 72
# A prediction counts as right if it earns at least this share of the maximum score.
MIN_PERCENT_IF_RIGHT = 50
# Examples of all runs together that are part of the page's text; all others are data.
MAX_CARDS = 2400


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Thumbnails of images.

    Args:
        addresses: What `store` returned for each, by image ID.
        missing: Reasons why some cannot be made, by image ID.
        left_out: Number of images for which there was no room.
    """

    addresses: Mapping[str, str]
    missing: Mapping[str, str]
    left_out: int


def collect_examples(
    board: Board, count: int, max_chars: int | None, report: ProgressReport
) -> tuple[dict[str, list[ExampleSheet]], RunData]:
    """Collect the examples of all runs on a leaderboard.

    Args:
        board: Leaderboard.
        count: Maximum number of examples in a sheet; fewer if there are many runs.
        max_chars: Maximum size of the data; `None` sets no limit.
        report: Called with the number of finished runs.

    Returns:
        Some examples of each run by its name, for its static view, and all of them as data.
    """
    placed = board.placed_runs
    num_sheets = sum(len(run.record.tasks) for _, _, run in placed)
    count = min(count, max(1, MAX_CARDS // max(1, num_sheets)))
    reader, data = SplitReader(), ExampleData(max_chars)
    sheets: dict[str, list[ExampleSheet]] = {}
    estimates: dict[str, dict[str, Estimate]] = {}
    for done, (index, _, run) in enumerate(placed, start=1):
        splits = board.groups[index].splits
        sheets[run.name], estimates[run.name] = [], {}
        for name in run.record.tasks:
            try:
                found = reader.read(run, name, splits[name])
            except InputError as error:
                sheets[run.name].append(ExampleSheet(name, splits[name], note=str(error)))
                continue
            data.add(run, found.examples, found.packed, found.answers)
            sheets[run.name].append(make_sheet(found, count))
            if found.estimate is not None:
                estimates[run.name][name] = found.estimate
        report(done, len(placed), escape_controls(run.name))
    return sheets, RunData(data, estimates)


def make_sheet(found: AnsweredSplit, count: int) -> ExampleSheet:
    """Return some examples of the split; half of them are wrong if possible.

    Args:
        found: Examples with the answers of a run.
        count: Maximum number of examples.
    """
    examples, answers = found.examples, found.answers
    right = [
        None if percent is None or not examples.is_graded else percent >= MIN_PERCENT_IF_RIGHT
        for percent in answers.percents
    ]
    cards = [
        ExampleCard(
            id=examples.ids[index],
            prompt=examples.prompts[index],
            prediction=answers.predictions[index],
            references=examples.references[index],
            is_right=right[index],
            image_ids=examples.image_ids[index],
        )
        for index in _select(examples.ids, right, count)
    ]
    return ExampleSheet(examples.task, examples.split, total=len(examples.ids), cards=cards)


def read_thumbnails(
    folder: Path,
    wanted: Iterable[str],
    report: ProgressReport,
    store: Callable[[str, Callable[[], bytes]], str],
    max_chars: int | None = None,
) -> Thumbnails:
    """Make small JPEG versions of images.

    Args:
        folder: Folder with the images, at any depth.
        wanted: IDs of the images, the most important first.
        report: Called with the number of finished images.
        store: Called with a key of the file's content and a function that makes the JPEG file;
            returns its address on the page.
        max_chars: Size of all addresses together after which the rest is left out; `None` sets no
            limit.

    Raises:
        ImageError: The folder does not exist or has no image.
    """
    found = find_images(folder)
    path_of = {file.image_id: file.path for file in found}
    note = f"; {found.note}" if found.note else ""
    ids = list(dict.fromkeys(wanted))
    addresses: dict[str, str] = {}
    missing: dict[str, str] = {}
    used = left_out = 0
    for done, image_id in enumerate(ids, start=1):
        if image_id not in path_of:
            missing[image_id] = f"found no file of this name in {folder}{note}"
        elif max_chars is not None and used >= max_chars:
            left_out += 1
        else:
            path = path_of[image_id]
            try:
                address = store(_key(image_id, path), partial(_thumbnail, path))
            except (ImageError, OSError) as error:
                missing[image_id] = str(error)
            else:
                addresses[image_id] = address
                used += len(address)
        report(done, len(ids))
    nowhere = [image_id for image_id in missing if image_id not in path_of]
    if nowhere:
        missing[nowhere[0]] += f".{near_names_hint(nowhere, path_of, place='the folder')}"
    return Thumbnails(addresses, missing, left_out)


def _key(image_id: str, path: Path) -> str:
    """Return a key that changes with the image, so that an unchanged one is not decoded again."""
    status = path.stat()
    described = [image_id, status.st_size, status.st_mtime_ns, THUMBNAIL_SIDE, JPEG_QUALITY]
    return hashlib.sha256(repr(described).encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _thumbnail(path: Path) -> bytes:
    image = decode_image(path, THUMBNAIL_SIDE).image
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return encoded.getvalue()


def _select(ids: Sequence[str], right: Sequence[bool | None], count: int) -> list[int]:
    """Return the indices of some examples; half are wrong if possible.

    Runs that answer the same examples show the same ones as far as possible, so that their answers
    can be seen next to each other: all take them in one order, which is random but fixed.
    """
    codes = [zlib.crc32(id_.encode("utf-8", "surrogatepass")) for id_ in ids]
    order = sorted(range(len(ids)), key=codes.__getitem__)
    wrong = [index for index in order if right[index] is False]
    others = [index for index in order if right[index] is not False]
    num_wrong = max(count - len(others), min(len(wrong), count // 2))
    return sorted([*wrong[:num_wrong], *others[: count - num_wrong]])
