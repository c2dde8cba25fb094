"""Examples in an Arrow file, which is written once and memory-mapped from then on.

Workers share the pages of the file, so eight workers do not hold eight copies of the questions.
The cache folder is `$VL_LST_CACHE`, or `~/.cache/vl-lst`. The file name contains a hash of the
source files, so edited annotations never use a stale cache.
"""

import atexit
import copy
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from eval.errors import FileFormatError, InputError
from eval.outputs import atomic_path
from eval.regular_files import open_regular, require_regular_if_any
from tasks._examples import Example

__all__ = ["ArrowExamples", "cache_folder", "cached_examples"]

# Increase whenever the columns, or the values that tasks write to them, change.
SCHEMA_VERSION = 4
EXAMPLES_PER_CHUNK = 10_000
MAX_SOURCE_BYTES = 1 << 36

log = logging.getLogger(__name__)


class ArrowExamples:
    """An `ExampleTable` over one Arrow file; its pickle holds little more than the path.

    Args:
        path: The Arrow file.
    """

    def __init__(self, path: Path) -> None:
        from datasets import Dataset

        self._rows: Any = Dataset.from_file(str(path))
        self._prefix = self._suffix = ""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        return self._example(self._rows[index])

    def __iter__(self) -> Iterator[Example]:
        for batch in self._rows.data.to_batches():
            yield from map(self._example, batch.to_pylist())

    def ids(self) -> list[str]:
        """Return the IDs of all examples, in order."""
        ids: list[str] = self._rows.data.column("id").to_pylist()
        return ids

    def image_ids(self) -> list[str]:
        """Return the distinct image IDs of all examples, in order of first use."""
        import pyarrow.compute

        column = self._rows.data.column("image_ids")
        distinct: list[str] = pyarrow.compute.list_flatten(column).unique().to_pylist()
        return distinct

    def with_prompt(self, prefix: str, suffix: str) -> "ArrowExamples":
        """Return the same examples with other texts before and after those of the prompts."""
        examples = copy.copy(self)
        examples._prefix, examples._suffix = prefix, suffix
        return examples

    def _example(self, row: Mapping[str, Any]) -> Example:
        return Example(
            id=row["id"],
            image_ids=tuple(row["image_ids"]),
            prompt=self._prefix + row["text"] + self._suffix,
            targets=tuple(zip(row["answers"], row["weights"], strict=True)),
            prefix=self._prefix,
            suffix=self._suffix,
        )


def cache_folder() -> Path:
    """Return the folder of the Arrow files: `$VL_LST_CACHE`, or `~/.cache/vl-lst`."""
    return Path(os.environ.get("VL_LST_CACHE") or Path.home() / ".cache" / "vl-lst")


def cached_examples(
    name: str, sources: Sequence[Path], read: Callable[[], Iterable[Example]]
) -> ArrowExamples:
    """Return the examples made from `sources`, writing their Arrow file if there is none.

    Several processes may write at once: each writes its own temporary file and moves it into
    place, and the files are identical. If the cache folder is not writable, a temporary folder is
    used.

    Args:
        name: First part of the file name ("vqa-val2014").
        sources: The files that determine the examples.
        read: Returns the examples, without the task's prefix. Called only if the Arrow file has
            to be written.

    Raises:
        InputError: One of `sources` is missing or malformed.
    """
    file_name = f"{name}-{_content_key(sources)}.arrow"
    path = cache_folder() / file_name
    require_regular_if_any(path)
    if path.is_file() and (examples := _cached(path)) is not None:
        return examples
    if not _can_write(path.parent):
        path = _temporary_folder() / file_name
        log.warning("cannot write to %s: writing %s to %s", cache_folder(), name, path.parent)
    if not path.is_file() or path.parent == cache_folder():
        _write(path, read())
    return ArrowExamples(path)


def _cached(path: Path) -> ArrowExamples | None:
    """Open a file of the cache; return `None` if it is damaged and must be written again."""
    import pyarrow

    try:
        return ArrowExamples(path)
    except (pyarrow.ArrowException, OSError) as error:
        log.warning("%s is damaged (%s): writing it again", path, error)
        return None


def _content_key(sources: Sequence[Path]) -> str:
    key = hashlib.sha256(f"schema {SCHEMA_VERSION}".encode())
    for source in sources:
        if not source.exists():
            raise InputError(
                f"no file {source}: get it from the data set's site (`vl-lst data check` lists the "
                "addresses), or pass another --data-root"
            )
        with open_regular(
            source, expected="annotations", max_bytes=MAX_SOURCE_BYTES, read_again=True
        ) as file:
            key.update(hashlib.file_digest(file, "sha256").digest())
    return key.hexdigest()[:32]


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@cache
def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="vl-lst-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _write(path: Path, examples: Iterable[Example]) -> None:
    import pyarrow

    schema = pyarrow.schema(
        {
            "id": pyarrow.string(),
            "image_ids": pyarrow.list_(pyarrow.string()),
            "text": pyarrow.string(),
            "answers": pyarrow.list_(pyarrow.string()),
            "weights": pyarrow.list_(pyarrow.float64()),
        }
    )
    rows = map(_row, examples)
    with (
        atomic_path(path) as temporary,
        pyarrow.OSFile(str(temporary), "wb") as file,
        pyarrow.ipc.new_stream(file, schema) as stream,
    ):
        while chunk := list(islice(rows, EXAMPLES_PER_CHUNK)):
            try:
                batch = pyarrow.RecordBatch.from_pylist(chunk, schema=schema)
            except UnicodeEncodeError as error:
                raise FileFormatError(
                    f"the text {error.object!a} is not valid Unicode; "
                    "fix the annotation file that contains it"
                ) from None
            stream.write_batch(batch)


def _row(example: Example) -> dict[str, object]:
    if problem := _problem(example):
        raise FileFormatError(f"the example {example.id!r:.60} has {problem}")
    return {
        "id": example.id,
        "image_ids": example.image_ids,
        "text": example.text,
        "answers": [answer for answer, _ in example.targets],
        "weights": [weight for _, weight in example.targets],
    }


def _problem(example: Example) -> str | None:
    """Describe the first field that has a wrong type; return `None` if there is none."""
    if not isinstance(example.id, str):
        return f"an id that is {_described(example.id)}: expected a string, such as str(id)"
    if not isinstance(example.prompt, str):
        return f"the prompt {_described(example.prompt)}: expected a string"
    if isinstance(example.image_ids, str) or not all(
        isinstance(image_id, str) for image_id in example.image_ids
    ):
        return f"the image_ids {_described(example.image_ids)}: expected a tuple of strings"
    if not isinstance(example.targets, tuple | list):
        return f"the targets {_described(example.targets)}: expected (answer, weight) pairs"
    for target in example.targets:
        is_pair = isinstance(target, tuple | list) and len(target) == 2
        if not is_pair or not isinstance(target[0], str) or not _is_weight(target[1]):
            return (
                f"the target {_described(target)}: expected an answer and its weight in [0, 1], "
                "such as ('yes', 1.0)"
            )
    return None


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _described(value: object) -> str:
    return f"{value!r:.60} ({type(value).__name__})"
