"""Conversion of every colour mode to 8-bit RGB."""

from pathlib import Path

import numpy as np
import pytest
from gradient_images import decoded
from PIL import Image

from feature_extraction.images.decode import decode_image


class TestColours:
    def test_sixteen_bit_grey(self, tmp_path: Path) -> None:
        values = np.linspace(0, 65535, 256).reshape(16, 16)
        Image.fromarray(values.astype(np.uint16)).save(tmp_path / "deep.png")
        assert np.array_equal(
            decoded(tmp_path / "deep.png")[..., 0], np.rint(values.astype(np.uint16) / 257)
        )

    @pytest.mark.parametrize(("white", "scale"), [(1.0, 255), (255.0, 1), (1000.0, 255 / 65535)])
    def test_floating_point(self, tmp_path: Path, white: float, scale: float) -> None:
        values = np.linspace(0, white, 256, dtype=np.float32).reshape(16, 16)
        values[0, 0] = np.nan
        Image.fromarray(values).save(tmp_path / "float.tif")
        expected = np.rint(np.nan_to_num(values) * scale)
        assert np.abs(decoded(tmp_path / "float.tif")[..., 1] - expected).max() <= 1

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
    def test_transparent_images_are_composited_over_white(self, tmp_path: Path, mode: str) -> None:
        # The transparent half is magenta.
        pixels = np.zeros((8, 8, 4), np.uint8)
        pixels[..., 0] = pixels[..., 2] = 255
        pixels[:, 4:, 3] = 255
        image = Image.fromarray(pixels)
        if mode == "LA":
            image = image.convert("LA")
        suffix = "tif" if mode == "PA" else "png"
        if mode == "PA":
            image = image.convert("RGB").convert("P").convert("PA")
            image.putalpha(Image.fromarray(pixels[..., 3]))
        if mode == "PA":
            result = np.asarray(decode_image(image, 32).image)
        else:
            image.save(tmp_path / f"alpha.{suffix}")
            result = decoded(tmp_path / f"alpha.{suffix}")
        assert (result[:, :4] == 255).all()
        assert not (result[:, 4:] == 255).all()

    def test_a_transparent_palette_entry(self, tmp_path: Path) -> None:
        image = Image.new("P", (4, 4), 1)
        image.putpalette([255, 0, 255, 0, 0, 200])
        image.putpixel((0, 0), 0)
        image.save(tmp_path / "palette.png", transparency=0)
        result = decoded(tmp_path / "palette.png")
        assert result[0, 0].tolist() == [255, 255, 255]
        assert result[1, 1].tolist() == [0, 0, 200]

    @pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "LAB", "HSV", "I"])
    def test_white_stays_white_in_other_modes(self, mode: str) -> None:
        grey = Image.new("L", (6, 6), 255)
        if mode == "LAB":
            image = Image.merge(
                "LAB", [grey, Image.new("L", (6, 6), 128), grey.point(lambda _: 128)]
            )
        else:
            image = (
                grey.convert(mode) if mode in {"1", "L", "I"} else grey.convert("RGB").convert(mode)
            )
        assert np.asarray(decode_image(image, 32).image).min() >= 253

    def test_an_animation_gives_its_first_frame(self, tmp_path: Path) -> None:
        frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
        assert decoded(tmp_path / "a.gif")[2, 2].tolist() == [255, 0, 0]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_pixel_that_is_not_finite_does_not_change_the_others(
    tmp_path: Path, value: float
) -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "finite.tif")
    values[3, 4] = value
    Image.fromarray(values).save(tmp_path / "changed.tif")
    finite, changed = decoded(tmp_path / "finite.tif"), decoded(tmp_path / "changed.tif")
    assert changed[3, 4].tolist() == ([255] * 3 if value == np.inf else [0] * 3)
    assert np.array_equal(
        np.delete(finite.reshape(-1, 3), 52, 0), np.delete(changed.reshape(-1, 3), 52, 0)
    )
