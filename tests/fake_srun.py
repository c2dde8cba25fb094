"""Stand-in for Slurm's `srun` on one machine: starts the tasks of a job step, forwards signals."""

import os
import signal
import socket
import subprocess
import sys

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def task_variables(rank: int, num_tasks: int, job: int) -> dict[str, str]:
    """Return what Slurm sets for a task."""
    return {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(num_tasks),
        "SLURM_STEP_TASKS_PER_NODE": str(num_tasks),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_NODEID": "0",
    }


def free_job() -> int:
    """Return the number of a job whose rendezvous port is free."""
    while True:
        with socket.socket() as probe:
            job = int.from_bytes(os.urandom(2)) % 10_000
            try:
                probe.bind(("127.0.0.1", 15_000 + job))
            except OSError:
                continue
            return job


def start(arguments: list[str], num_tasks: int, **options: object) -> list[subprocess.Popen[str]]:
    """Start the tasks of a step.

    Args:
        arguments: Command line of each task.
        num_tasks: Number of tasks.
        options: Further arguments of `subprocess.Popen`.
    """
    job = free_job()
    return [
        subprocess.Popen(
            arguments,
            env=os.environ | task_variables(rank, num_tasks, job),
            text=True,
            **options,  # type: ignore[call-overload]
        )
        for rank in range(num_tasks)
    ]


if __name__ == "__main__":
    tasks = start(sys.argv[1:], int(os.environ["SLURM_NTASKS"]))
    for number in SIGNALS:
        signal.signal(number, lambda sent, _: [task.send_signal(sent) for task in tasks])
    sys.exit(max(task.wait() for task in tasks))
