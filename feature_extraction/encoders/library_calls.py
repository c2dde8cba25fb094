"""Calls into libraries that build or load models: offline, quiet, bounded, one error class.

transformers, tokenizers, timm and open_clip act on what a model's files say. Those files come from
anywhere, so they are read and checked here first (`feature_extraction.encoders.model_files`), and
the library works on the checked values inside `library_call`.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

from huggingface_hub import constants as hub_constants
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from transformers import dynamic_module_utils
from transformers.utils import logging as transformers_logging

from feature_extraction.errors import FeatureError

__all__ = ["first_lines", "library_call"]

# A ViT of 48 blocks has about 1,000, and the deepest models of timm have fewer than 5,000.
MAX_MODULES = 10_000
# What a panic of a library written in Rust is raised as; it derives from BaseException alone.
RUST_PANIC = "PanicException"


class _ModelTooLargeError(Exception):
    """A model has more modules or parameters than can be meant, or than memory holds."""


@contextmanager
def library_call(
    error_of: Callable[[str], Exception], *, is_download: bool = False
) -> Iterator[None]:
    """Let a library build or load a model in the block.

    In the block nothing is fetched from the Hugging Face hub, code that belongs to a checkpoint is
    refused without a prompt, libraries log and warn nothing, and building stops where a model
    would have more modules than any real one or more bytes than the machine's memory.

    Args:
        error_of: Makes the error to raise from the reason, one line of what the library said.
        is_download: Fetching is what the block is for.

    Raises:
        FeatureError: As it was raised in the block.
        Exception: From `error_of`, whatever else is raised but KeyboardInterrupt and the like.
    """
    try:
        with nullcontext() if is_download else _offline(), _quiet(), _bounded():
            yield
    except FeatureError:
        raise
    except Exception as error:
        raise error_of(_reason(error)) from error
    except BaseException as error:
        if type(error).__name__ != RUST_PANIC:
            raise
        raise error_of(_reason(error)) from error


def first_lines(text: str, max_lines: int = 3) -> str:
    """Return the beginning of a library's message, on one line."""
    return " ".join(line.strip() for line in text.strip().splitlines()[:max_lines])


def _reason(error: BaseException) -> str:
    text = first_lines(str(error))
    # A KeyError's text is the bare key, and some errors have none at all.
    is_sentence = " " in text
    return text if is_sentence else f"{type(error).__name__}: {text}".removesuffix(": ")


@contextmanager
def _offline() -> Iterator[None]:
    """Fetch nothing, and refuse code of a checkpoint without a prompt."""
    with (
        mock.patch.object(hub_constants, "HF_HUB_OFFLINE", True),
        mock.patch.object(dynamic_module_utils, "TIME_OUT_REMOTE_CODE", 0),
    ):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep libraries from reporting to the terminal; problems come as exceptions."""
    disabled = logging.root.manager.disable
    bars = transformers_logging.is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def _bounded() -> Iterator[None]:
    """Stop a model that grows without end, before memory is written to."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    num_modules = num_bytes = 0

    def count_module(_parent: nn.Module, _name: str, _child: nn.Module | None) -> None:
        nonlocal num_modules
        num_modules += 1
        if num_modules > MAX_MODULES:
            raise _ModelTooLargeError(
                f"the model has more than {MAX_MODULES:,} modules, so its configuration cannot be "
                "right"
            )

    def count_parameter(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        nonlocal num_bytes
        if parameter is None or parameter.is_meta:
            return
        num_bytes += parameter.nbytes
        if num_bytes > memory:
            raise _ModelTooLargeError(
                f"the model needs more than the {memory / 2**30:.1f} GiB of memory that this "
                "machine has"
            )

    hooks: Any
    with ExitStack() as hooks:
        for handle in (
            register_module_module_registration_hook(count_module),
            register_module_parameter_registration_hook(count_parameter),
        ):
            hooks.callback(handle.remove)
        yield
