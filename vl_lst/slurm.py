"""Processes that `srun` started: torchrun's variables, from those that Slurm sets for a task."""

import re
from collections.abc import MutableMapping

__all__ = ["adopt_slurm_step"]

# Rendezvous ports, one per job step.
FIRST_PORT, NUM_PORTS = 15_000, 10_000


def adopt_slurm_step(environment: MutableMapping[str, str]) -> None:
    """Set the variables of torchrun, if this process is one of several tasks of a job step.

    Variables that are set stay as they are, such as MASTER_ADDR. Nothing changes under torchrun
    and `accelerate launch`, which may run in a job step themselves.

    Args:
        environment: `os.environ`.
    """
    num_tasks, rank = _number(environment, "SLURM_STEP_NUM_TASKS"), environment.get("SLURM_PROCID")
    if num_tasks < 2 or rank is None or environment.get("WORLD_SIZE"):
        return
    job, step = _number(environment, "SLURM_JOB_ID"), _number(environment, "SLURM_STEP_ID")
    values = {
        "WORLD_SIZE": str(num_tasks),
        "RANK": rank,
        "MASTER_ADDR": _first_host(environment.get("SLURM_STEP_NODELIST", "")),
        "MASTER_PORT": str(FIRST_PORT + (job + 37 * step) % NUM_PORTS),
    }
    if _has_own_devices(environment):
        values |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    else:
        values |= {
            "LOCAL_RANK": environment.get("SLURM_LOCALID", ""),
            "LOCAL_WORLD_SIZE": _tasks_on_node(environment),
        }
    for name, value in values.items():
        if not environment.get(name):
            environment[name] = value


def _has_own_devices(environment: MutableMapping[str, str]) -> bool:
    """Return whether Slurm shows each task only its own GPUs, as with --gpus-per-task."""
    return "SLURM_GPUS_PER_TASK" in environment or "gpu" in environment.get(
        "SLURM_TRES_PER_TASK", ""
    )


def _first_host(nodes: str) -> str:
    """Return the first host of a list such as `gpu[03-05,9],login1`: gpu03, which runs task 0."""
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", nodes).split(",")[0]


def _tasks_on_node(environment: MutableMapping[str, str]) -> str:
    """Return the number of tasks on this node, from a list such as `2(x3),1`."""
    counts: list[str] = []
    for part in environment.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        if found := re.fullmatch(r"(\d{1,6})(?:\(x(\d{1,6})\))?", part, re.ASCII):
            counts += [found[1]] * int(found[2] or 1)
    node = _number(environment, "SLURM_NODEID")
    return counts[node] if node < len(counts) else ""


def _number(environment: MutableMapping[str, str], name: str) -> int:
    """Return the number in a variable; 0 if it has none."""
    text = environment.get(name, "")
    return int(text) if re.fullmatch(r"\d{1,12}", text, re.ASCII) else 0
