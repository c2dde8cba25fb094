"""What libraries do inside `library_call`: nothing is fetched, printed or built without end."""

import logging
import os
import warnings
from collections.abc import Iterator

import huggingface_hub
import pytest
import torch
from torch import nn
from transformers import dynamic_module_utils

from feature_extraction.encoders.library_calls import library_call
from feature_extraction.errors import EncoderError, ImageError


class PanicException(BaseException):  # noqa: N818 - the name pyo3 gives it
    """What a panic in Rust is raised as."""


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
def test_whatever_a_library_raises_is_one_error(error: BaseException, reason: str) -> None:
    with pytest.raises(EncoderError) as caught, library_call(EncoderError):
        raise error
    assert str(caught.value) == reason


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), ImageError("ours")])
def test_what_is_not_a_librarys_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, library_call(EncoderError):
        raise error
    assert caught.value is error


def test_nothing_is_fetched_and_nobody_is_asked() -> None:
    with library_call(EncoderError):
        assert huggingface_hub.is_offline_mode()
        with pytest.raises(ValueError, match="custom code"):
            dynamic_module_utils.resolve_trust_remote_code(None, "owner/name", False, True)
    assert dynamic_module_utils.TIME_OUT_REMOTE_CODE > 0


def test_nothing_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    with library_call(EncoderError):
        logging.getLogger("a.library").warning("do read this")
        warnings.warn("and this", stacklevel=1)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("a.library").isEnabledFor(logging.WARNING)


def test_a_model_without_end_is_stopped() -> None:
    with (
        pytest.raises(EncoderError, match="more than 10,000 modules"),
        library_call(EncoderError),
    ):
        nn.Sequential(*(nn.Sequential(layer) for layer in endless_layers()))


def test_a_model_larger_than_memory_is_stopped_unless_it_has_no_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": 64}
    monkeypatch.setattr(os, "sysconf", machine.__getitem__)
    with library_call(EncoderError), torch.device("meta"):
        nn.Linear(2**12, 2**12)
    with pytest.raises(EncoderError, match="GiB of memory"), library_call(EncoderError):
        nn.Linear(128, 256)
