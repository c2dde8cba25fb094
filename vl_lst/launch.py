"""Processes that a launcher such as torchrun started: environment variables and connections.

No other module reads the environment variables of launchers, but `vl_lst.slurm` translates those of
Slurm.
"""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from vl_lst.errors import LaunchError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

__all__ = [
    "MAX_WAIT",
    "STOP_SIGNALS",
    "Launch",
    "connect",
    "handle_stop_signals",
    "ignore_stop_signals",
    "join_process_group",
    "read_launch",
    "refuse_separate_processes",
    "report_error",
    "require_one_process",
    "wait_for_error_report",
]

# Maximum time that a process waits for the others, for example while one of them scores. Below
# 2**31 milliseconds, because some backends count in milliseconds.
MAX_WAIT = timedelta(days=20)
# Maximum time for the processes to start and connect.
MAX_START = timedelta(minutes=10)
# Maximum time that the other processes wait for the first to print an error of all processes.
MAX_REPORT = timedelta(seconds=30)
REPORTED = "error_reported"

# Signals that schedulers send before they end a job.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

# The store of this process, once it has connected to the others.
_stores: "list[Store]" = []

# Variables in which launchers other than torchrun pass the number of processes. Slurm sets its
# variable in the steps that srun starts, but not in the batch script around them.
OTHER_LAUNCHERS = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
}
HOW_TO_LAUNCH = "Start them with `torchrun --nproc-per-node N -m vl_lst ...`"
HOW_TO_TRAIN_ALONE = "to use one process, unset WORLD_SIZE, RANK and LOCAL_RANK"


