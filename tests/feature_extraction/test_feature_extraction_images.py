import io
import json
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from feature_extraction.errors import ImageError
from feature_extraction.images.decode import MOST_PIXELS, decode_image, find_images

REFUSED = {
    "odd/truncated_half.jpg": "truncated",
    "odd/truncated_header.jpg": "Truncated",
    "odd/truncated.png": "truncated",
    "odd/bad_crc.png": "cannot be decoded",
    "odd/zero_byte.jpg": "empty",
    "odd/text.jpg": "not an image",
    "odd/bomb_20000x20000.png": "178,956,970",
}


def gradient(height: int, width: int) -> np.ndarray:
    """An RGB picture in which every corner and every channel differs."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [rows * 255 // height, columns * 255 // width, (rows + columns) % 256]
    return np.stack(channels, axis=-1).astype(np.uint8)


def decoded(path: Path, side: int = 32) -> np.ndarray:
    return np.asarray(decode_image(path, side).image)


class TestFindImages:
    def test_finds_in_depth_any_case_sorted_by_id(self, tmp_path: Path) -> None:
        (tmp_path / "b" / "c").mkdir(parents=True)
        for name in ("z.JPG", "b/a.png", "b/c/m x é.WebP", "b/.hidden.png", "notes.txt"):
            (tmp_path / name).write_bytes(b"x")
        found = find_images(tmp_path)
        assert [file.image_id for file in found] == ["a", "m x é", "z"]
        assert found[1].path == tmp_path / "b/c/m x é.WebP"

    def test_follows_a_link_to_a_folder_once(self, tmp_path: Path) -> None:
        (tmp_path / "images" / "sub").mkdir(parents=True)
        (tmp_path / "images" / "sub" / "a.png").write_bytes(b"x")
        (tmp_path / "images" / "sub" / "loop").symlink_to(tmp_path / "images")
        (tmp_path / "link").symlink_to(tmp_path / "images")
        assert [file.image_id for file in find_images(tmp_path / "link")] == ["a"]

    def test_two_files_with_one_stem_are_both_named(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "a.png").write_bytes(b"x")
        (tmp_path / "sub" / "a.jpg").write_bytes(b"x")
        with pytest.raises(ImageError, match=r"a\.png and .*sub/a\.jpg"):
            find_images(tmp_path)

    @pytest.mark.parametrize("name", ["missing", "file.jpg", "empty"])
    def test_no_images_is_an_error(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file.jpg").write_bytes(b"x")
        (tmp_path / "empty").mkdir()
        with pytest.raises(ImageError, match=r"expected .*(folder of images|files that end in)"):
            find_images(tmp_path / name)

    def test_a_name_that_is_not_utf8_is_refused(self, tmp_path: Path) -> None:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"x")
        with pytest.raises(ImageError, match="not UTF-8"):
            find_images(tmp_path)


class TestManifest:
    """Every file of the collection of awkward photographs does what its manifest expects."""

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
            picture = decode_image(path, 224)
            assert picture.image.mode == "RGB"
            if "size" in entry:
                assert [picture.width, picture.height] == entry["size"]

    def test_the_eight_orientations_show_one_picture(self, shared_data: Path) -> None:
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


class TestColours:
    """What each kind of picture must look like, on pictures made here."""

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
    def test_transparency_is_laid_over_white(self, tmp_path: Path, mode: str) -> None:
        # Magenta hides under the transparent half.
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
    def test_other_modes_keep_the_grey_they_show(self, mode: str) -> None:
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


class TestDecoding:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation_is_applied(self, tmp_path: Path, orientation: int) -> None:
        """Pixels stored turned, with the tag that says so, come out upright."""
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
            picture = decode_image(path, 32)
            assert (picture.height, picture.width) == (40, 64)
            assert np.array_equal(np.asarray(picture.image), np.asarray(upright))

    def test_a_broken_exif_block_is_ignored(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jpg"
        Image.fromarray(gradient(16, 16)).save(path, exif=b"Exif\0\0MM\0*\xff\xff\xff\xffgarbage")
        assert decoded(path).shape == (16, 16, 3)

    def test_content_decides_not_the_suffix(self, tmp_path: Path) -> None:
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

    def test_random_bytes_never_give_another_error(self, tmp_path: Path) -> None:
        """Damage anywhere in a file ends in a picture or an ImageError, nothing else."""
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
        def chunk(kind: bytes, data: bytes) -> bytes:
            body = kind + data
            return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

        side = int(MOST_PIXELS**0.5) + 1
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))
        with pytest.raises(ImageError, match="178,956,970"):
            decode_image(tmp_path / "b.png", 224)

    def test_a_file_that_vanished_is_an_image_error(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="no longer there"):
            decode_image(tmp_path / "gone.png", 224)

    def test_other_code_keeps_its_own_limits(self, tmp_path: Path) -> None:
        """Pillow's global settings are as they were."""
        before = Image.MAX_IMAGE_PIXELS
        Image.fromarray(gradient(9, 9)).save(tmp_path / "a.png")
        decode_image(tmp_path / "a.png", 32)
        assert before == Image.MAX_IMAGE_PIXELS


