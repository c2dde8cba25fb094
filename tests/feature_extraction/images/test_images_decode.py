import io
import json
import os
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from gradient_images import decoded, gradient, png_chunk
from PIL import Image

from feature_extraction.errors import ImageError
from feature_extraction.images.decode import MAX_PIXELS, decode_image
from feature_extraction.images.finding import find_images

REFUSED = {
    "odd/truncated_half.jpg": "truncated",
    "odd/truncated_header.jpg": "Truncated",
    "odd/truncated.png": "truncated",
    "odd/bad_crc.png": "cannot be decoded",
    "odd/zero_byte.jpg": "empty",
    "odd/text.jpg": "not an image",
    "odd/bomb_20000x20000.png": "178,956,970",
}


class TestManifest:
    """Unusual and damaged photographs, with a manifest of the expected results."""

    def test_each_is_decoded_or_refused_as_expected(self, shared_data: Path) -> None:
        folder = shared_data / "data" / "photos"
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        for entry in manifest:
            path = folder / entry["file"]
            if entry["file"] in REFUSED:
                with pytest.raises(ImageError, match=REFUSED[entry["file"]]):
                    decode_image(path, 224)
                continue
            assert not entry.get("expect", "decode").startswith(("error", "Unid", "OSErr"))
            photograph = decode_image(path, 224)
            assert photograph.image.mode == "RGB"
            if "size" in entry:
                assert [photograph.width, photograph.height] == entry["size"]

    def test_all_eight_orientations_give_the_same_image(self, shared_data: Path) -> None:
        folder = shared_data / "data" / "photos" / "odd"
        upright = decoded(folder / "exif_orientation_1.jpg").astype(int)
        for tag in range(2, 9):
            turned = decode_image(folder / f"exif_orientation_{tag}.jpg", 224)
            assert (turned.width, turned.height) == (320, 213)
            assert np.abs(np.asarray(turned.image).astype(int) - upright).mean() < 3

    def test_sixteen_bits_are_scaled(self, shared_data: Path) -> None:
        folder = shared_data / "data" / "photos" / "odd"
        deep = decoded(folder / "gray16.png").astype(int)
        assert np.abs(deep - decoded(folder / "gray16_expected8.png").astype(int)).max() <= 1


class TestDecoding:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation_is_applied(self, tmp_path: Path, orientation: int) -> None:
        """Pixels stored with an EXIF orientation are decoded upright."""
        upright = Image.fromarray(gradient(40, 64))
        inverse = {
            2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270,
        }  # fmt: skip
        stored = upright.transpose(inverse[orientation]) if orientation > 1 else upright
        exif = Image.Exif()
        exif[0x0112] = orientation
        for suffix in ("png", "tif"):
            path = tmp_path / f"turned.{suffix}"
            stored.save(path, exif=exif)
            photograph = decode_image(path, 32)
            assert (photograph.height, photograph.width) == (40, 64)
            assert np.array_equal(np.asarray(photograph.image), np.asarray(upright))

    def test_a_broken_exif_block_is_ignored(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jpg"
        Image.fromarray(gradient(16, 16)).save(path, exif=b"Exif\0\0MM\0*\xff\xff\xff\xffgarbage")
        assert decoded(path).shape == (16, 16, 3)

    def test_the_content_decides_the_format_not_the_suffix(self, tmp_path: Path) -> None:
        Image.fromarray(gradient(9, 9)).save(tmp_path / "a.jpg", format="PNG")
        assert np.array_equal(decoded(tmp_path / "a.jpg"), gradient(9, 9))

    @pytest.mark.parametrize("keep", [0.5, 0.9])
    @pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
    def test_a_truncated_file_is_refused(self, tmp_path: Path, form: str, keep: float) -> None:
        buffer = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(buffer, format=form)
        (tmp_path / "cut").write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * keep)])
        with pytest.raises(ImageError):
            decode_image(tmp_path / "cut", 32)

    def test_random_damage_never_raises_another_error(self, tmp_path: Path) -> None:
        """The result is an image or an ImageError."""
        generator = np.random.default_rng(1)
        path = tmp_path / "damaged"
        for form in ("PNG", "JPEG", "TIFF", "GIF", "WEBP"):
            buffer = io.BytesIO()
            Image.fromarray(gradient(24, 24)).save(buffer, format=form)
            for _ in range(40):
                content = bytearray(buffer.getvalue())
                for position in generator.integers(0, len(content), 6):
                    content[position] = generator.integers(0, 256)
                path.write_bytes(content)
                try:
                    decode_image(path, 32)
                except ImageError:
                    continue

    def test_a_bomb_is_refused_from_its_header(self, tmp_path: Path) -> None:
        side = int(MAX_PIXELS**0.5) + 1
        header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b""))
        with pytest.raises(ImageError, match="178,956,970"):
            decode_image(tmp_path / "b.png", 224)

    def test_a_deleted_file_is_an_image_error(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="does not exist"):
            decode_image(tmp_path / "gone.png", 224)

    def test_pillows_global_limit_is_not_changed(self, tmp_path: Path) -> None:
        before = Image.MAX_IMAGE_PIXELS
        Image.fromarray(gradient(9, 9)).save(tmp_path / "a.png")
        decode_image(tmp_path / "a.png", 32)
        assert before == Image.MAX_IMAGE_PIXELS


