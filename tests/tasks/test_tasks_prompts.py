"""The prefix of the prompts belongs to the task and is kept apart from the texts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tasks import Example, get_task, with_own_files


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    folder = tmp_path / "gqa"
    folder.mkdir()
    questions = [
        {"question_id": name, "img_id": name, "sent": f"gqa: is it {name}?", "label": {"yes": 1.0}}
        for name in ("1", "2")
    ]
    (folder / "valid.json").write_text(json.dumps(questions), encoding="utf-8")
    return tmp_path


def test_only_the_prefix_changes(data_root: Path) -> None:
    """A text that itself begins with the prefix keeps it."""
    task = get_task("gqa")
    before = task.load(data_root, "val")
    after = replace(task, prompt_prefix="gpa: ").load(data_root, "val")
    assert [example.prompt for example in after] == ["gpa: gqa: is it 1?", "gpa: gqa: is it 2?"]
    assert after[1].prompt == "gpa: gqa: is it 2?"
    assert [example.text for example in after] == [example.text for example in before]
    assert after[0].text == "gqa: is it 1?"
    assert [example.targets for example in after] == [example.targets for example in before]
    assert (after.ids(), after.image_ids(), len(after)) == (before.ids(), before.image_ids(), 2)


def test_a_suffix_follows_the_text(data_root: Path) -> None:
    task = replace(get_task("gqa"), prompt_prefix="Q: ", prompt_suffix=" A:")
    examples = task.load(data_root, "val")
    assert [example.prompt for example in examples] == [
        *("Q: gqa: is it 1? A:", "Q: gqa: is it 2? A:")
    ]
    assert examples[1].text == "gqa: is it 2?"


def test_another_prefix_reads_the_same_cached_file(data_root: Path, cache: Path) -> None:
    task = get_task("gqa")
    task.load(data_root, "val")
    (file,) = cache.iterdir()
    assert task.prompt_prefix.encode() * 2 not in file.read_bytes()
    written = file.stat().st_mtime_ns
    replace(task, prompt_prefix="gpa: ").load(data_root, "val")
    assert (list(cache.iterdir()), file.stat().st_mtime_ns) == ([file], written)


def test_an_example_without_a_prefix_is_all_text() -> None:
    example = Example(id="1", image_ids=("i",), prompt="vqa: what?", targets=())
    assert example.text == "vqa: what?"
    assert replace(example, prefix="vqa: ").text == "what?"
    assert replace(example, prefix="vqa: ") == example


@pytest.mark.parametrize("prompt", ["is it red?", "gpa: is it red?"])
def test_own_files_get_the_prefix_regardless_of_the_cache(tmp_path: Path, prompt: str) -> None:
    """A prompt that already begins with the task's prefix does not get it twice."""
    file = tmp_path / "own.jsonl"
    row = {"id": "k", "images": ["a.jpg"], "prompt": prompt, "answers": ["yes"]}
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    for prefix in ("gqa: ", "gpa: "):
        task = with_own_files(replace(get_task("gqa"), prompt_prefix=prefix), {"val": file})
        text = "is it red?" if prefix == "gpa: " else prompt
        assert task.load(tmp_path, "val")[0].prompt == f"{prefix}{text}"
