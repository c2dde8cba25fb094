"""Checks that the data files of a task are present and have their published size."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from eval.errors import InputError
from eval.submissions import first_five
from tasks._files import DataFile, SplitSize
from tasks._task import Task

__all__ = ["FileState", "HasImages", "SplitState", "check_files", "check_split"]


class HasImages(Protocol):
    """The part of a feature store that finds missing images."""

    def missing(self, image_ids: Iterable[str]) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class FileState:
    """The state of one data file.

    Args:
        file: The data file.
        found: Path of the file or of an alternative; `None` if there is none.
        size: Size in bytes; of a folder, the sum of its files.
    """

    file: DataFile
    found: Path | None
    size: int | None


@dataclass(frozen=True, slots=True)
class SplitState:
    """The state of one split.

    Args:
        split: Name of the split.
        examples: Number of examples; `None` if the split cannot be loaded.
        images: Number of images; `None` if the split cannot be loaded.
        published: Published size; `None` if there is none.
        missing_images: IDs of images without features; `None` if no features were given.
        problem: Why the split cannot be used, in one sentence; `None` if it can.
    """

    split: str
    examples: int | None
    images: int | None
    published: SplitSize | None
    missing_images: Sequence[str] | None
    problem: str | None

    @property
    def is_published_size(self) -> bool:
        """Whether the numbers of examples and images are those published, as far as known."""
        return self.published is None or (
            self.published.examples == self.examples
            and self.published.images in (None, self.images)
        )


def check_files(task: Task, data_root: Path) -> list[FileState]:
    """Return the state of each data file of a task."""
    states = []
    for file in task.files:
        found = file.find(data_root)
        states.append(FileState(file, found, None if found is None else _bytes_of(found)))
    return states


def check_split(task: Task, data_root: Path, split: str, features: HasImages | None) -> SplitState:
    """Load a split, count its examples and images, and find images without features.

    Args:
        task: The task.
        data_root: Folder with the annotations.
        split: Name of the split.
        features: Features of the images; `None` skips that check.

    Raises:
        InputError: The task has no such split.
    """
    if split not in task.splits:
        raise task.unknown_split(split)
    published = task.sizes.get(split)
    if missing_files := _missing_files(task, data_root, split):
        needed = ", ".join(f"{file.path} ({file.address})" for file in missing_files)
        return SplitState(split, None, None, published, None, f"{split} needs {needed}")
    try:
        examples = task.load(data_root, split)
    except InputError as error:
        return SplitState(split, None, None, published, None, str(error))
    image_ids = examples.image_ids()
    missing = None if features is None else features.missing(image_ids)
    problem = None
    if missing:
        problem = (
            f"{len(missing):,} of the {len(image_ids):,} images of {split} have no features "
            f"({first_five(missing)}); extract them with `vl-lst extract-features`"
        )
    return SplitState(split, len(examples), len(image_ids), published, missing, problem)


def _missing_files(task: Task, data_root: Path, split: str) -> list[DataFile]:
    """Return the files that a split requires and that are not there, nor an alternative.

    A split that is read from the files that its own is derived from requires all of them.
    """
    missing = []
    for file in task.files:
        if split not in file.splits or file.optional:
            continue
        found = file.find(data_root)
        if found is None:
            missing.append(file)
        elif found in [data_root / path for path in file.derived_from]:
            inputs = (each for each in task.files if each.path in file.derived_from)
            missing += [each for each in inputs if each.find(data_root) is None]
    return missing


def _bytes_of(path: Path) -> int:
    files = path.glob("*.json") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
