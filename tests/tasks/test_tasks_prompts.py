"""What a prompt begins with can be changed, and nothing else changes with it."""

import json
from pathlib import Path

import pytest

from tasks import get_task, task_names, with_own_files, with_prompt_prefix


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
    """A text that begins with the prefix itself keeps it: only the first is the task's."""
    task = get_task("gqa")
    before = task.load(data_root, "val")
    after = with_prompt_prefix(task, "gpa: ").load(data_root, "val")
    assert [example.prompt for example in after] == ["gpa: gqa: is it 1?", "gpa: gqa: is it 2?"]
    assert after[1].prompt == "gpa: gqa: is it 2?"
    assert [example.targets for example in after] == [example.targets for example in before]
    assert (after.ids(), after.image_ids(), len(after)) == (before.ids(), before.image_ids(), 2)


@pytest.mark.parametrize("name", task_names())
def test_the_tasks_own_prefix_leaves_it_as_it_is(name: str) -> None:
    task = get_task(name)
    assert with_prompt_prefix(task, task.prompt_prefix) is task


def test_own_files_get_the_prefix_whatever_was_cached_before(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    row = {"id": "k", "images": ["a.jpg"], "prompt": "is it red?", "answers": ["yes"]}
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    for prefix in ("gqa: ", "gpa: "):
        task = with_own_files(with_prompt_prefix(get_task("gqa"), prefix), {"val": file})
        assert task.load(tmp_path, "val")[0].prompt == f"{prefix}is it red?"
