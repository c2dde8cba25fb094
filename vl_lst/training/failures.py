"""Training failures: raised in all processes, with a message that says what to do."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from feature_extraction.store.disk import is_out_of_space
from vl_lst.errors import EXPLAINED_ERRORS, USER_ERRORS, ProcessFailedError, TrainingError

__all__ = ["explain_failures", "fail_together"]

log = logging.getLogger(__name__)

# How gloo and NCCL report that the process at the other end has exited.
LOST_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


@contextmanager
def fail_together(accelerator: Accelerator) -> Iterator[None]:
    """Make the block fail in every process if it fails in one, so that none waits for another.

    The first process raises the error; the others raise `ProcessFailedError`. The block must not
    contain collective operations.

    Args:
        accelerator: The processes.

    Raises:
        TrainingError: In the first process, if the block failed in others only.
        ProcessFailedError: In the other processes.
    """
    if accelerator.num_processes == 1:
        yield
        return
    failure: Exception | None = None
    try:
        yield
    except EXPLAINED_ERRORS as error:
        failure = error
    messages: list[str | None] = gather_object([None if failure is None else str(failure)])
    failed = [rank for rank, message in enumerate(messages) if message is not None]
    if not failed:
        return
    if failure is not None and accelerator.is_main_process:
        raise failure
    first = failed[0]
    if accelerator.is_main_process:
        raise TrainingError(f"{messages[first]} (in process {first} of {len(messages)})")
    raise ProcessFailedError(f"process {first} of {len(messages)} failed: {messages[first]}")


@contextmanager
def explain_failures(accelerator: Accelerator, folder: Path) -> Iterator[None]:
    """Turn a full disk or device and a lost connection into errors that say what to do.

    In processes other than the first, an error that the first cannot know of is logged.

    Args:
        accelerator: The processes.
        folder: The run's folder.

    Raises:
        TrainingError: The disk is full, or the memory of a CUDA device.
        ProcessFailedError: Another process failed or was killed, or this one failed and is not the
            first.
    """
    rank, num_processes = accelerator.process_index, accelerator.num_processes
    try:
        yield
    except ProcessFailedError:
        raise
    except OSError as error:
        if not is_out_of_space(error):
            raise
        # Name the folder, not a temporary file in it.
        is_inside = error.filename is None or folder in Path(error.filename).parents
        raise TrainingError(
            f"no space left on the device at {folder if is_inside else error.filename}. Free some "
            "space and run the same command again with --resume."
        ) from error
    except torch.OutOfMemoryError as error:
        message = (
            f"the memory of the device is full: {str(error).splitlines()[0]} Set "
            "method.options.recompute=true, or a smaller training.batch_size (or "
            "training.evaluation_batch_size), and run the same command again in another folder."
        )
        if accelerator.is_main_process:
            raise TrainingError(message) from error
        log.error("process %d of %d: %s", rank, num_processes, message)
        raise ProcessFailedError(message, is_own=True) from error
    except RuntimeError as error:
        if num_processes == 1 or not _is_lost_connection(error):
            raise
        raise ProcessFailedError(
            f"another of the {num_processes} processes failed or was killed; its own message says "
            "why. Run the same command again with --resume."
        ) from error
    except USER_ERRORS as error:
        if accelerator.is_main_process:
            raise
        log.error("process %d of %d: %s", rank, num_processes, error)
        raise ProcessFailedError(str(error), is_own=True) from error


def _is_lost_connection(error: RuntimeError) -> bool:
    """Return whether a collective operation failed because another process exited."""
    return isinstance(error, torch.distributed.DistBackendError) or any(
        text in str(error) for text in LOST_CONNECTION
    )