class TestLargePhotographs:
    """Images of more than 4,194,304 pixels are downscaled, with almost the same result."""

    @pytest.mark.parametrize("form", ["PNG", "JPEG"])
    def test_they_are_downscaled_to_at_least_twice_the_side(
        self, tmp_path: Path, form: str
    ) -> None:
        Image.fromarray(gradient(2000, 2600)).save(tmp_path / "a", format=form)
        photograph = decode_image(tmp_path / "a", 64)
        assert (photograph.height, photograph.width) == (2000, 2600)
        assert 128 <= min(photograph.image.size)
        assert max(photograph.image.size) < 2600 // 8

    @pytest.mark.parametrize("form", ["PNG", "JPEG"])
    def test_the_result_is_close_to_exact_resizing(self, tmp_path: Path, form: str) -> None:
        full = Image.fromarray(gradient(2111, 2593)[..., :2].mean(axis=-1).astype(np.uint8))
        full.save(tmp_path / "a.png", format=form)
        downscaled = decode_image(tmp_path / "a.png", 64).image.resize(
            (64, 64), Image.Resampling.BICUBIC
        )
        exact = full.resize((64, 64), Image.Resampling.BICUBIC).convert("RGB")
        difference = np.abs(np.asarray(downscaled).astype(int) - np.asarray(exact).astype(int))
        assert difference.max() <= 2

    def test_smaller_images_are_exact(self, tmp_path: Path) -> None:
        Image.fromarray(gradient(2048, 2048)).save(tmp_path / "a.png")
        assert np.array_equal(decoded(tmp_path / "a.png"), gradient(2048, 2048))

    def test_a_large_palette_image_with_an_orientation(self, tmp_path: Path) -> None:
        image = Image.new("P", (3000, 1500), 1)
        image.putpalette([0, 0, 0, 10, 20, 30])
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(tmp_path / "a.png", exif=exif)
        photograph = decode_image(tmp_path / "a.png", 32)
        assert (photograph.height, photograph.width) == (3000, 1500)
        assert np.asarray(photograph.image)[5, 5].tolist() == [10, 20, 30]


def test_a_file_without_read_permission_is_an_image_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "hidden")

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match="^no permission to read the file$"):
        decode_image(tmp_path / "a.png", 32)


class TestSpecialFiles:
    """Special files are refused without being opened."""

    def test_a_fifo(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.jpg")
        assert [file.image_id for file in find_images(tmp_path)] == ["a"]
        with pytest.raises(ImageError, match="it is a named pipe, expected a file"):
            decode_image(tmp_path / "a.jpg", 32)

    def test_a_socket(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("a.jpg")
        with pytest.raises(ImageError, match="it is a socket"):
            decode_image(tmp_path / "a.jpg", 32)

    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/tty"])
    def test_a_link_to_a_device(self, tmp_path: Path, device: str) -> None:
        (tmp_path / "a.jpg").symlink_to(device)
        with pytest.raises(ImageError, match="it is a device"):
            decode_image(tmp_path / "a.jpg", 32)

    def test_a_link_to_itself(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").symlink_to("a.png")
        with pytest.raises(ImageError, match=r"^it cannot be decoded: Too many levels of .*links$"):
            decode_image(tmp_path / "a.png", 32)

    def test_a_broken_link(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").symlink_to("nowhere.jpg")
        with pytest.raises(ImageError, match="does not exist"):
            decode_image(tmp_path / "a.jpg", 32)
