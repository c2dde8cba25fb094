"""Two processes compute the same gradients and scores as one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import distributed_training
import pytest
import torch
from safetensors.torch import load_file
from tiny_mixture import GQA_VALIDATION, TASKS, add_tasks, mixture_recipe
from tiny_run import tiny_world
from tiny_texts import write_text_tasks

from vl_lst.data.order import evaluation_batches
from vl_lst.recipes import dump_recipe

TESTS = Path(__file__).resolve().parents[2]
# Those of text alone leave the visual embedding unused; 24 examples each.
TEXT_TASKS = {"rte": 6, "stsb": 8}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def train_with(processes: int, recipe: Path, folder: Path) -> list[Path]:
    """Train in several processes; return the file with each one's gradients."""
    folder.mkdir()
    files = [folder / f"gradients-{rank}.safetensors" for rank in range(processes)]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(processes),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    started = [
        subprocess.Popen(
            [sys.executable, TESTS / "distributed_training.py", recipe, folder / "run", file],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, file in enumerate(files)
    ]
    try:
        for process in started:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
    finally:
        for process in started:
            process.kill()
    return files


def train_alone(recipe: Path, folder: Path) -> list[Path]:
    """Train in this process; return the file with its gradients."""
    folder.mkdir()
    distributed_training.main(recipe, folder / "run", folder / "gradients.safetensors")
    return [folder / "gradients.safetensors"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, list[Path]]]:
    folder = tmp_path_factory.mktemp("distributed")
    with tiny_world(folder / "world") as world:
        write_text_tasks(world.root)
        recipe = mixture_recipe(
            world,
            add_tasks(world),
            task=",".join((*TASKS, *TEXT_TASKS)),
            head={"gqa": "generate", "stsb": "regress"},
            training__batch_size={"vqa": 8, "gqa": 6, "nlvr2": 4, "caption": 6, **TEXT_TASKS},
            method__options__dropout=0.0,
            training__log_every_steps=1,
            method__options__initialisation="fisher",
            method__options__initialisation_samples=4,
        )
        dump_recipe(recipe, folder / "recipe.yaml")
        files = {
            1: train_alone(folder / "recipe.yaml", folder / "by-1"),
            2: train_with(2, folder / "recipe.yaml", folder / "by-2"),
        }
    return folder, files


@pytest.mark.slow
def test_gradients_are_equal_across_processes_and_to_those_of_one(
    trained: tuple[Path, dict[int, list[Path]]],
) -> None:
    """For answers of every head, captions of different lengths, and what a step does not use."""
    _, files = trained
    (alone,), (first, second) = ([load_file(path) for path in each] for each in files.values())
    assert alone.keys() == first.keys() == second.keys()
    for name, gradient in first.items():
        assert torch.equal(gradient, second[name]), name
        torch.testing.assert_close(gradient, alone[name], rtol=1e-3, atol=1e-5, msg=name)
    heads = {name.split()[1].split(".")[1] for name in alone if "classifiers." in name}
    assert heads == {"vqa", "nlvr2"}
    steps = {name.split()[0] for name in alone}
    used = {name.split()[0] for name in alone if "classifiers.nlvr2" in name}
    assert 0 < len(used) < len(steps), "a head has gradients only in steps of its task"
    with_numbers = {name.split()[0] for name in alone if "regressors.stsb" in name}
    with_images = {name.split()[0] for name in alone if " visual." in name}
    assert (len(with_numbers), len(steps) - len(with_images)) == (3, 7)


@pytest.mark.slow
def test_predictions_of_two_processes_score_as_those_of_one(
    trained: tuple[Path, dict[int, list[Path]]],
) -> None:
    folder, _ = trained
    prompts = [""] * GQA_VALIDATION
    shares = [evaluation_batches(prompts, 9, rank=rank, num_processes=2) for rank in (0, 1)]
    assert [len(batch) for batches in shares for batch in batches] == [3, 2], "uneven on purpose"
    records = [
        json.loads((folder / f"by-{count}" / "run" / "record.json").read_text()) for count in (1, 2)
    ]
    assert [record["status"] for record in records] == ["success", "success"]
    assert records[0]["scores"] == records[1]["scores"]
    losses = [
        [line["loss"] for line in map(json.loads, text.splitlines()) if "loss" in line]
        for text in (
            (folder / f"by-{count}" / "run" / "metrics.jsonl").read_text() for count in (1, 2)
        )
    ]
    assert len(losses[0]) == 14 + 7
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
