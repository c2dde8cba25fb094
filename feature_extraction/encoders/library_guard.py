"""Call model libraries offline, silently, within a memory limit, and with one class of error.

transformers, tokenizers, timm and open_clip act on the contents of a checkpoint's files, which are
untrusted. They are read and checked first (`feature_extraction.encoders.checkpoint_files`); the
library then uses the checked values within `guard_library_call`.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import ModuleType
from typing import Any

from huggingface_hub import constants as hub_constants
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from transformers import dynamic_module_utils
from transformers.utils import logging as transformers_logging

from feature_extraction.errors import FeatureError

__all__ = ["guard_library_call"]

# A ViT of 48 blocks has about 1,000 modules; the deepest models of timm have fewer than 5,000.
MAX_MODULES = 10_000
# Some messages list every model of the library.
MAX_REASON_LENGTH = 400
MAX_REASON_LINES = 3
# The name of the exception for a panic in Rust, which is derived only from BaseException.
RUST_PANIC = "PanicException"


class _ModelTooLargeError(Exception):
    """The model has more modules than any real one, or does not fit into memory."""


@contextmanager
def guard_library_call(
    make_error: Callable[[str], Exception], *, is_download: bool = False
) -> Iterator[None]:
    """Let a library build or load a model within the block.

    Within the block nothing is downloaded from the Hugging Face hub, code of a checkpoint is
    refused without a prompt, nothing is logged, and a model with too many modules or parameters
    for this machine's memory is an error.

    Args:
        make_error: Function that returns the exception to raise, given the library's message in one
            line.
        is_download: Whether downloads are allowed.

    Raises:
        FeatureError: Raised in the block; it is not replaced.
        Exception: The result of `make_error`, for any other exception of the block except
            KeyboardInterrupt and similar ones.
    """
    try:
        with nullcontext() if is_download else _offline(), _quiet(), _size_limit():
            yield
    except FeatureError:
        raise
    except Exception as error:
        raise make_error(_reason(error)) from error
    except BaseException as error:
        if type(error).__name__ != RUST_PANIC:
            raise
        raise make_error(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """Return the first lines of a library's message, in one line."""
    lines = str(error).strip().splitlines()[:MAX_REASON_LINES]
    text = " ".join(line.strip() for line in lines)[:MAX_REASON_LENGTH]
    # The message of a KeyError is only the key, and some errors have no message.
    is_sentence = " " in text
    return text if is_sentence else f"{type(error).__name__}: {text}".removesuffix(": ")


@contextmanager
def _offline() -> Iterator[None]:
    """Prevent downloads, and refuse code of a checkpoint without a prompt."""
    with (
        _set_attribute(hub_constants, "HF_HUB_OFFLINE", True),
        _set_attribute(dynamic_module_utils, "TIME_OUT_REMOTE_CODE", 0),
    ):
        yield


@contextmanager
def _set_attribute(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    previous = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, previous)


@contextmanager
def _quiet() -> Iterator[None]:
    """Disable logs, warnings and progress bars; problems are raised as exceptions."""
    disabled_level = logging.root.manager.disable
    has_progress_bars = transformers_logging.is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled_level)
        if has_progress_bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def _size_limit() -> Iterator[None]:
    """Stop a model that grows too large, before its memory is written to."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    num_modules = num_bytes = 0

    def count_module(_parent: nn.Module, _name: str, _child: nn.Module | None) -> None:
        nonlocal num_modules
        num_modules += 1
        if num_modules > MAX_MODULES:
            raise _ModelTooLargeError(
                f"the model has more than {MAX_MODULES:,} modules: its configuration must be wrong"
            )

    def count_parameter(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        nonlocal num_bytes
        if parameter is None or parameter.is_meta:
            return
        num_bytes += parameter.nbytes
        if num_bytes > memory:
            raise _ModelTooLargeError(
                f"the model needs more than the {memory / 2**30:.1f} GiB of memory of this machine"
            )

    hooks: Any
    with ExitStack() as hooks:
        for handle in (
            register_module_module_registration_hook(count_module),
            register_module_parameter_registration_hook(count_parameter),
        ):
            hooks.callback(handle.remove)
        yield
