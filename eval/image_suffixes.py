"""File name suffixes of images, which are not part of an image ID."""

__all__ = ["COMMON_SUFFIXES", "HEIF_SUFFIXES", "IMAGE_SUFFIXES"]

COMMON_SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .mpo .pbm .pgm .png .pnm .ppm .tif .tiff"
    " .webp".split()
)
# Require `pillow-heif`.
HEIF_SUFFIXES = frozenset(".heic .heics .heif .heifs .hif".split())
IMAGE_SUFFIXES = COMMON_SUFFIXES | HEIF_SUFFIXES
