"""Decode photographs to upright 8-bit RGB.

The result is what an image viewer shows:

* Files that are not regular (named pipes, devices) are refused before they are opened.
* The content decides the format, not the suffix. Animations and stacks give their first frame.
* EXIF orientation is applied. A broken EXIF block is ignored.
* Damaged or oversized metadata of a PNG is skipped (`feature_extraction.images.png_metadata`).
* Transparent images are composited over white. Colour profiles are not applied, as in CLIP's own
  preprocessing.
* 16-bit, 32-bit and floating-point images are scaled to 8 bits, not clipped.
* An image whose header declares more than 178,956,970 pixels is refused before it is decoded.
* An image of more than 4,194,304 pixels is downscaled by integer factors (JPEG while decoding,
  others by averaging) to at least twice the requested side. This bounds memory and time; smaller
  images are decoded exactly.

Truncated files are errors. Pillow's global settings are neither used nor changed.
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
from feature_extraction.images.colours import rgb_converter
from feature_extraction.images.decoder_messages import discard_decoder_messages
from feature_extraction.images.finding import HEIF_EXTRA
from feature_extraction.images.png_metadata import open_png

__all__ = [
    "EXACT_PIXELS",
    "MAX_PIXELS",
    "Decoded",
    "decode_image",
]

# Formats whose decoders are self-contained. EPS, for example, would start another program.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
# Major brands of ISO base media files, which distinguish HEIF from AVIF.
HEIF_BRANDS = frozenset(b"heic heim heis heix hevc hevm hevs hevx mif1 msf1".split())
AVIF_BRANDS = frozenset(b"avif avis".split())

MAX_PIXELS = 178_956_970
EXACT_PIXELS = 2**22
MIN_OVERSAMPLING = 2
BAND_PIXELS = 2**22

ORIENTATION_TAG = 0x0112
TRANSPOSE_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SWAPS_SIDES = frozenset({5, 6, 7, 8})

# Exceptions that Pillow's EXIF reader raises for damaged blocks.
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
    """A decoded photograph.

    Args:
        image: Upright RGB image; smaller than the photograph if it was downscaled.
        height: Height of the upright photograph in pixels.
        width: Width of the upright photograph in pixels.
    """

    image: Image.Image
    height: int
    width: int


def decode_image(source: Path | Image.Image, side: int) -> Decoded:
    """Decode one photograph.

    Args:
        source: File, or Pillow image.
        side: Side in pixels of the square that the image will be resized to. Very large
            photographs are downscaled to at least twice this side.

    Raises:
        ImageError: The image cannot be decoded. The message is the reason, without the path.
    """
    with warnings.catch_warnings():
        # Pillow warns about sizes that are allowed here, and about metadata that is not used.
        warnings.simplefilter("ignore")
        try:
            if isinstance(source, Image.Image):
                return _decode(source, side)
            version = _file_version(source)
            decoded = _decode_file(source, side)
            if _file_version(source) != version:
                raise ImageError("the file changed while it was read")
            return decoded
        except ImageError:
            raise
        except FileNotFoundError:
            raise ImageError("the file does not exist") from None
        except PermissionError:
            raise ImageError("no permission to read the file") from None
        except Exception as error:
            # Decoders raise almost every type of exception for corrupt data.
            raise ImageError(f"it cannot be decoded: {_reason(error)}") from error


def _file_version(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _decode_file(path: Path, side: int) -> Decoded:
    _require_content(path)
    try:
        with _open(path, open_png(path)) as image:
            return _decode(image, side)
    except Exception:
        stream = open_png(path, skip_all=True)
        if stream is None:
            raise
    # Perhaps only the metadata cannot be decoded.
    with _open(path, stream) as image:
        return _decode(image, side)


def _require_content(path: Path) -> None:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        # Opening it may block, and reading it may never end.
        raise ImageError(f"it is {file_kind(found.st_mode)}, expected a file")
    if found.st_size == 0:
        raise ImageError("the file is empty")


def _open(path: Path, stream: IO[bytes] | None) -> Image.Image:
    """Open an image from `stream` if given, otherwise from its file."""
    Image.init()
    try:
        return Image.open(stream or path, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        return _open_unidentified(path)
    except Image.DecompressionBombError:
        raise ImageError(
            f"its header declares more than the maximum of {MAX_PIXELS:,} pixels"
        ) from None


def _open_unidentified(path: Path) -> Image.Image:
    """Open a HEIF file, or raise an error that describes the file."""
    with path.open("rb") as file:
        start = file.read(12)
    box, brand = start[4:8], start[8:12]
    if box == b"ftyp" and brand in AVIF_BRANDS:
        raise ImageError(
            "it is AVIF, but damaged or not supported by this version of Pillow (11.3 supports it)"
        )
    if box != b"ftyp" or brand not in HEIF_BRANDS:
        raise ImageError(
            "it is not an image of a known format, or its header is damaged: it starts with "
            f"{start!r}"
        )
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise ImageError(f"it is HEIC, which requires an extra package: {HEIF_EXTRA}") from None
    # Registering it with Pillow would change which formats other code reads.
    open_heif: Callable[[Path], Image.Image] = HeifImageFile
    return open_heif(path)


def _decode(image: Image.Image, side: int) -> Decoded:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"its header declares {width} x {height} = {width * height:,} pixels, expected at most "
            f"{MAX_PIXELS:,}"
        )
    is_large = width * height > EXACT_PIXELS
    min_side = MIN_OVERSAMPLING * side
    # A HEIF draft would be the embedded thumbnail instead of the photograph.
    may_draft = is_large and image.format in ("JPEG", "MPO")
    drafted = image.draft(None, (min_side, min_side)) if may_draft else None
    header_size = image.size
    with discard_decoder_messages() if image.format == "TIFF" else nullcontext():
        image.load()
    if image.size != header_size:
        # Pillow applies the orientation of a TIFF while loading it.
        width, height = image.size
    orientation = _orientation(image)
    if is_large:
        extent = drafted[1][2:] if drafted else image.size
        picture = _downscale_to_rgb(image, extent, min_side)
    else:
        picture = rgb_converter(image)(image)
    if orientation in TRANSPOSE_BY_ORIENTATION:
        picture = picture.transpose(TRANSPOSE_BY_ORIENTATION[orientation])
    if orientation in SWAPS_SIDES:
        width, height = height, width
    return Decoded(picture, height, width)


def _downscale_to_rgb(
    image: Image.Image, extent: tuple[float, float], min_side: int
) -> Image.Image:
    """Downscale a large image by integer factors and convert it to RGB.

    Args:
        image: The image.
        extent: Width and height of the part that shows the photograph; a JPEG draft may be larger.
        min_side: Minimum width and height of the result.
    """
    convert = rgb_converter(image)
    across, down = (max(1, length // min_side) for length in image.size)
    cells = (-(-image.width // across), -(-image.height // down))
    picture = Image.new("RGB", cells)
    # Band by band: converted as a whole, a greyscale image would need four times its memory.
    rows = max(1, BAND_PIXELS // image.width // down) * down
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        picture.paste(convert(band).reduce((across, down)), (0, top // down))
    covered = (extent[0] / across, extent[1] / down)
    if covered == cells:
        return picture
    # The last row and column of cells may extend beyond the photograph: cut them at its edge.
    size = (max(1, int(covered[0])), max(1, int(covered[1])))
    return picture.resize(size, Image.Resampling.BICUBIC, box=(0, 0, *covered))


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except METADATA_ERRORS:
        return 1
    return value if isinstance(value, int) else 1


def _reason(error: Exception) -> str:
    # The message of an OSError also contains its number and the path.
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
