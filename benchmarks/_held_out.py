"""A part of the shapes world's training examples, held out to choose settings on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.outputs import atomic_path
from tasks import Task, get_task

__all__ = ["HELD_OUT", "TRAIN", "write_parts"]

TRAIN, HELD_OUT = "train", "held-out"
# Of images, which VQA, GQA and captions share, and of sets of NLVR2's pairs.
INTERVAL = 5


def write_parts(root: Path, folder: Path, tasks: list[str]) -> None:
    """Write the training examples of each task as `TASK-train.jsonl` and `TASK-held-out.jsonl`.

    No image is in both. The validation splits, which the demo scores, are not read.

    Args:
        root: Data root of the shapes world.
        folder: Output folder.
        tasks: Names of the tasks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in tasks:
        lines: dict[str, list[str]] = {TRAIN: [], HELD_OUT: []}
        for line in _lines(get_task(name), root):
            is_held_out = _group(name, line["images"][0]) % INTERVAL == 0
            lines[HELD_OUT if is_held_out else TRAIN].append(json.dumps(line))
        for part, written in lines.items():
            with atomic_path(folder / f"{name}-{part}.jsonl") as temporary:
                temporary.write_text("".join(f"{line}\n" for line in written), encoding="utf-8")


def _group(task: str, image: str) -> int:
    """Return the number of an image, or of the set of an image such as `train-12-0-img1`."""
    return int(image.split("-")[1] if task == "nlvr2" else image.rpartition("_")[2])


def _lines(task: Task, root: Path) -> Iterator[dict[str, Any]]:
    """Yield the training examples of a task; all captions of an image are one."""
    split = task.splits[0]
    given = _vqa_answers(root, split) if task.name == "vqa" else {}
    captions: dict[tuple[str, ...], list[str]] = {}
    for example in task.load(root, split):
        answers = given.get(example.id) or [answer for answer, _ in example.targets]
        if task.name == "caption":
            captions.setdefault(example.image_ids, []).extend(answers)
            continue
        line = {"id": example.id, "images": list(example.image_ids), "prompt": example.text}
        yield {**line, "answers": answers}
    for images, answers in captions.items():
        yield {"id": images[0], "images": list(images), "answers": answers}


def _vqa_answers(root: Path, split: str) -> dict[str, list[str]]:
    """Return the ten answers to each question, of which an example has only the scores."""
    path = root / "vqa" / f"v2_mscoco_{split}_annotations.json"
    annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"]
    return {
        str(each["question_id"]): [answer["answer"] for answer in each["answers"]]
        for each in annotations
    }
