"""Is what a task needs below a data root, and is it what was published?"""

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
    """What a feature store can say about images."""

    def missing(self, image_ids: Iterable[str]) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class FileState:
    """One file a task can use.

    Args:
        file: What is wanted.
        found: The path of it or of what stands in for it; `None` where there is none.
        size: Bytes found; of a folder, of all its files.
    """

    file: DataFile
    found: Path | None
    size: int | None


@dataclass(frozen=True, slots=True)
class SplitState:
    """One split of a task.

    Args:
        split: Its name.
        examples: How many examples it has; `None` where it cannot be loaded.
        images: How many images these are about.
        published: The size it should have; `None` where nobody says.
        missing_images: Images without features; `None` where no features were given.
        problem: Why it cannot be used, in a sentence; `None` where it can.
    """

    split: str
    examples: int | None
    images: int | None
    published: SplitSize | None
    missing_images: Sequence[str] | None
    problem: str | None

    @property
    def is_published_size(self) -> bool:
        """Whether examples and images are as many as published, as far as that is known."""
        return self.published is None or (
            self.published.examples == self.examples
            and self.published.images in (None, self.images)
        )


def check_files(task: Task, data_root: Path) -> list[FileState]:
    """Look for each file the task can use."""
    states = []
    for file in task.files:
        found = file.find(data_root)
        states.append(FileState(file, found, None if found is None else _bytes_of(found)))
    return states


def check_split(task: Task, data_root: Path, split: str, features: HasImages | None) -> SplitState:
    """Load a split, count what is in it, and look for its images.

    Args:
        task: The task.
        data_root: Folder with the annotations.
        split: The split.
        features: Where its images should be; `None` looks for none.

    Raises:
        InputError: The task has no such split.
    """
    if split not in task.splits:
        raise InputError(f"{task.name} has no split {split!r}; there are: {', '.join(task.splits)}")
    published = task.sizes.get(split)
    absent = [
        file
        for file in task.files
        if split in file.splits and not file.optional and file.find(data_root) is None
    ]
    if absent:
        needed = ", ".join(f"{file.path} ({file.address})" for file in absent)
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


def _bytes_of(path: Path) -> int:
    files = path.glob("*.json") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
