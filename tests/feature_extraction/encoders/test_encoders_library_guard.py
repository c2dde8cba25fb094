"""Within `guard_library_call` nothing is downloaded or printed, and models have a maximum size."""

import logging
import os
import warnings
from collections.abc import Iterator

import huggingface_hub
import pytest
import torch
from torch import nn
from transformers import dynamic_module_utils

from feature_extraction.encoders.library_guard import guard_library_call
from feature_extraction.errors import EncoderError, ImageError


class PanicException(BaseException):  # noqa: N818 - the name pyo3 gives it
    """The exception for a panic in Rust."""


def endless_layers() -> Iterator[nn.Module]:
    while True:
        yield nn.Identity()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Exception("data did not match\nany variant"), "data did not match any variant"),
        (PanicException("index out of bounds"), "index out of bounds"),
        (KeyError("wi"), "KeyError: 'wi'"),
        (MemoryError(), "MemoryError"),
        (AttributeError("no such thing"), "no such thing"),
    ],
)
def test_all_errors_of_a_library_become_one_class(error: BaseException, reason: str) -> None:
    with pytest.raises(EncoderError) as caught, guard_library_call(EncoderError):
        raise error
    assert str(caught.value) == reason


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), ImageError("ours")])
def test_other_exceptions_are_passed_on(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, guard_library_call(EncoderError):
        raise error
    assert caught.value is error


def test_there_are_no_downloads_and_no_prompts() -> None:
    with guard_library_call(EncoderError):
        assert huggingface_hub.is_offline_mode()
        with pytest.raises(ValueError, match="custom code"):
            dynamic_module_utils.resolve_trust_remote_code(None, "owner/name", False, True)
    assert dynamic_module_utils.TIME_OUT_REMOTE_CODE > 0


def test_nothing_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    with guard_library_call(EncoderError):
        logging.getLogger("a.library").warning("a warning")
        warnings.warn("another warning", stacklevel=1)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("a.library").isEnabledFor(logging.WARNING)


def test_a_list_of_every_model_is_cut() -> None:
    with pytest.raises(EncoderError) as caught, guard_library_call(EncoderError):
        raise ValueError("expected one of " + ", ".join(f"model{number}" for number in range(500)))
    assert str(caught.value).startswith("expected one of model0")
    assert len(str(caught.value)) == 400


def test_an_endless_model_is_stopped() -> None:
    with (
        pytest.raises(EncoderError, match="more than 10,000 modules"),
        guard_library_call(EncoderError),
    ):
        nn.Sequential(*(nn.Sequential(layer) for layer in endless_layers()))


def test_a_model_larger_than_memory_is_stopped_unless_it_is_on_the_meta_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": 64}
    monkeypatch.setattr(os, "sysconf", machine.__getitem__)
    with guard_library_call(EncoderError), torch.device("meta"):
        nn.Linear(2**12, 2**12)
    with pytest.raises(EncoderError, match="GiB of memory"), guard_library_call(EncoderError):
        nn.Linear(128, 256)
