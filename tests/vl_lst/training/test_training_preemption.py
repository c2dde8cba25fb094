"""Training that a signal stops saves a checkpoint, from which it resumes bit for bit."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_srun
import preempted_training
import pytest
from tiny_run import TinyWorld

from vl_lst.errors import CheckpointError, LaunchError, Preempted, TrainingError
from vl_lst.launch import STOP_SIGNALS
from vl_lst.recipes import Recipe
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record
from vl_lst.training import preemption
from vl_lst.training.session import train

FILES = (
    "metrics.jsonl",
    "checkpoints/last/model.safetensors",
    "checkpoints/last/training_state.safetensors",
    "checkpoints/best/model.safetensors",
    "predictions/vqa-val2014.json",
    "predictions/vqa-val2014.scores.json",
)


def same_run(left: Path, right: Path) -> bool:
    return all((left / name).read_bytes() == (right / name).read_bytes() for name in FILES)


class SignalAt:
    """Progress callback that sends a signal to this process, once.

    Args:
        number: The signal.
        step: Step after which it is sent.
        validating: Whether to send it in the validation after that step, not in the step.
    """

    def __init__(self, number: int, step: int, *, validating: bool = False) -> None:
        self.number, self.step, self.validating = number, step, validating
        self.calls: list[tuple[int, bool]] = []

    def __call__(self, done: int, _total: int, note: str = "") -> None:
        call = (done, note.startswith("evaluating"))
        is_first = call not in self.calls
        self.calls.append(call)
        if is_first and call == (self.step, self.validating):
            os.kill(os.getpid(), self.number)


@pytest.fixture(scope="module")
def recipe(world: TinyWorld) -> Recipe:
    """Two epochs of five steps, with dropout, and several batches in each validation."""
    return world.recipe(
        training__log_every_steps=3,
        training__evaluation_batch_size=3,
        method__options__dropout=0.2,
    )


@pytest.fixture(scope="module")
def undisturbed(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    train(recipe, out)
    return out


@pytest.mark.parametrize(
    ("number", "step", "validating"),
    [
        (signal.SIGUSR1, 4, False),
        (signal.SIGTERM, 5, False),
        (signal.SIGUSR1, 5, True),
        (signal.SIGTERM, 10, True),
    ],
)
def test_a_stopped_and_resumed_run_equals_an_undisturbed_one(
    undisturbed: Path, recipe: Recipe, tmp_path: Path, number: int, step: int, validating: bool
) -> None:
    out = tmp_path / "run"
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    report = SignalAt(number, step, validating=validating)
    with pytest.raises(Preempted, match=signal.Signals(number).name):
        train(recipe, out, report=report)
    assert max(report.calls)[0] == step, "no step after the signal"
    # Six images with two questions each make four batches; only the first is answered.
    assert report.calls.count((step, True)) == int(validating)
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before
    record = read_record(RunDirectory(out))
    assert record is not None
    assert (record.status, record.steps) == ("cancelled", step)
    assert train(recipe, out, resume=True).status == "success"
    assert same_run(out, undisturbed)


def test_a_signal_before_the_first_step_writes_no_checkpoint(
    recipe: Recipe, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def initialise(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("vl_lst.training.session.initialise", initialise)
        with pytest.raises(Preempted):
            train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
    train(recipe, tmp_path / "run", resume=True)
    assert same_run(tmp_path / "run", undisturbed)


def test_workers_survive_the_signal(recipe: Recipe, undisturbed: Path, tmp_path: Path) -> None:
    """Slurm signals all processes of a job step, also those that load data."""

    def report(done: int, _total: int, _note: str = "") -> None:
        if done == 2:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid or 0, signal.SIGTERM)
                os.kill(worker.pid or 0, signal.SIGUSR1)
            time.sleep(0.1)

    training = recipe.training.model_copy(update={"workers": 1})
    with_worker = recipe.model_copy(update={"training": training})
    train(with_worker, tmp_path / "run", report=report)
    assert same_run(tmp_path / "run", undisturbed)


def test_metrics_that_the_signal_broke_are_computed_again(
    recipe: Recipe, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal also ends Java, which computes metrics of captions."""

    def fail(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise TrainingError("Java ended by signal 15")

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("vl_lst.training.validation._require_primary", fail)
        with pytest.raises(Preempted):
            train(recipe, out)
    train(recipe, out, resume=True)
    assert same_run(out, undisturbed)


def test_machines_that_gloo_cannot_connect_are_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA, the processes have connected through NCCL before."""

    class Pair:
        num_processes = 2

    def new_group(**_: object) -> None:
        raise RuntimeError("Gloo connectFullMesh failed\nmore")

    monkeypatch.setattr("torch.distributed.get_backend", lambda: "nccl")
    monkeypatch.setattr("torch.distributed.new_group", new_group)
    with pytest.raises(LaunchError, match=r"connectFullMesh failed\. Set GLOO_SOCKET_IFNAME"):
        preemption.StopRequest(Pair())  # type: ignore[arg-type]


def _send_twice(pause: float) -> None:
    """Receive SIGTERM two times, with the handlers of a training; exit with 0 if still alive."""

    class Alone:
        num_processes = 1

    with preemption.stop_on_signals(Alone()) as stop:  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_received
        time.sleep(pause)
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("pause", "code"), [(0.0, 0), (2.1, -signal.SIGTERM)])
def test_a_second_signal_ends_the_process_unless_it_is_the_same_request(
    pause: float, code: int
) -> None:
    process = multiprocessing.get_context("fork").Process(target=_send_twice, args=(pause,))
    process.start()
    process.join()
    assert process.exitcode == code


@pytest.fixture(scope="module")
def two_processes(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an undisturbed run, and one that a signal to the second process stopped."""
    folder = tmp_path_factory.mktemp("two")
    arguments = world.train_arguments(folder)
    del arguments[arguments.index("--out") : arguments.index("--out") + 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("OMP_NUM_THREADS", "1")
        script = Path(preempted_training.__file__)
        tasks = fake_srun.start(
            [sys.executable, str(script), str(folder / "run"), str(folder / "stopped"), *arguments],
            num_tasks=2,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        try:
            for task in tasks:
                _, output = task.communicate(timeout=300)
                assert task.returncode == 0, output
        finally:
            for task in tasks:
                task.kill()
    return folder


@pytest.mark.slow
def test_processes_of_srun_stop_at_the_same_step_if_one_gets_a_signal(two_processes: Path) -> None:
    assert same_run(two_processes / "stopped", two_processes / "run")
    log = (two_processes / "stopped" / "log.txt").read_text()
    assert "in 2 processes on cpu" in log
    assert "saved a checkpoint at step 3 of 10" in log


@pytest.mark.slow
def test_another_number_of_processes_cannot_resume(two_processes: Path) -> None:
    """Batches and dropout masks depend on it, so the run would not equal an undisturbed one."""
    out = two_processes / "stopped"
    with pytest.raises(CheckpointError, match="number of processes is 1; expected 2 as before"):
        train(RunDirectory(out).recipe(), out, resume=True)
