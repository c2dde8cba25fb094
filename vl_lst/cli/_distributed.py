"""Commands that run in several processes: started by torchrun, or once per shard by a scheduler."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from vl_lst.cli._console import complain, explain
from vl_lst.errors import EXPLAINED_ERRORS, Preempted, ProcessFailedError
from vl_lst.launch import (
    MAX_WAIT,
    Launch,
    connect,
    ignore_stop_signals,
    join_process_group,
    read_launch,
    report_error,
    wait_for_error_report,
)
from vl_lst.slurm import adopt_slurm_step

if TYPE_CHECKING:
    from feature_extraction.store.shards import Shard

__all__ = [
    "choose_shard",
    "cores_per_process",
    "device_of_process",
    "report_error_once",
    "wait_for_other_processes",
]


def choose_shard(option: str | None) -> tuple["Shard | None", bool]:
    """Return the shard of this process, from `--shard` or from what torchrun or srun sets.

    Args:
        option: Value of `--shard`.

    Returns:
        The shard, or `None` for all images, and whether a launcher such as torchrun started this
        process as one of several.

    Raises:
        typer.BadParameter: The option is not I/N, or is given under torchrun.
        LaunchError: The launcher's environment variables are malformed.
    """
    from feature_extraction.errors import FeatureError
    from feature_extraction.store.shards import Shard

    if option is None:
        adopt_slurm_step(os.environ)
    launch = read_launch(os.environ)
    is_launched = launch.num_processes > 1
    if option is None:
        return Shard(launch.rank + 1, launch.num_processes) if is_launched else None, is_launched
    if is_launched:
        raise typer.BadParameter(
            "found --shard in several processes, which choose their own shards: leave out --shard, "
            "or start one process"
        )
    try:
        return Shard.parse(option), False
    except FeatureError as error:
        raise typer.BadParameter(str(error)) from None


def device_of_process(device: str) -> str:
    """Return the CUDA device of this process: its local rank, modulo the number of devices.

    Args:
        device: Value of `--device`; anything but `auto` and `cuda` is returned as it is.
    """
    import torch

    devices = torch.cuda.device_count()
    if device not in ("auto", "cuda") or not devices:
        return device
    return f"cuda:{read_launch(os.environ).local_rank % devices}"


def cores_per_process(cores: int) -> int:
    """Divide the machine's cores among the processes that torchrun started on it; at least one."""
    return max(1, cores // read_launch(os.environ).local_num_processes)


def wait_for_other_processes() -> None:
    """Block until all processes are done, because torchrun stops the others when one fails.

    Does nothing under launchers that set no rendezvous address.
    """
    import torch.distributed

    launch = read_launch(os.environ)
    if launch.num_processes == 1 or launch.address is None:
        return
    # Shards may finish hours apart.
    join_process_group(launch, "gloo", start_timeout=MAX_WAIT)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@contextmanager
def report_error_once(launch: Launch) -> Iterator[None]:
    """Print an error only once if several processes that train together have it.

    The first process prints the error, and the others then exit silently. An error that only
    another process has is printed by that process.

    Args:
        launch: Rank and rendezvous of this process.

    Raises:
        LaunchError: The processes cannot connect to each other.
    """
    if launch.num_processes == 1 or launch.address is None:
        yield
        return
    connect(launch)
    try:
        yield
    except Preempted as stopped:
        if launch.is_first:
            # The others exit as soon as they know, and a launcher then ends this process.
            ignore_stop_signals()
            report_error(launch, str(stopped))
        else:
            wait_for_error_report(launch)
        raise
    except EXPLAINED_ERRORS as error:
        message = explain(error)
        if launch.is_first:
            complain(message)
            report_error(launch, message)
        elif not _is_logged(error) and not wait_for_error_report(launch):
            complain(f"process {launch.rank} of {launch.num_processes}: {message}")
        raise typer.Exit(1) from None


def _is_logged(error: Exception) -> bool:
    """Whether training has logged the error already, which the first process cannot know."""
    return isinstance(error, ProcessFailedError) and error.is_own
