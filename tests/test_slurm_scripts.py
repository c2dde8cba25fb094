"""The Slurm scripts of the documentation run what they say, with a stand-in for srun."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_srun
import pytest
from tiny_run import TinyWorld, tiny_world

from vl_lst.cli import main

SCRIPTS = Path(__file__).resolve().parents[1] / "docs" / "slurm"
# Notes its arguments, and exits with the code that the test asks for.
RECORDER = f"""#!{sys.executable}
import json, os, sys
name = os.path.basename(sys.argv[0])
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
sys.exit(int(os.environ["CODE"]) if name == "vl-lst" else 0)
"""


class Job:
    """Runs batch scripts.

    Args:
        folder: Empty folder, for stand-ins of programs and for the list of their calls.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in ("vl-lst", "scontrol"):
            (folder / name).write_text(RECORDER)
            (folder / name).chmod(0o755)
        (folder / "srun").write_text(f"#!{sys.executable}\n{Path(fake_srun.__file__).read_text()}")
        (folder / "srun").chmod(0o755)

    def run(
        self, script: str, *arguments: str, num_tasks: int = 1, code: int = 0, **variables: str
    ) -> tuple[int, list[list[str]]]:
        """Return the exit code of a batch script and the calls of programs in it.

        Args:
            script: Name of the script.
            arguments: Its arguments.
            num_tasks: Number of tasks of the job.
            code: Exit code of `vl-lst`.
            variables: Further variables that Slurm sets.
        """
        calls = self._folder / "calls"
        calls.unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", str(SCRIPTS / script), *arguments],
            env=os.environ
            | {
                "PATH": f"{self._folder}:{os.environ['PATH']}",
                "CALLS": str(calls),
                "CODE": str(code),
                "SLURM_JOB_ID": "17",
                "SLURM_NTASKS": str(num_tasks),
                "SLURM_CPUS_PER_TASK": "1",
            }
            | variables,
            timeout=60,
            check=False,
        )
        lines = calls.read_text().splitlines() if calls.exists() else []
        return done.returncode, [json.loads(line) for line in lines]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    folder = tmp_path / "bin"
    folder.mkdir()
    return Job(folder)


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    with tiny_world(tmp_path_factory.mktemp("world")) as world:
        return world


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sbatch")), ids=lambda path: path.name)
def test_scripts_are_valid(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    lines = script.read_text().splitlines()
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    commands = [number for number, line in enumerate(lines) if line and line[0] != "#"]
    assert directives[-1] < commands[0], "Slurm reads no directive after the first command"


def test_the_training_job_runs_every_task_and_requeues_a_stopped_run(
    job: Job, small_world: TinyWorld, tmp_path: Path
) -> None:
    arguments = small_world.train_arguments(tmp_path / "my run")[1:]
    call = ["vl-lst", "train", *arguments, "--resume"]
    assert job.run("train.sbatch", *arguments, num_tasks=2) == (0, [call, call])
    assert job.run("train.sbatch", *arguments, code=1) == (1, [call])
    code, calls = job.run("train.sbatch", *arguments, code=75)
    assert (code, calls) == (75, [call, ["scontrol", "requeue", "17"]])
    # The same command starts a run and resumes it.
    assert main(call[1:]) == main(call[1:]) == 0


def test_the_sweep_job_runs_its_line(job: Job, tmp_path: Path) -> None:
    commands = tmp_path / "commands.txt"
    commands.write_text("vl-lst train --out a\nvl-lst train --set 'x=[1, 2]' --out 'b c'\n")
    array = {"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "2"}
    call = ["vl-lst", "train", "--set", "x=[1, 2]", "--out", "b c"]
    assert job.run("sweep.sbatch", str(commands), **array) == (0, [call])
    requeued = (75, [call, ["scontrol", "requeue", "9_2"]])
    assert job.run("sweep.sbatch", str(commands), code=75, **array) == requeued
    array["SLURM_ARRAY_TASK_ID"] = "3"
    assert job.run("sweep.sbatch", str(commands), **array) == (1, [])


def test_the_extraction_job_writes_all_shards(
    job: Job, small_world: TinyWorld, tmp_path: Path
) -> None:
    arguments = ["--images", str(small_world.root / "images" / "val2014"), "--device", "cpu"]
    arguments += ["--encoder", str(small_world.encoder), "--out", str(tmp_path / "val.h5")]
    for number in ("1", "2"):
        array = {"SLURM_ARRAY_TASK_ID": number, "SLURM_ARRAY_TASK_COUNT": "2"}
        code, (call,) = job.run("extract_features.sbatch", *arguments, **array)
        assert code == 0
        assert main(call[1:]) == 0
    shards = [str(tmp_path / f"val.shard-{number}-of-2.h5") for number in ("1", "2")]
    assert main(["features", "join", *shards, "--out", str(tmp_path / "val.h5")]) == 0


@pytest.mark.slow
def test_a_signal_to_srun_stops_training_with_its_own_exit_code(
    small_world: TinyWorld, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = small_world.train_arguments(run, "--set", "training.epochs=100000")
    step = subprocess.Popen(
        [sys.executable, fake_srun.__file__, sys.executable, "-m", "vl_lst", *arguments],
        env=os.environ | {"SLURM_NTASKS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while step.poll() is None and not (run / "checkpoints" / "last").exists():
            time.sleep(0.1)
        step.send_signal(signal.SIGUSR1)
        _, output = step.communicate(timeout=100)
    finally:
        step.terminate()
    assert step.returncode == 75, output
    assert output.splitlines()[-1].startswith("stopped by SIGUSR1. Run the same command again")
    assert "Traceback" not in output
    assert json.loads((run / "record.json").read_text())["error"] == "stopped by SIGUSR1"
