"""Images with intact pixels are decoded, however large or damaged their metadata is."""

import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from gradient_images import decoded, gradient, png_chunk
from PIL import Image, features

from feature_extraction.errors import ImageError
from feature_extraction.images.decode import decode_image


def with_chunks(path: Path, *chunks: bytes, at_end: bool = False) -> np.ndarray:
    """Write a PNG with chunks before or after its pixels; return its pixels."""
    buffer = io.BytesIO()
    Image.fromarray(gradient(20, 30)).save(buffer, "PNG")
    content = buffer.getvalue()
    place = len(content) - 12 if at_end else 33
    path.write_bytes(content[:place] + b"".join(chunks) + content[place:])
    return gradient(20, 30)


LONG = b"workflow " * 2**18
PACKED = zlib.compress(LONG)


class TestMetadata:
    @pytest.mark.parametrize("at_end", [False, True])
    @pytest.mark.parametrize(
        "chunks",
        [
            pytest.param([png_chunk(b"tEXt", b"a\0" + LONG)], id="text"),
            pytest.param([png_chunk(b"zTXt", b"a\0\0" + PACKED)], id="compressed text"),
            pytest.param([png_chunk(b"iTXt", b"a\0\1\0\0\0" + PACKED)], id="international text"),
            pytest.param(
                [png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + LONG)], id="uncompressed XMP"
            ),
            pytest.param([png_chunk(b"iCCP", b"profile\0\0" + PACKED)], id="colour profile"),
            pytest.param([png_chunk(b"tEXt", b"a\0" + bytes(2**19))] * 140, id="many texts"),
            pytest.param([png_chunk(b"caBX", LONG)], id="private"),
            pytest.param(
                [png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27)))],
                id="decompression bomb",
            ),
        ],
    )
    def test_oversized_metadata_of_a_png_is_skipped(
        self, tmp_path: Path, chunks: list[bytes], at_end: bool
    ) -> None:
        expected = with_chunks(tmp_path / "a.png", *chunks, at_end=at_end)
        assert np.array_equal(decoded(tmp_path / "a.png"), expected)

    def test_the_orientation_is_kept_when_other_chunks_are_skipped(self, tmp_path: Path) -> None:
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
            pytest.param(png_chunk(b"pHYs", b"\0"), id="a truncated resolution"),
        ],
    )
    @pytest.mark.parametrize("at_end", [False, True])
    def test_damaged_metadata_of_a_png_is_skipped(
        self, tmp_path: Path, chunk: bytes, at_end: bool
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = 3
        oriented = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
        expected = with_chunks(tmp_path / "a.png", oriented, chunk, at_end=at_end)
        assert np.array_equal(decoded(tmp_path / "a.png"), expected[::-1, ::-1])

    def test_damaged_pixels_are_an_error_when_chunks_are_skipped(self, tmp_path: Path) -> None:
        with_chunks(tmp_path / "a.png", png_chunk(b"tEXt", b"a\0" + LONG))
        content = (tmp_path / "a.png").read_bytes()
        (tmp_path / "a.png").write_bytes(content[:-40])
        with pytest.raises(ImageError):
            decode_image(tmp_path / "a.png", 32)

    def test_a_sparse_file_of_zeros_is_not_read_to_its_end(self, tmp_path: Path) -> None:
        """Reading it in steps of an empty chunk would take days."""
        expected = with_chunks(tmp_path / "a.png")
        os.truncate(tmp_path / "a.png", 2**40)
        assert np.array_equal(decoded(tmp_path / "a.png"), expected)
        with (tmp_path / "a.png").open("rb") as file:
            (tmp_path / "b.png").write_bytes(file.read(33))
        os.truncate(tmp_path / "b.png", 2**40)
        with pytest.raises(ImageError):
            decode_image(tmp_path / "b.png", 32)

    @pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF", "GIF", "AVIF"])
    def test_oversized_metadata_of_other_formats_is_accepted(
        self, tmp_path: Path, form: str
    ) -> None:
        if form == "AVIF" and not features.check("avif"):
            pytest.skip("this Pillow has no AVIF")
        path, image = tmp_path / "a", Image.fromarray(gradient(20, 30))
        if form == "JPEG":
            segment = b"\xff\xe1\xff\xff" + b"http://ns.adobe.com/xap/1.0/\0".ljust(65533, b"x")
            buffer = io.BytesIO()
            image.save(buffer, "JPEG")
            path.write_bytes(b"\xff\xd8" + segment * 60 + buffer.getvalue()[2:])
        else:
            metadata = {
                "WEBP": {"xmp": LONG, "icc_profile": LONG, "exif": b"Exif\0\0II*\0" + LONG},
                "TIFF": {"tiffinfo": {270: LONG.decode(), 700: LONG}, "icc_profile": LONG},
                "GIF": {"comment": LONG},
                "AVIF": {"xmp": LONG, "icc_profile": LONG},
            }[form]
            image.save(path, form, **metadata)
        assert decoded(path).shape == (20, 30, 3)