class TestLargePhotographs:
    """Beyond 4,194,304 pixels pictures are reduced; the result must hardly differ."""

    @pytest.mark.parametrize("form", ["PNG", "JPEG"])
    def test_reduced_but_never_below_twice_the_side(self, tmp_path: Path, form: str) -> None:
        Image.fromarray(gradient(2000, 2600)).save(tmp_path / "a", format=form)
        picture = decode_image(tmp_path / "a", 64)
        assert (picture.height, picture.width) == (2000, 2600)
        assert 128 <= min(picture.image.size)
        assert max(picture.image.size) < 2600 // 8

    @pytest.mark.parametrize("form", ["PNG", "JPEG"])
    def test_close_to_the_exact_way(self, tmp_path: Path, form: str) -> None:
        full = Image.fromarray(gradient(2111, 2593)[..., :2].mean(axis=-1).astype(np.uint8))
        full.save(tmp_path / "a.png", format=form)
        reduced = decode_image(tmp_path / "a.png", 64).image.resize(
            (64, 64), Image.Resampling.BICUBIC
        )
        exact = full.resize((64, 64), Image.Resampling.BICUBIC).convert("RGB")
        difference = np.abs(np.asarray(reduced).astype(int) - np.asarray(exact).astype(int))
        assert difference.max() <= 2

    def test_smaller_ones_are_exact(self, tmp_path: Path) -> None:
        Image.fromarray(gradient(2048, 2048)).save(tmp_path / "a.png")
        assert np.array_equal(decoded(tmp_path / "a.png"), gradient(2048, 2048))

    def test_large_palette_picture_with_an_orientation(self, tmp_path: Path) -> None:
        image = Image.new("P", (3000, 1500), 1)
        image.putpalette([0, 0, 0, 10, 20, 30])
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(tmp_path / "a.png", exif=exif)
        picture = decode_image(tmp_path / "a.png", 32)
        assert (picture.height, picture.width) == (3000, 1500)
        assert np.asarray(picture.image)[5, 5].tolist() == [10, 20, 30]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def with_chunks(path: Path, *chunks: bytes, at_end: bool = False) -> np.ndarray:
    """Write a PNG with chunks before its pixels, or behind them; return its pixels."""
    buffer = io.BytesIO()
    Image.fromarray(gradient(20, 30)).save(buffer, "PNG")
    content = buffer.getvalue()
    place = len(content) - 12 if at_end else 33
    path.write_bytes(content[:place] + b"".join(chunks) + content[place:])
    return gradient(20, 30)


LONG = b"workflow " * 2**18
PACKED = zlib.compress(LONG)


