"""Photographs decoded to upright 8-bit RGB whatever they are.

What decoding does, so that features mean what a viewer sees:

* a file that is not regular (a named pipe, a device) is refused before it is opened;
* the content decides the format, not the suffix; animations and stacks give their first frame;
* EXIF orientation is applied; a broken EXIF block is ignored;
* metadata of a PNG that is damaged or beyond a bound is skipped
  (`feature_extraction.images.png_metadata`);
* transparency is laid over white; colour profiles are not applied, as in CLIP's own preprocessing;
* 16-bit, 32-bit and floating-point pictures are scaled to 8 bits, not clipped;
* a picture whose header declares more than 178,956,970 pixels is refused before it is decoded;
* a picture of more than 4,194,304 pixels is reduced by whole factors (for JPEG while decoding,
  otherwise by averaging) to no less than twice the side that is asked for. This bounds memory and
  time; smaller pictures are decoded exactly.

Truncated files are errors. Pillow's global settings are neither relied on nor changed.
"""

import stat
import struct
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from eval.regular_files import file_kind
from feature_extraction.errors import ImageError
from feature_extraction.images.colours import BACKGROUND, rgb_converter
from feature_extraction.images.decoder_messages import discard_decoder_messages
from feature_extraction.images.finding import (
    HEIF_EXTRA,
    ImageFile,
    find_images,
)
from feature_extraction.images.png_metadata import open_png

__all__ = [
    "BACKGROUND",
    "EXACT_PIXELS",
    "MOST_PIXELS",
    "Decoded",
    "ImageFile",
    "decode_image",
    "find_images",
]

# Formats whose decoders are self-contained: EPS, for one, would start another program.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
# Major brands of ISO base media files, by which HEIF and AVIF are told apart.
HEIF_BRANDS = frozenset(b"heic heim heis heix hevc hevm hevs hevx mif1 msf1".split())
AVIF_BRANDS = frozenset(b"avif avis".split())

MOST_PIXELS = 178_956_970
EXACT_PIXELS = 2**22
LEAST_OVERSAMPLING = 2
BAND_PIXELS = 2**22

ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNED = frozenset({5, 6, 7, 8})

# What Pillow's EXIF reader has been seen to raise on a damaged block.
METADATA_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture in RGB, and the upright size in pixels of the photograph it came from.

    The picture itself is smaller where the photograph was reduced.
    """

    image: Image.Image
    height: int
    width: int


def decode_image(source: Path | Image.Image, side: int) -> Decoded:
    """Decode one photograph.

    Args:
        source: A file, or an image Pillow has opened.
        side: Side in pixels of the square it will be resized to; only very large photographs
            are reduced with it in mind.

    Raises:
        ImageError: It cannot be decoded; the message is the reason, without the path.
    """
    with warnings.catch_warnings():
        # Pillow warns about sizes that are allowed here and metadata that is not used.
        warnings.simplefilter("ignore")
        try:
            if isinstance(source, Image.Image):
                return _decode(source, side)
            before = _version(source)
            decoded = _decode_file(source, side)
            if _version(source) != before:
                raise ImageError("the file changed while it was read")
            return decoded
        except ImageError:
            raise
        except FileNotFoundError:
            raise ImageError("the file is no longer there") from None
        except PermissionError:
            raise ImageError("permission to read the file is denied") from None
        except Exception as error:
            # Decoders meet corrupt data with nearly every type of exception.
            raise ImageError(f"it cannot be decoded: {_reason(error)}") from error


def _version(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _decode_file(path: Path, side: int) -> Decoded:
    _require_content(path)
    try:
        with _open(path, open_png(path)) as image:
            return _decode(image, side)
    except Exception:
        bare = open_png(path, is_bare=True)
        if bare is None:
            raise
    # It may have been the metadata that could not be decoded.
    with _open(path, bare) as image:
        return _decode(image, side)


def _require_content(path: Path) -> None:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        # Opening one may wait for ever, reading one may never end.
        raise ImageError(f"it is {file_kind(found.st_mode)}, expected a file")
    if found.st_size == 0:
        raise ImageError("the file is empty")


def _open(path: Path, stream: IO[bytes] | None) -> Image.Image:
    """Open a file through `stream`, if there is one."""
    Image.init()
    try:
        return Image.open(stream or path, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        return _open_unidentified(path)
    except Image.DecompressionBombError:
        raise ImageError(
            f"its header declares more than {MOST_PIXELS:,} pixels, the most that are decoded"
        ) from None


def _open_unidentified(path: Path) -> Image.Image:
    """Open what Pillow alone does not read."""
    with path.open("rb") as file:
        start = file.read(12)
    box, brand = start[4:8], start[8:12]
    if box == b"ftyp" and brand in AVIF_BRANDS:
        raise ImageError("it is AVIF, damaged or not supported by this Pillow, which 11.3 is")
    if box != b"ftyp" or brand not in HEIF_BRANDS:
        raise ImageError(
            "it is not an image of a known format, or its header is damaged; it starts with "
            f"{start!r}"
        )
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise ImageError(f"it is HEIC, which an extra package reads: {HEIF_EXTRA}") from None
    # Not registered with Pillow: other code keeps the formats it had.
    open_heif: Callable[[Path], Image.Image] = HeifImageFile
    return open_heif(path)


def _decode(image: Image.Image, side: int) -> Decoded:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ImageError(
            f"its header declares {width} x {height} = {width * height:,} pixels; at most "
            f"{MOST_PIXELS:,} are decoded"
        )
    is_large = width * height > EXACT_PIXELS
    least = LEAST_OVERSAMPLING * side
    # HEIF would use an embedded thumbnail instead of the photograph.
    may_draft = is_large and image.format in ("JPEG", "MPO")
    drafted = image.draft(None, (least, least)) if may_draft else None
    header_size = image.size
    with discard_decoder_messages() if image.format == "TIFF" else nullcontext():
        image.load()
    if image.size != header_size:
        # Pillow has turned a TIFF upright while loading it.
        width, height = image.size
    orientation = _orientation(image)
    if is_large:
        extent = drafted[1][2:] if drafted else image.size
        picture = _reduced_rgb(image, extent, least)
    else:
        picture = rgb_converter(image)(image)
    if orientation in UPRIGHT:
        picture = picture.transpose(UPRIGHT[orientation])
    if orientation in TURNED:
        width, height = height, width
    return Decoded(picture, height, width)


def _reduced_rgb(image: Image.Image, extent: tuple[float, float], least: int) -> Image.Image:
    """Convert a large picture whose photograph covers `extent` of it, reduced by whole factors."""
    convert = rgb_converter(image)
    across, down = (max(1, length // least) for length in image.size)
    cells = (-(-image.width // across), -(-image.height // down))
    picture = Image.new("RGB", cells)
    # Band by band: a grey picture of the largest size would need four times its memory as RGB.
    rows = max(1, BAND_PIXELS // image.width // down) * down
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        picture.paste(convert(band).reduce((across, down)), (0, top // down))
    covered = (extent[0] / across, extent[1] / down)
    if covered == cells:
        return picture
    # The last cells lie partly beyond the photograph's edge; what is beyond is left out.
    size = (max(1, int(covered[0])), max(1, int(covered[1])))
    return picture.resize(size, Image.Resampling.BICUBIC, box=(0, 0, *covered))


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except METADATA_ERRORS:
        return 1
    return value if isinstance(value, int) else 1


def _reason(error: Exception) -> str:
    # Of the system's errors the number and the path are no reason.
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
