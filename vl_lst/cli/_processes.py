"""Commands that torchrun starts several times, once per process, or a scheduler once per shard."""

import os
from datetime import timedelta
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from feature_extraction.shards import Shard

__all__ = ["chosen_shard", "own_device", "own_share", "wait_for_others"]

# Below 2**31 milliseconds, which some of what waits counts in.
LONGEST_WAIT = timedelta(days=20)


def chosen_shard(option: str | None) -> tuple["Shard | None", bool]:
    """Find which shard this process does: what `--shard` says, else what torchrun says.

    Returns:
        The shard, `None` for all images; and whether torchrun, or its like, started this process.

    Raises:
        typer.BadParameter: The option is not I/N, or is given under torchrun.
        FeatureError: What the environment says makes no sense.
    """
    from feature_extraction.errors import FeatureError
    from feature_extraction.shards import Shard

    launched = Shard.from_environment(os.environ)
    if option is None:
        return launched, launched is not None
    if launched is not None and launched.count > 1:
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
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % devices}"


def own_share(cores: int) -> int:
    """Divide the machine's cores between the processes torchrun started on it; at least one."""
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def wait_for_others() -> None:
    """Return when all processes are done: torchrun ends the others when one ends with an error.

    Does nothing where no address to meet at is given, as under launchers other than torchrun.
    """
    import torch.distributed

    if int(os.environ["WORLD_SIZE"]) == 1 or "MASTER_ADDR" not in os.environ:
        return
    torch.distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
