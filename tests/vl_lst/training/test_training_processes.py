"""Processes that train together: they ignore the environment, and fail with one message."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TinyWorld

from vl_lst.errors import CheckpointError, LaunchError, ProcessFailedError, TrainingError
from vl_lst.launch import MAX_WAIT, Launch
from vl_lst.runs.directory import RunDirectory
from vl_lst.training import distributed, failures
from vl_lst.training.distributed import ignored_settings, join_processes
from vl_lst.training.parallel_runs import train_in_parallel
from vl_lst.training.session import train

LEAKS = {
    "ACCELERATE_MIXED_PRECISION": "fp16",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_DYNAMO_BACKEND": "inductor",
    "ACCELERATE_DYNAMO_MODE": "no such mode",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_MEGATRON_LM": "true",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "ACCELERATE_DOWNCAST_BF16": "true",
    "ACCELERATE_DEBUG_MODE": "not a flag",
    "LOCAL_RANK": "0",
    "RANK": "0",
    "WORLD_SIZE": "1",
}
REPOSITORY = Path(__file__).resolve().parents[3]


def test_settings_of_accelerate_in_the_environment_change_nothing(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.state import AcceleratorState, GradientState, PartialState

    recipe = world.recipe(training__epochs=1)
    train(recipe, tmp_path / "plain")
    for name, value in LEAKS.items():
        monkeypatch.setenv(name, value)
    for state in (AcceleratorState, GradientState, PartialState):
        # As in a new process: accelerate keeps its settings.
        state._reset_state()
    train(recipe, tmp_path / "leaks")
    assert {name: os.environ[name] for name in LEAKS} == LEAKS
    for file in ("metrics.jsonl", "checkpoints/last/model.safetensors"):
        plain, leaks = tmp_path / "plain" / file, tmp_path / "leaks" / file
        assert plain.read_bytes() == leaks.read_bytes()
    log = (tmp_path / "leaks" / "log.txt").read_text()
    assert "ACCELERATE_MIXED_PRECISION=fp16" in log
    assert "in one process on cpu" in log


def test_defaults_of_accelerate_launch_are_not_listed_as_ignored() -> None:
    own = {
        "ACCELERATE_USE_CPU": "True",
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_DYNAMO_MODE": "default",
        "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    }
    assert ignored_settings(own, torch.device("cpu")) == []
    assert ignored_settings(own, torch.device("cuda")) == ["ACCELERATE_USE_CPU=True"]


def test_processes_may_wait_long_for_the_one_that_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """SPICE takes half an hour, as long as the default timeout of collective operations."""
    given: dict[str, Any] = {}

    class Store:
        def set_timeout(self, timeout: object) -> None:
            given["store_timeout"] = timeout

    def init_process_group(backend: str, **options: object) -> None:
        given.update(options, backend=backend)
        raise RuntimeError("enough")

    monkeypatch.setattr("vl_lst.launch._stores", [])
    monkeypatch.setattr("torch.distributed.rendezvous", lambda *_, **__: iter([(Store(), 0, 2)]))
    monkeypatch.setattr("torch.distributed.PrefixStore", lambda _prefix, store: store)
    monkeypatch.setattr("torch.distributed.init_process_group", init_process_group)
    launch = Launch(num_processes=2, address="127.0.0.1", port=1)
    with pytest.raises(LaunchError, match="enough"):
        join_processes(launch, torch.device("cpu"), has_unused_parameters=False)
    assert given["timeout"] == given["store_timeout"] == MAX_WAIT
    assert given["backend"] == "gloo"
    assert MAX_WAIT.days > 1


def test_more_processes_than_cuda_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL would fail with a traceback, and only at the first collective operation."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    launch = Launch(num_processes=2, local_num_processes=2, address="127.0.0.1", port=1)
    with pytest.raises(LaunchError, match="2 processes .* has 1 CUDA devices"):
        join_processes(launch, torch.device("cuda"), has_unused_parameters=False)


def test_parallel_runs_are_refused_under_a_launcher(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their processes would wait for each other as if they trained a single run."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LaunchError, match="WORLD_SIZE is 2"):
        train_in_parallel({"one": (world.recipe(), tmp_path / "run")})


class _Pair:
    """Stand-in for one of two processes."""

    num_processes = 2

    def __init__(self, index: int) -> None:
        self.process_index = index
        self.is_main_process = index == 0


@pytest.mark.parametrize(
    ("rank", "own", "other", "raised", "message"),
    [
        (0, "bad", None, CheckpointError, "^bad$"),
        (0, None, "worse", TrainingError, r"^worse \(in process 1 of 2\)$"),
        (0, "bad", "worse", CheckpointError, "^bad$"),
        (1, "bad", None, ProcessFailedError, "process 1 of 2 failed: bad"),
        (1, None, "worse", ProcessFailedError, "process 0 of 2 failed: worse"),
    ],
)
def test_a_failure_of_one_process_ends_all(
    monkeypatch: pytest.MonkeyPatch,
    rank: int,
    own: str | None,
    other: str | None,
    raised: type[Exception],
    message: str,
) -> None:
    def gather(mine: list[str | None]) -> list[str | None]:
        return [*mine, other] if rank == 0 else [other, *mine]

    monkeypatch.setattr(failures, "gather_object", gather)
    pair: Any = _Pair(rank)

    def fail_if_told() -> None:
        with failures.fail_together(pair):
            if own is not None:
                raise CheckpointError(own)

    with pytest.raises(raised, match=message):
        fail_if_told()


def test_processes_must_have_the_same_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "gather_object", lambda mine: [*mine, "other"])
    with pytest.raises(TrainingError, match="process 1 of 2 found other training data"):
        distributed.require_same_inputs("card")


def test_processes_must_train_the_same_recipe(
    world: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher may start one process for each run of a sweep."""
    other = world.recipe(optimizer__lr=0.5, training__workers=2)
    monkeypatch.setattr(distributed, "gather_object", lambda mine: [*mine, other])
    with pytest.raises(TrainingError, match=r"process 1 of 2 .*optimizer.lr: 0.01 .*0.5 given"):
        distributed.require_same_recipe(world.recipe())
    other = world.recipe(training__workers=2)
    distributed.require_same_recipe(world.recipe())


