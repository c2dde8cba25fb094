"""Photographs: found below a folder, and decoded to upright 8-bit RGB whatever they are.

What decoding does, so that features mean what a viewer sees:

* the content decides the format, not the suffix; animations and stacks give their first frame;
* EXIF orientation is applied; a broken EXIF block is ignored;
* transparency is laid over white; colour profiles are not applied, as in CLIP's own preprocessing;
* 16-bit, 32-bit and floating-point pictures are scaled to 8 bits, not clipped;
* a picture whose header declares more than 178,956,970 pixels is refused before it is decoded;
* a picture of more than 4,194,304 pixels is reduced by whole factors (for JPEG while decoding,
  otherwise by averaging) to no less than twice the side that is asked for. This bounds memory and
  time; smaller pictures are decoded exactly.

Truncated files are errors. Pillow's global settings are neither relied on nor changed.
"""

import os
import struct
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from feature_extraction.colours import BACKGROUND, rgb_converter
from feature_extraction.errors import ImageError

__all__ = [
    "BACKGROUND",
    "EXACT_PIXELS",
    "MOST_PIXELS",
    "Decoded",
    "ImageFile",
    "decode_image",
    "find_images",
    "is_utf8",
    "walk_files",
]

SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .mpo .pbm .pgm .png .pnm .ppm .tif .tiff"
    " .webp".split()
)

# Formats whose decoders are self-contained: EPS, for one, would start another program.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")

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
class ImageFile:
    """A photograph on disk.

    There may be millions of them: what is the same for many is kept once.

    Args:
        image_id: The file name without suffix, as the datasets have it.
        folder: Where it is; files of one folder share the object.
        suffix: Of the file name, with its dot.
    """

    image_id: str
    folder: Path
    suffix: str

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / (self.image_id + self.suffix)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture in RGB, and the upright size in pixels of the photograph it came from.

    The picture itself is smaller where the photograph was reduced.
    """

    image: Image.Image
    height: int
    width: int


def find_images(folder: Path) -> list[ImageFile]:
    """Find the photographs below `folder`, sorted by id.

    A file counts when its suffix, in any case, is one images have. Names that start with a dot
    are skipped; links to folders are followed, each folder once.

    Raises:
        ImageError: There is no such folder, no image in it, two files share an id, or a name is
            not UTF-8.
    """
    if not folder.is_dir():
        found = "is not a folder" if folder.exists() else "does not exist"
        raise ImageError(f"{folder} {found}; expected a folder of images")
    files: list[ImageFile] = []
    for parent, names in _walk(folder):
        for name in names:
            image_id, suffix = os.path.splitext(name)
            if suffix.lower() not in SUFFIXES:
                continue
            if not is_utf8(image_id):
                raise ImageError(
                    f"the file name {os.fsencode(parent / name)!r} is not UTF-8, so it cannot be "
                    "an image id; rename the file"
                )
            files.append(ImageFile(image_id, parent, sys.intern(suffix)))
    files.sort(key=attrgetter("image_id"))
    for one, other in pairwise(files):
        if one.image_id == other.image_id:
            raise ImageError(
                f"two files have the id {one.image_id!r}: {one.path} and {other.path}. Ids are "
                "file names without suffix and must differ: rename or remove one."
            )
    if not files:
        raise ImageError(
            f"no images in {folder} or below it; expected files that end in "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    return files


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
            with _open(source) as image:
                decoded = _decode(image, side)
            if _version(source) != before:
                raise ImageError("the file changed while it was read")
            return decoded
        except ImageError:
            raise
        except FileNotFoundError:
            raise ImageError("the file is no longer there") from None
        except Exception as error:
            # Decoders meet corrupt data with nearly every type of exception.
            raise ImageError(f"it cannot be decoded: {_reason(error)}") from error


def _version(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _open(path: Path) -> Image.Image:
    if path.stat().st_size == 0:
        raise ImageError("the file is empty")
    Image.init()
    try:
        return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        with path.open("rb") as file:
            start = file.read(12)
        raise ImageError(
            f"it is not an image of a known format; it starts with {start!r}"
        ) from None
    except Image.DecompressionBombError:
        raise ImageError(
            f"its header declares more than {MOST_PIXELS:,} pixels, the most that are decoded"
        ) from None


def _decode(image: Image.Image, side: int) -> Decoded:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ImageError(
            f"its header declares {width} x {height} = {width * height:,} pixels; at most "
            f"{MOST_PIXELS:,} are decoded"
        )
    is_large = width * height > EXACT_PIXELS
    least = LEAST_OVERSAMPLING * side
    drafted = image.draft(None, (least, least)) if is_large else None
    header_size = image.size
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


def walk_files(folder: Path) -> Iterator[Path]:
    """Go through the files below a folder in a fixed order, as `find_images` does."""
    for parent, names in _walk(folder):
        for name in names:
            yield parent / name


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        identity = os.stat(parent)
        if (identity.st_dev, identity.st_ino) in seen:
            folders.clear()
            continue
        seen.add((identity.st_dev, identity.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files.sort()
        yield Path(parent), [name for name in files if not name.startswith(".")]


def is_utf8(text: str) -> bool:
    """Whether a file name, as Python gives it, is text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
