import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor

from feature_extraction.encoders.encoder import normalise
from feature_extraction.images.decode import Decoded
from feature_extraction.images.preprocess import fit_square, prepare
from feature_extraction.spec import ResizeRule

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def photograph(height: int, width: int) -> Decoded:
    pixels = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    return Decoded(Image.fromarray(pixels), height, width)


@pytest.mark.parametrize(("height", "width"), [(213, 320), (500, 90), (3, 320), (224, 224), (1, 1)])
def test_squash_equals_the_papers_preprocessing(height: int, width: int) -> None:
    decoded = photograph(height, width)
    resize = Resize((224, 224), interpolation=InterpolationMode.BICUBIC)
    expected = Compose([resize, ToTensor(), Normalize(MEAN, STD)])(decoded.image)
    square = torch.from_numpy(fit_square(decoded, 224, "squash"))
    mean_311, std_311 = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    found = normalise(square[None], mean_311, std_311)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_letterbox_keeps_the_aspect_ratio_over_white() -> None:
    decoded = Decoded(Image.new("RGB", (200, 100), (10, 20, 30)), 100, 200)
    square = fit_square(decoded, 64, "letterbox")
    is_background = (square == 255).all(axis=0)
    assert is_background[:16].all()
    assert is_background[48:].all()
    assert not is_background[16:48].any()


def test_center_crop_takes_the_middle() -> None:
    pixels = np.zeros((50, 150, 3), np.uint8)
    pixels[:, 50:100] = 200
    square = fit_square(Decoded(Image.fromarray(pixels), 50, 150), 32, "center-crop")
    # The filter also reads a few pixels outside the crop.
    assert (square[:, :, 2:-2] == 200).all()


@pytest.mark.parametrize("rule", ["squash", "letterbox", "center-crop"])
@pytest.mark.parametrize(("height", "width"), [(3, 20000), (20000, 1), (1, 1)])
def test_extreme_aspect_ratios(rule: str, height: int, width: int) -> None:
    decoded = Decoded(Image.new("RGB", (width, height), "red"), height, width)
    square = fit_square(decoded, 224, rule)  # type: ignore[arg-type]
    assert square.shape == (3, 224, 224)
    is_red = (square[0] == 255) & (square[1] == 0)
    assert is_red[110:114, 110:114].any()


@pytest.mark.parametrize("rule", ["letterbox", "center-crop"])
def test_a_downscaled_image_is_placed_like_the_photograph(rule: str) -> None:
    """Downscaling may use different factors for the two sides."""
    full = Image.linear_gradient("L").convert("RGB").resize((600, 400))
    downscaled = Decoded(full.resize((300, 100), Image.Resampling.BOX), 400, 600)
    expected = fit_square(Decoded(full, 400, 600), 40, rule).astype(int)  # type: ignore[arg-type]
    found = fit_square(downscaled, 40, rule).astype(int)  # type: ignore[arg-type]
    assert np.abs(found - expected).max() <= 3


@pytest.mark.parametrize("rule", ["squash", "letterbox", "center-crop"])
@pytest.mark.parametrize("crops", [2, 3])
def test_the_tiles_form_the_larger_square(rule: ResizeRule, crops: int) -> None:
    decoded = photograph(120, 90)
    squares = prepare(decoded, 32, rule, crops)
    assert squares.shape == (1 + crops * crops, 3, 32, 32)
    assert np.array_equal(squares[0], fit_square(decoded, 32, rule))
    large = fit_square(decoded, 32 * crops, rule)
    for row in range(crops):
        for column in range(crops):
            tile = large[:, 32 * row : 32 * (row + 1), 32 * column : 32 * (column + 1)]
            assert np.array_equal(squares[1 + row * crops + column], tile)


def test_without_crops_there_is_one_square() -> None:
    decoded = photograph(50, 70)
    squares = prepare(decoded, 32, "squash", 1)
    assert np.array_equal(squares, fit_square(decoded, 32, "squash")[None])
