"""Commands that torchrun starts several times, once per process, or a scheduler once per shard."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from vl_lst.cli._console import complain, explain
from vl_lst.errors import EXPLAINED_ERRORS, ProcessFailedError
from vl_lst.launch import (
    MAX_WAIT,
    Launch,
    connect,
    is_error_reported,
    join_process_group,
    read_launch,
    report_error,
)

if TYPE_CHECKING:
    from feature_extraction.store.shards import Shard

__all__ = ["chosen_shard", "one_message", "own_device", "own_share", "wait_for_others"]


def chosen_shard(option: str | None) -> tuple["Shard | None", bool]:
    """Find which shard this process does: what `--shard` says, else what torchrun says.

    Returns:
        The shard, `None` for all images; and whether torchrun, or its like, started this process
        as one of several.

    Raises:
        typer.BadParameter: The option is not I/N, or is given under torchrun.
        LaunchError: What the environment says makes no sense.
    """
    from feature_extraction.errors import FeatureError
    from feature_extraction.store.shards import Shard

    launch = read_launch(os.environ)
    is_launched = launch.num_processes > 1
    if option is None:
        return Shard(launch.rank + 1, launch.num_processes) if is_launched else None, is_launched
    if is_launched:
        raise typer.BadParameter(
            "give either --shard or several processes of torchrun, which choose their own shards"
        )
    try:
        return Shard.parse(option), False
    except FeatureError as error:
        raise typer.BadParameter(str(error)) from None


def own_device(device: str) -> str:
    """Give each process of a machine its own CUDA device, in turn where there are fewer."""
    import torch

    devices = torch.cuda.device_count()
    if device not in ("auto", "cuda") or not devices:
        return device
    return f"cuda:{read_launch(os.environ).local_rank % devices}"


def own_share(cores: int) -> int:
    """Divide the machine's cores between the processes torchrun started on it; at least one."""
    return max(1, cores // read_launch(os.environ).local_num_processes)


def wait_for_others() -> None:
    """Return when all processes are done: torchrun ends the others when one ends with an error.

    Does nothing where no address to meet at is given, as under launchers other than torchrun.
    """
    import torch.distributed

    launch = read_launch(os.environ)
    if launch.num_processes == 1 or launch.address is None:
        return
    # Shards may end hours apart.
    join_process_group(launch, "gloo", start_timeout=MAX_WAIT)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@contextmanager
def one_message(launch: Launch) -> Iterator[None]:
    """Print an error once, whichever of the processes that train together have it.

    The first process prints it, and the others exit without a message once it has. An error of
    another process alone is printed there.

    Args:
        launch: This process.

    Raises:
        LaunchError: The processes do not find each other.
    """
    if launch.num_processes == 1 or launch.address is None:
        yield
        return
    connect(launch)
    try:
        yield
    except EXPLAINED_ERRORS as error:
        message = explain(error)
        if launch.is_first:
            complain(message)
            report_error(launch, message)
        elif not _is_logged(error) and not is_error_reported(launch):
            complain(f"process {launch.rank} of {launch.num_processes}: {message}")
        raise typer.Exit(1) from None


def _is_logged(error: Exception) -> bool:
    """Whether training has logged the error, which the first process cannot know."""
    return isinstance(error, ProcessFailedError) and error.is_own