def run_two(folder: Path, *commands: list[str]) -> list[tuple[int, str]]:
    """Exit code and standard error of two processes, as torchrun would start them.

    Args:
        folder: Folder for torchrun's error files.
        commands: Arguments of `vl-lst`, for one command after the other in each process.
    """
    code = f"import sys; from vl_lst.cli import main; sys.exit(max(map(main, {commands!r})))"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ
            | shared
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
            | {"TORCHELASTIC_ERROR_FILE": str(folder / f"error-{rank}.json")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, outputs, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ["data-root", "recipe"])
def test_only_the_first_process_prints_the_error(
    world: TinyWorld, tmp_path: Path, mistake: str
) -> None:
    more = {
        "data-root": ["--data-root", str(tmp_path / "nowhere")],
        "recipe": ["--set", "optimizer.lr=-1"],
    }[mistake]
    first, second = run_two(tmp_path, world.train_arguments(tmp_path / "run", *more))
    assert (first[0], second[0]) == (1, 1)
    assert first[1].count("error: ") == 1
    assert "Traceback" not in first[1]
    assert second[1] == ""
    assert "nowhere" in first[1] or "optimizer.lr: found -1" in first[1]
    # torchrun prints the content of this file at the end.
    reported = (tmp_path / "error-0.json").read_text(encoding="utf-8")
    assert "nowhere" in reported or "optimizer.lr: found -1" in reported


PRECISIONS = ("int8", "nf4")


@pytest.fixture(scope="module")
def quantized_runs(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run of two processes for each precision of the backbone."""
    folder = tmp_path_factory.mktemp("quantized")
    changes = [f"training.{name}=1" for name in ("log_every_steps", "epochs")]
    more = ["--set", "method.options.dropout=0.0"]
    more += [word for change in changes for word in ("--set", change)]
    commands = [
        world.train_arguments(folder / precision, "--backbone-precision", precision, *more)
        for precision in PRECISIONS
    ]
    assert [code for code, _ in run_two(folder, *commands)] == [0, 0]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_processes_with_a_quantized_backbone_learn_like_one(
    quantized_runs: Path, tmp_path: Path, precision: str
) -> None:
    one, two = tmp_path / "one", quantized_runs / precision
    train(RunDirectory(two).recipe(), one)
    losses = [
        [line["loss"] for line in map(json.loads, text.splitlines()) if "loss" in line]
        for text in ((out / "metrics.jsonl").read_text() for out in (one, two))
    ]
    assert len(losses[0]) == 5
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    saved = []
    for number, out in ((1, one), (2, two)):
        record = json.loads((out / "record.json").read_text())
        assert record["num_processes"] == number
        saved.append(record["memory_bytes"]["saved_for_backward"]["total"])
    assert saved[1] == pytest.approx(saved[0], rel=0.1), "both count the whole batch"
