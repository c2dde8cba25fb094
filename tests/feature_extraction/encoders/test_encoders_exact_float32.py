"""fp32 features are computed in float32, regardless of the settings of the process."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from feature_extraction.encoders.encoder import Encoder
from feature_extraction.encoders.exact_float32 import exact_float32

CONVOLUTION, PRODUCT = torch.backends.cudnn.conv, torch.backends.cuda.matmul


def settings() -> list[object]:
    found: list[object] = []
    for read in (
        torch.get_float32_matmul_precision,
        lambda: torch.backends.cudnn.allow_tf32,
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda: CONVOLUTION.fp32_precision,
        lambda: torch.backends.cudnn.rnn.fp32_precision,
        lambda: PRODUCT.fp32_precision,
        lambda: torch.backends.mkldnn.matmul.fp32_precision,
    ):
        try:
            found.append(read())
        except RuntimeError:
            found.append("conflict")
    return found


def set_legacy() -> None:
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("medium")


def set_new() -> None:
    CONVOLUTION.fp32_precision = "tf32"
    PRODUCT.fp32_precision = "tf32"


def set_both() -> None:
    set_legacy()
    CONVOLUTION.fp32_precision = "ieee"
    PRODUCT.fp32_precision = "ieee"


SETTINGS = [lambda: None, set_legacy, set_new, set_both]


@pytest.fixture(autouse=True)
def restore_settings() -> Iterator[None]:
    with exact_float32():
        pass
    older = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    newer = CONVOLUTION.fp32_precision, PRODUCT.fp32_precision
    yield
    torch.set_float32_matmul_precision(older[0])
    torch.backends.cudnn.allow_tf32 = older[1]
    CONVOLUTION.fp32_precision, PRODUCT.fp32_precision = newer


@pytest.mark.filterwarnings("ignore:.*TF32:UserWarning")
@pytest.mark.parametrize("set_up", SETTINGS)
def test_it_is_exact_within_the_block_and_restored_after_it(set_up: Callable[[], None]) -> None:
    set_up()
    before = settings()
    with exact_float32():
        assert "tf32" not in settings()
        assert settings()[:3] == ["highest", False, False]
        assert [CONVOLUTION.fp32_precision, PRODUCT.fp32_precision] == ["ieee", "ieee"]
    assert settings() == before


def test_an_encoder_uses_it(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    original = encoder._architecture.features

    def features(*arguments: object) -> object:
        seen.extend(settings())
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(encoder._architecture), "features", lambda _, *a: features(*a))
    side = encoder.spec.image_size
    encoder.encode(torch.zeros(1, 3, side, side, dtype=torch.uint8), ["a"])
    assert seen
    assert "tf32" not in seen


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_convolutions_on_cuda_equal_those_on_the_processor() -> None:
    generator = torch.Generator().manual_seed(0)
    picture, kernel = (
        torch.randn(shape, generator=generator) for shape in ((2, 64, 32, 32), (64, 64, 3, 3))
    )
    expected = torch.nn.functional.conv2d(picture.double(), kernel.double()).numpy()
    with exact_float32():
        found = torch.nn.functional.conv2d(picture.cuda(), kernel.cuda()).cpu().numpy()
    assert np.abs(found - expected).max() < 1e-3