@dataclass(frozen=True, slots=True)
class Launch:
    """One of several processes that were launched together.

    Args:
        rank: Rank of this process, from 0.
        num_processes: Number of processes.
        local_rank: Rank of this process on its machine, from 0.
        local_num_processes: Number of processes on this machine.
        address: Host through which the processes connect; `None` if the launcher does not set one.
        port: Port on that host.
    """

    rank: int = 0
    num_processes: int = 1
    local_rank: int = 0
    local_num_processes: int = 1
    address: str | None = None
    port: int | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints for all processes."""
        return self.rank == 0


def read_launch(environment: Mapping[str, str]) -> Launch:
    """Read the variables that torchrun sets; without WORLD_SIZE, this is the only process.

    Args:
        environment: `os.environ`.

    Raises:
        LaunchError: A variable is malformed, or the variables contradict each other.
    """
    num_processes = _number(environment, "WORLD_SIZE", low=1)
    rank = _number(environment, "RANK", low=0)
    local_rank = _number(environment, "LOCAL_RANK", low=0)
    local_num_processes = _number(environment, "LOCAL_WORLD_SIZE", low=1)
    if (rank or 0) >= (num_processes or 1) or (rank is None and (num_processes or 1) > 1):
        raise LaunchError(
            f"the environment has {_shown(environment, 'RANK')} and "
            f"{_shown(environment, 'WORLD_SIZE')}, expected what torchrun sets: RANK from 0 to "
            f"WORLD_SIZE - 1. {HOW_TO_LAUNCH}; {HOW_TO_TRAIN_ALONE}."
        )
    if num_processes is None or num_processes == 1:
        return Launch(local_rank=local_rank or 0)
    if local_num_processes is not None and (local_rank or 0) >= local_num_processes:
        raise LaunchError(
            f"the environment has LOCAL_RANK={local_rank} and "
            f"LOCAL_WORLD_SIZE={local_num_processes}, expected LOCAL_RANK from 0 to "
            f"LOCAL_WORLD_SIZE - 1. {HOW_TO_LAUNCH}; {HOW_TO_TRAIN_ALONE}."
        )
    address = environment.get("MASTER_ADDR", "").strip() or None
    port = _number(environment, "MASTER_PORT", low=1, high=65535)
    if (address is None) != (port is None):
        raise LaunchError(
            f"the environment has {_shown(environment, 'MASTER_ADDR')} and "
            f"{_shown(environment, 'MASTER_PORT')}, expected the host and the port through which "
            f"the {num_processes} processes connect. {HOW_TO_LAUNCH}; {HOW_TO_TRAIN_ALONE}."
        )
    return Launch(
        rank=rank or 0,
        num_processes=num_processes,
        # Ranks on a machine are consecutive, and devices are chosen modulo their number.
        local_rank=(rank or 0) if local_rank is None else local_rank,
        local_num_processes=local_num_processes or 1,
        address=address,
        port=port,
    )


def require_one_process(
    environment: Mapping[str, str],
    work: str = "several runs at the same time are trained from one process",
) -> None:
    """Require that no launcher started several processes.

    Args:
        environment: `os.environ`.
        work: Work that needs a single process, as the start of the message.

    Raises:
        LaunchError: A launcher started several processes.
    """
    if (launch := read_launch(environment)).num_processes > 1:
        raise LaunchError(
            f"{work}, but WORLD_SIZE is {launch.num_processes}. Start the command without "
            "torchrun, or unset WORLD_SIZE and RANK."
        )


def refuse_separate_processes(launch: Launch, environment: Mapping[str, str]) -> None:
    """Require that no launcher started several processes that would each train alone.

    Args:
        launch: This process.
        environment: `os.environ`.

    Raises:
        LaunchError: Another launcher started several processes without torchrun's variables, or
            the processes have no address to connect to.
    """
    if launch.num_processes > 1:
        if launch.address is None:
            raise LaunchError(
                f"WORLD_SIZE is {launch.num_processes}, but MASTER_ADDR and MASTER_PORT, through "
                f"which the processes connect, are not set. {HOW_TO_LAUNCH}; {HOW_TO_TRAIN_ALONE}."
            )
        return
    if environment.get("WORLD_SIZE"):
        return
    for name, launcher in OTHER_LAUNCHERS.items():
        size = environment.get(name, "")
        if re.fullmatch(r"0*[1-9]\d{0,6}", size, re.ASCII) and int(size) > 1:
            raise LaunchError(
                f"{launcher} started {size} processes ({name}), but WORLD_SIZE is not set, so each "
                f"would train alone. {HOW_TO_LAUNCH}, one torchrun per machine; to use one "
                f"process, start one or unset {name}."
            )
    # `accelerate launch --cpu --num_processes 2` starts one process, with an address.
    if {"ACCELERATE_USE_CPU", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        raise LaunchError(
            "`accelerate launch` was asked for several processes but started one: MASTER_ADDR and "
            f"MASTER_PORT are set, WORLD_SIZE is not. {HOW_TO_LAUNCH}; to use one process, leave "
            "out --num_processes."
        )


def connect(launch: Launch, *, timeout: timedelta = MAX_START) -> "Store":
    """Connect to the other processes and return the store that they share.

    Later calls return the same store.

    Args:
        launch: This process; has an address.
        timeout: Maximum time to wait for the other processes.

    Raises:
        LaunchError: The processes cannot connect.
    """
    import torch.distributed

    if not _stores:
        with _explain_connection_failures(launch):
            # Only env:// detects whether torchrun has already started the store.
            rendezvous = torch.distributed.rendezvous(  # type: ignore[attr-defined]
                "env://", launch.rank, launch.num_processes, timeout=timeout
            )
            store, _, _ = next(rendezvous)
            store.set_timeout(MAX_WAIT)
            _stores.append(
                torch.distributed.PrefixStore("vl_lst", store)  # type: ignore[attr-defined]
            )
    return _stores[0]


def join_process_group(
    launch: Launch, backend: str, *, start_timeout: timedelta = MAX_START
) -> None:
    """Connect to the other processes for collective operations, which wait up to `MAX_WAIT`.

    Args:
        launch: This process; has an address.
        backend: `gloo` or `nccl`.
        start_timeout: Maximum time to wait for the other processes to start.

    Raises:
        LaunchError: The processes cannot connect.
    """
    import torch.distributed

    store = connect(launch, timeout=start_timeout)
    with _explain_connection_failures(launch):
        torch.distributed.init_process_group(
            backend,
            store=store,
            rank=launch.rank,
            world_size=launch.num_processes,
            timeout=MAX_WAIT,
        )


def report_error(launch: Launch, message: str) -> None:
    """Tell the other processes that an error has been printed, and torchrun what it was.

    Args:
        launch: This process, the first.
        message: The printed error, for torchrun's summary.
    """
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        details = {"py_callstack": message, "timestamp": str(int(time.time()))}
        with suppress(OSError):
            Path(file).write_text(
                json.dumps({"message": {"message": message, "extraInfo": details}}),
                encoding="utf-8",
            )
    with suppress(RuntimeError, LaunchError):
        connect(launch).set(REPORTED, "1")


def wait_for_error_report(launch: Launch) -> bool:
    """Wait for the first process to print its error, up to `MAX_REPORT`; return whether it has.

    When a process exits, torchrun ends the others, even one that is about to print the error.

    Args:
        launch: This process.
    """
    with suppress(RuntimeError, LaunchError):
        connect(launch).wait([REPORTED], MAX_REPORT)
        return True
    return False


@contextmanager
def handle_stop_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call a function on the signals that ask a training to stop, during the block.

    Python handles signals in its main thread only; in others, the block changes nothing.

    Args:
        handler: Called with the number of the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, earlier in former.items():
            # None: not installed by Python, which cannot restore it.
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)


def ignore_stop_signals(_worker: int = 0) -> None:
    """Ignore the signals that ask a training to stop, in a process that must not end by them.

    Args:
        _worker: Number of a data loading worker, which has the signature of this function.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _explain_connection_failures(launch: Launch) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LaunchError(
            f"process {launch.rank} of {launch.num_processes} cannot connect to the others at "
            f"{launch.address}:{launch.port}: {reason:.300}. Check MASTER_ADDR and MASTER_PORT, "
            f"and that all processes are running. {HOW_TO_LAUNCH}; {HOW_TO_TRAIN_ALONE}."
        ) from error


def _number(
    environment: Mapping[str, str], name: str, *, low: int, high: int = 9_999_999
) -> int | None:
    """Return the number in a variable; `None` if the variable is not set or empty."""
    text = environment.get(name, "").strip()
    if not text:
        return None
    if re.fullmatch(r"\d{1,7}", text, re.ASCII) and low <= int(text) <= high:
        return int(text)
    raise LaunchError(
        f"the environment has {name}={text[:40]!r}, expected a whole number from {low} to "
        f"{high}, as torchrun sets it. {HOW_TO_LAUNCH}; {HOW_TO_TRAIN_ALONE}."
    )


def _shown(environment: Mapping[str, str], name: str) -> str:
    text = environment.get(name, "").strip()
    return f"{name}={text!r}" if text else f"no {name}"
