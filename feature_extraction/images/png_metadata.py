"""Skip the metadata of PNG files that Pillow refuses or that would fill memory.

Text chunks and colour profiles of a PNG may have any length, compressed or not; image generators
store whole workflows in them. They are not used here, except that a small text chunk may hold the
orientation. Oversized chunks are skipped; a file without any is read directly. Damaged metadata
also stops the decoder: such a file is read without metadata, except for an orientation with a valid
checksum.
"""

import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

__all__ = ["open_png"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Length and type before the content of a chunk, and the checksum after it.
HEAD_BYTES, CHECKSUM_BYTES = 8, 4
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
COMPRESSED = (b"zTXt", b"iTXt", b"iCCP")
END = b"IEND"
# Pillow refuses a compressed chunk larger than 1 MiB after decompression, and more than 64 MiB of
# text in total.
MAX_CHUNK_BYTES = 2**20 - 1
MAX_TEXT_BYTES = 2**24
# Ancillary chunks that affect the pixels.
PIXEL_CHUNKS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")
ORIENTATION = b"eXIf"
# Chunks that are never skipped for their length.
KEPT = (b"fdAT", ORIENTATION)
ANCILLARY_BIT = 0x20


def open_png(path: Path, *, skip_all: bool = False) -> IO[bytes] | None:
    """Open a PNG file as a stream without its oversized metadata.

    Args:
        path: The file.
        skip_all: Skip all metadata, not only oversized chunks.

    Returns:
        The stream; `None` if the file is not a PNG or no chunk is skipped.

    Raises:
        OSError: The file cannot be read.
    """
    # Unbuffered, because only the headers of chunks are needed.
    with path.open("rb", buffering=0) as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            return None
        skipped = _metadata_chunks(file) if skip_all else _oversized_chunks(file)
    return io.BufferedReader(_FileWithoutRanges(path, skipped)) if skipped else None


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of each chunk before `IEND`; the file is at the chunk's content."""
    start = file.tell()
    end = os.fstat(file.fileno()).st_size
    while True:
        head = file.read(HEAD_BYTES)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        after = start + HEAD_BYTES + length + CHECKSUM_BYTES
        if not kind.isalpha() or kind == END or after > end:
            # The end of the file, or damage that the decoder reports.
            return
        yield kind, start, after
        file.seek(after)
        start = after


def _metadata_chunks(file: IO[bytes]) -> list[tuple[int, int]]:
    """Return start and end of each chunk that does not affect the pixels, in order."""
    skipped: list[tuple[int, int]] = []
    for kind, start, after in _chunks(file):
        if not kind[0] & ANCILLARY_BIT or kind in PIXEL_CHUNKS:
            continue
        length = after - start - HEAD_BYTES - CHECKSUM_BYTES
        if kind == ORIENTATION and length <= MAX_CHUNK_BYTES:
            content = file.read(length)
            if zlib.crc32(kind + content) == int.from_bytes(file.read(CHECKSUM_BYTES), "big"):
                continue
        skipped.append((start, after))
    return skipped


def _oversized_chunks(file: IO[bytes]) -> list[tuple[int, int]]:
    """Return start and end of each chunk that is too large, in order."""
    skipped: list[tuple[int, int]] = []
    text_bytes = 0
    for kind, start, after in _chunks(file):
        size = length = after - start - HEAD_BYTES - CHECKSUM_BYTES
        # Beyond the limit chunks are not decompressed: each may be a decompression bomb.
        if kind in COMPRESSED and length <= MAX_CHUNK_BYTES and text_bytes <= MAX_TEXT_BYTES:
            size = _decompressed_size(kind, file.read(length))
        if kind in TEXTS:
            text_bytes += min(size, MAX_CHUNK_BYTES + 1)
        is_too_large = size > MAX_CHUNK_BYTES
        if kind in TEXTS or kind in COMPRESSED:
            is_too_large = is_too_large or text_bytes > MAX_TEXT_BYTES
        if is_too_large and kind[0] & ANCILLARY_BIT and kind not in KEPT:
            skipped.append((start, after))
    return skipped


def _decompressed_size(kind: bytes, content: bytes) -> int:
    """Return the size of a chunk's content after decompression, which stops above the limit."""
    _, _, rest = content.partition(b"\0")
    if kind == b"iTXt":
        if rest[:1] == b"\0":
            return len(content)
        # Compression method, language and translated keyword.
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        rest = rest[1:]
    try:
        return len(zlib.decompressobj().decompress(rest, MAX_CHUNK_BYTES + 1))
    except zlib.error:
        return len(content)


class _FileWithoutRanges(io.RawIOBase):
    """A file without some ranges of its bytes.

    Args:
        path: The file.
        skipped: Start and end of each range, in order.
    """

    def __init__(self, path: Path, skipped: list[tuple[int, int]]) -> None:
        self._file = path.open("rb", buffering=0)
        size = os.fstat(self._file.fileno()).st_size
        starts = [0, *(end for _, end in skipped)]
        ends = [*(start for start, _ in skipped), size]
        self._parts = [part for part in zip(starts, ends, strict=True) if part[0] < part[1]]
        self._size = sum(end - start for start, end in self._parts)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        before = 0
        for start, end in self._parts:
            if self._position < before + end - start:
                place = start + self._position - before
                view = memoryview(buffer)[: end - place]
                count = os.preadv(self._file.fileno(), [view], place)
                self._position += count
                return count
            before += end - start
        return 0

    def close(self) -> None:
        self._file.close()
        super().close()
