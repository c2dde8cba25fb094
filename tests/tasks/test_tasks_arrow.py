"""The Arrow cache: built once, keyed by content, shared by workers, and never fatal."""

import logging
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from eval.errors import FileFormatError, InputError
from tasks import Example
from tasks._arrow import EXAMPLES_PER_CHUNK, ArrowExamples, cache_folder, cached_examples


def example(number: int) -> Example:
    images = (f"image-{number // 2}", f"image-{number // 2 + 1}")
    targets = (("é", 1.0), ("", 0.3)) if number % 2 else ()
    return Example(f"id-{number}", images, f"vqa: {number}?", targets)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "questions.json"
    file.write_text("first", encoding="utf-8")
    return file


def build(source: Path, count: int = 5) -> ArrowExamples:
    return cached_examples("vqa-val", [source], lambda: map(example, range(count)))


def test_examples_round_trip(source: Path) -> None:
    examples = build(source)
    expected = [example(number) for number in range(5)]
    assert [examples[number] for number in range(5)] == list(examples) == expected
    assert len(examples) == 5
    assert examples.ids() == [each.id for each in expected]
    assert examples.image_ids() == ["image-0", "image-1", "image-2", "image-3"]
    with pytest.raises(IndexError):
        examples[5]


def test_more_examples_than_one_chunk(source: Path) -> None:
    count = EXAMPLES_PER_CHUNK + 3
    examples = build(source, count)
    assert len(examples) == count
    assert examples[count - 1] == example(count - 1)


def test_only_a_changed_source_is_read_again(source: Path, cache: Path) -> None:
    assert len(build(source, 5)) == 5
    assert len(build(source, 6)) == 5
    source.write_text("second", encoding="utf-8")
    assert len(build(source, 6)) == 6
    assert len(list(cache.iterdir())) == 2


def test_a_failed_build_leaves_no_file(source: Path, cache: Path) -> None:
    def fail() -> Iterator[Example]:
        yield example(0)
        raise KeyError("bad record")

    with pytest.raises(KeyError):
        cached_examples("vqa-val", [source], fail)
    assert list(cache.iterdir()) == []


def test_an_unwritable_cache_is_logged_and_replaced(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VL_LST_CACHE", str(source / "inside a file"))
    with caplog.at_level(logging.WARNING):
        assert len(build(source)) == 5
    assert "cannot write to" in caplog.text


def test_the_default_cache_is_in_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("VL_LST_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "vl-lst"


def test_pickles_contain_the_path_instead_of_the_data(source: Path) -> None:
    examples = build(source, 2000)
    pickled = pickle.dumps(examples)
    assert len(pickled) < 10_000
    assert pickle.loads(pickled)[1999] == example(1999)


def _read_in_child(examples: ArrowExamples, connection: Connection) -> None:
    connection.send(examples[3])


def test_a_spawned_worker_reads_the_same_file(source: Path) -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_read_in_child, args=(build(source), sender))
    worker.start()
    assert receiver.poll(60)
    assert receiver.recv() == example(3)
    worker.join()


def _build_in_child(source: Path, barrier: Barrier) -> None:
    for turn in range(20):
        barrier.wait()
        examples = cached_examples(f"turn-{turn}", [source], lambda: map(example, range(50)))
        assert examples[49] == example(49)


def test_concurrent_builds_do_not_corrupt_the_file(source: Path, cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    workers = [context.Process(target=_build_in_child, args=(source, barrier)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert [file.suffix for file in cache.iterdir()] == [".arrow"] * 20


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda _: b"", lambda data: b"x" + data]
)
def test_a_damaged_cache_file_is_rebuilt(
    source: Path, cache: Path, damage: Callable[[bytes], bytes]
) -> None:
    build(source)
    (file,) = cache.iterdir()
    content = file.read_bytes()
    file.write_bytes(damage(content))
    assert build(source).ids() == [example(number).id for number in range(5)]
    assert file.read_bytes() == content


def test_special_files_are_refused_as_sources_and_caches(source: Path, cache: Path) -> None:
    build(source)
    (file,) = cache.iterdir()
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InputError, match="is a named pipe"):
        build(source)
    source.unlink()
    os.mkfifo(source)
    with pytest.raises(InputError, match="is a named pipe: expected a regular file with annot"):
        build(source)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"targets": ("yes", "no")}, "the target 'yes' .*an answer and its weight in"),
        ({"targets": ("no",)}, "the target 'no'"),
        ({"targets": "yes"}, "the targets 'yes'"),
        ({"targets": (("yes", 2.0),)}, "the target"),
        ({"targets": (("yes", None),)}, "the target"),
        ({"id": 3}, r"an id that is 3 \(int\): expected a string"),
        ({"prompt": None}, "the prompt None"),
        ({"image_ids": "image-1"}, "expected a tuple of strings"),
        ({"image_ids": (1,)}, "expected a tuple of strings"),
    ],
)
def test_example_types_are_checked_on_writing(
    source: Path, cache: Path, wrong: dict[str, Any], message: str
) -> None:
    """For example, a string of two letters could pass for an answer and its weight."""
    examples = [replace(example(0), **wrong)]
    with pytest.raises(FileFormatError, match=message):
        cached_examples("vqa-val", [source], lambda: examples)
    assert not list(cache.iterdir())
