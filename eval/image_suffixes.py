"""Suffixes of image files, which are no part of an image's id."""

__all__ = ["COMMON_SUFFIXES", "HEIF_SUFFIXES", "IMAGE_SUFFIXES"]

COMMON_SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .mpo .pbm .pgm .png .pnm .ppm .tif .tiff"
    " .webp".split()
)
# Read only where `pillow-heif` is installed.
HEIF_SUFFIXES = frozenset(".heic .heics .heif .heifs .hif".split())
IMAGE_SUFFIXES = COMMON_SUFFIXES | HEIF_SUFFIXES
