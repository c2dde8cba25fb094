"""Examples in an Arrow file that is written once and memory-mapped ever after.

Workers share the pages of the file, so eight of them do not hold eight copies of the questions.
The file lies in a cache folder (`$VL_LST_CACHE`, or `~/.cache/vl-lst`) under a name that depends on
the contents of the files it was made from, so edited annotations never meet a stale cache.
"""

import atexit
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
from tasks._task import Example

__all__ = ["ArrowExamples", "cache_folder", "cached_examples"]

# To be raised whenever the columns, or what the tasks put into them, change.
SCHEMA_VERSION = 2
EXAMPLES_PER_CHUNK = 10_000
MAX_SOURCE_BYTES = 1 << 36

log = logging.getLogger(__name__)


class ArrowExamples:
    """The `ExampleTable` over one Arrow file; pickles as little more than the file's path."""

    def __init__(self, path: Path) -> None:
        from datasets import Dataset

        self._rows: Any = Dataset.from_file(str(path))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        return _example(self._rows[index])

    def __iter__(self) -> Iterator[Example]:
        for batch in self._rows.data.to_batches():
            yield from map(_example, batch.to_pylist())

    def ids(self) -> list[str]:
        """Ids of all examples, in order."""
        ids: list[str] = self._rows.data.column("id").to_pylist()
        return ids

    def image_ids(self) -> list[str]:
        """Distinct ids of the images the examples refer to, in order of first use."""
        import pyarrow.compute

        column = self._rows.data.column("image_ids")
        distinct: list[str] = pyarrow.compute.list_flatten(column).unique().to_pylist()
        return distinct


def cache_folder() -> Path:
    """Where Arrow files go: `$VL_LST_CACHE`, or `~/.cache/vl-lst`."""
    return Path(os.environ.get("VL_LST_CACHE") or Path.home() / ".cache" / "vl-lst")


def cached_examples(
    name: str, sources: Sequence[Path], read: Callable[[], Iterable[Example]]
) -> ArrowExamples:
    """Return the examples made from `sources`, building their Arrow file when there is none.

    Two processes may build at once: each writes a file of its own and the last to finish puts an
    identical one in place. Where the cache folder cannot be written, a temporary one is used.

    Args:
        name: What the file is called before its key ("vqa-val2014").
        sources: The files that determine the examples.
        read: Called only when the file has to be built.

    Raises:
        InputError: One of `sources` is missing, or something in it is wrong.
    """
    file_name = f"{name}-{_content_key(sources)}.arrow"
    path = cache_folder() / file_name
    require_regular_if_any(path)
    if path.is_file() and (examples := _cached(path)) is not None:
        return examples
    if not _can_write(path.parent):
        path = _temporary_folder() / file_name
        log.warning("cannot write to %s: keeping %s in %s", cache_folder(), name, path.parent)
    if not path.is_file() or path.parent == cache_folder():
        _write(path, read())
    return ArrowExamples(path)


def _cached(path: Path) -> ArrowExamples | None:
    """Open a file of the cache, `None` where it is damaged and must be made again."""
    import pyarrow

    try:
        return ArrowExamples(path)
    except (pyarrow.ArrowException, OSError) as error:
        log.warning("%s is damaged (%s) and is made again", path, error)
        return None


def _content_key(sources: Sequence[Path]) -> str:
    key = hashlib.sha256(f"schema {SCHEMA_VERSION}".encode())
    for source in sources:
        if not source.exists():
            raise InputError(
                f"no file {source}: get it from the data set's site, or point --data-root elsewhere"
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
            "prompt": pyarrow.string(),
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
                    "mend the annotation file it comes from"
                ) from None
            stream.write_batch(batch)


def _row(example: Example) -> dict[str, object]:
    if problem := _problem(example):
        raise FileFormatError(f"the example {example.id!r:.60} has {problem}")
    return {
        "id": example.id,
        "image_ids": example.image_ids,
        "prompt": example.prompt,
        "answers": [answer for answer, _ in example.targets],
        "weights": [weight for _, weight in example.targets],
    }


def _problem(example: Example) -> str | None:
    """Describe the first field of an example that has a wrong type; `None` if all are right."""
    if not isinstance(example.id, str):
        return f"an id that is {_described(example.id)}: expected a text, such as str(id)"
    if not isinstance(example.prompt, str):
        return f"the prompt {_described(example.prompt)}: expected a text"
    if isinstance(example.image_ids, str) or not all(
        isinstance(image_id, str) for image_id in example.image_ids
    ):
        return f"the image_ids {_described(example.image_ids)}: expected a tuple of texts"
    if not isinstance(example.targets, tuple | list):
        return f"the targets {_described(example.targets)}: expected (answer, weight) pairs"
    for target in example.targets:
        is_pair = isinstance(target, tuple | list) and len(target) == 2
        if not is_pair or not isinstance(target[0], str) or not _is_weight(target[1]):
            return (
                f"the target {_described(target)}: expected an answer and its weight from 0 to 1, "
                "such as ('yes', 1.0)"
            )
    return None


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _described(value: object) -> str:
    return f"{value!r:.60} ({type(value).__name__})"


def _example(row: Mapping[str, Any]) -> Example:
    return Example(
        id=row["id"],
        image_ids=tuple(row["image_ids"]),
        prompt=row["prompt"],
        targets=tuple(zip(row["answers"], row["weights"], strict=True)),
    )