class TestMetadata:
    """Metadata of any length never costs a picture whose pixels are sound."""

    @pytest.mark.parametrize("at_end", [False, True])
    @pytest.mark.parametrize(
        "chunks",
        [
            pytest.param([png_chunk(b"tEXt", b"a\0" + LONG)], id="text"),
            pytest.param([png_chunk(b"zTXt", b"a\0\0" + PACKED)], id="compressed text"),
            pytest.param([png_chunk(b"iTXt", b"a\0\1\0\0\0" + PACKED)], id="international text"),
            pytest.param(
                [png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + LONG)], id="XMP as it is"
            ),
            pytest.param([png_chunk(b"iCCP", b"profile\0\0" + PACKED)], id="colour profile"),
            pytest.param([png_chunk(b"tEXt", b"a\0" + bytes(2**19))] * 140, id="many texts"),
            pytest.param([png_chunk(b"caBX", LONG)], id="private"),
            pytest.param([png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27)))], id="a bomb"),
        ],
    )
    def test_of_a_png_is_skipped_beyond_a_bound(
        self, tmp_path: Path, chunks: list[bytes], at_end: bool
    ) -> None:
        expected = with_chunks(tmp_path / "a.png", *chunks, at_end=at_end)
        assert np.array_equal(decoded(tmp_path / "a.png"), expected)

    def test_the_orientation_is_kept_however_much_is_skipped(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        oriented = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
        with_chunks(tmp_path / "a.png", png_chunk(b"tEXt", b"a\0" + LONG), oriented)
        picture = decode_image(tmp_path / "a.png", 32)
        assert (picture.height, picture.width) == (30, 20)

    @pytest.mark.parametrize(
        "chunk",
        [
            pytest.param(png_chunk(b"iCCP", b""), id="an empty colour profile"),
            pytest.param(png_chunk(b"zTXt", b"a\0\7x"), id="an unknown compression"),
            pytest.param(png_chunk(b"tEXt", b"a\0b")[:-4] + bytes(4), id="a wrong checksum"),
            pytest.param(png_chunk(b"pHYs", b"\0"), id="a resolution cut short"),
        ],
    )
    @pytest.mark.parametrize("at_end", [False, True])
    def test_of_a_png_is_skipped_where_it_is_damaged(
        self, tmp_path: Path, chunk: bytes, at_end: bool
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = 3
        oriented = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
        expected = with_chunks(tmp_path / "a.png", oriented, chunk, at_end=at_end)
        assert np.array_equal(decoded(tmp_path / "a.png"), expected[::-1, ::-1])

    def test_damage_is_still_found_in_a_png_of_which_some_is_skipped(self, tmp_path: Path) -> None:
        with_chunks(tmp_path / "a.png", png_chunk(b"tEXt", b"a\0" + LONG))
        content = (tmp_path / "a.png").read_bytes()
        (tmp_path / "a.png").write_bytes(content[:-40])
        with pytest.raises(ImageError):
            decode_image(tmp_path / "a.png", 32)

    def test_a_tail_of_nothing_does_not_take_for_ever(self, tmp_path: Path) -> None:
        """A sparse file: walking it in steps of an empty chunk would take days."""
        expected = with_chunks(tmp_path / "a.png")
        os.truncate(tmp_path / "a.png", 2**40)
        assert np.array_equal(decoded(tmp_path / "a.png"), expected)
        with (tmp_path / "a.png").open("rb") as file:
            (tmp_path / "b.png").write_bytes(file.read(33))
        os.truncate(tmp_path / "b.png", 2**40)
        with pytest.raises(ImageError):
            decode_image(tmp_path / "b.png", 32)

    @pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF", "GIF", "AVIF"])
    def test_of_other_formats_is_no_obstacle(self, tmp_path: Path, form: str) -> None:
        if form == "AVIF" and not features.check("avif"):
            pytest.skip("this Pillow has no AVIF")
        path, image = tmp_path / "a", Image.fromarray(gradient(20, 30))
        if form == "JPEG":
            segment = b"\xff\xe1\xff\xff" + b"http://ns.adobe.com/xap/1.0/\0".ljust(65533, b"x")
            buffer = io.BytesIO()
            image.save(buffer, "JPEG")
            path.write_bytes(b"\xff\xd8" + segment * 60 + buffer.getvalue()[2:])
        else:
            more = {
                "WEBP": {"xmp": LONG, "icc_profile": LONG, "exif": b"Exif\0\0II*\0" + LONG},
                "TIFF": {"tiffinfo": {270: LONG.decode(), 700: LONG}, "icc_profile": LONG},
                "GIF": {"comment": LONG},
                "AVIF": {"xmp": LONG, "icc_profile": LONG},
            }[form]
            image.save(path, form, **more)
        assert decoded(path).shape == (20, 30, 3)


def test_a_file_that_may_not_be_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "hidden")

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match="^permission to read the file is denied$"):
        decode_image(tmp_path / "a.png", 32)


class TestSpecialFiles:
    """A folder may hold what must not be opened: it is a failure with a reason, at once."""

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

    def test_a_link_to_nowhere(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").symlink_to("nowhere.jpg")
        with pytest.raises(ImageError, match="no longer there"):
            decode_image(tmp_path / "a.jpg", 32)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_pixel_that_is_not_finite_leaves_the_others_as_they_are(
    tmp_path: Path, value: float
) -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "sound.tif")
    values[3, 4] = value
    Image.fromarray(values).save(tmp_path / "spoilt.tif")
    sound, spoilt = decoded(tmp_path / "sound.tif"), decoded(tmp_path / "spoilt.tif")
    assert spoilt[3, 4].tolist() == ([255] * 3 if value == np.inf else [0] * 3)
    assert np.array_equal(
        np.delete(sound.reshape(-1, 3), 52, 0), np.delete(spoilt.reshape(-1, 3), 52, 0)
    )
