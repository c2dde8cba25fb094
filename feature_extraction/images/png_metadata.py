"""PNG files without the metadata that Pillow refuses or that would fill the memory.

Text and colour profiles of a PNG may be of any length, compressed or not; image generators store
whole workflows in them. None of it is used here, except that small texts may hold an orientation. A
file that has too much is read as if the chunks in question were not there; of other files nothing
changes. Damaged metadata stops the decoder as well: such a file is read without any of it but an
orientation whose checksum is right.
"""

import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

__all__ = ["open_png"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Length and type before the content of a chunk, a checksum behind it.
HEAD_BYTES, CHECKSUM_BYTES = 8, 4
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
COMPRESSED = (b"zTXt", b"iTXt", b"iCCP")
END = b"IEND"
# Pillow refuses a compressed chunk that becomes larger than 1 MiB, and 64 MiB of text in all.
MAX_CHUNK_BYTES = 2**20 - 1
MAX_TEXT_BYTES = 2**24
# These hold pixels,
PIXELS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")
ORIENTATION = b"eXIf"
# and these must stay however long they are.
KEPT = (b"fdAT", ORIENTATION)
ANCILLARY = 0x20


def open_png(path: Path, *, is_bare: bool = False) -> IO[bytes] | None:
    """Open a PNG file without its overlong metadata; `None` where there is nothing to leave out.

    Args:
        path: The file.
        is_bare: Leave out all metadata, not only what is too long.

    Raises:
        OSError: The file cannot be read.
    """
    # A buffer would read the whole file, of which only the heads of chunks are wanted.
    with path.open("rb", buffering=0) as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            return None
        skipped = _metadata_chunks(file) if is_bare else _overlong_chunks(file)
    return io.BufferedReader(_WithoutParts(path, skipped)) if skipped else None


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each chunk before the last; the file is at its content."""
    start = file.tell()
    end = os.fstat(file.fileno()).st_size
    while True:
        head = file.read(HEAD_BYTES)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        after = start + HEAD_BYTES + length + CHECKSUM_BYTES
        if not kind.isalpha() or kind == END or after > end:
            # Damaged or cut short, where it is not the end: the decoder says so.
            return
        yield kind, start, after
        file.seek(after)
        start = after


def _metadata_chunks(file: IO[bytes]) -> list[tuple[int, int]]:
    """Return start and end of each chunk that pixels do not need, in their order."""
    skipped: list[tuple[int, int]] = []
    for kind, start, after in _chunks(file):
        if not kind[0] & ANCILLARY or kind in PIXELS:
            continue
        length = after - start - HEAD_BYTES - CHECKSUM_BYTES
        if kind == ORIENTATION and length <= MAX_CHUNK_BYTES:
            content = file.read(length)
            if zlib.crc32(kind + content) == int.from_bytes(file.read(CHECKSUM_BYTES), "big"):
                continue
        skipped.append((start, after))
    return skipped


def _overlong_chunks(file: IO[bytes]) -> list[tuple[int, int]]:
    """Return start and end of each chunk that must be left out, in their order."""
    skipped: list[tuple[int, int]] = []
    text_bytes = 0
    for kind, start, after in _chunks(file):
        size = length = after - start - HEAD_BYTES - CHECKSUM_BYTES
        # What is beyond the bound is left out without a look: it may be one bomb after another.
        if kind in COMPRESSED and length <= MAX_CHUNK_BYTES and text_bytes <= MAX_TEXT_BYTES:
            size = _unpacked_bytes(kind, file.read(length))
        if kind in TEXTS:
            text_bytes += min(size, MAX_CHUNK_BYTES + 1)
        is_too_long = size > MAX_CHUNK_BYTES
        if kind in TEXTS or kind in COMPRESSED:
            is_too_long = is_too_long or text_bytes > MAX_TEXT_BYTES
        if is_too_long and kind[0] & ANCILLARY and kind not in KEPT:
            skipped.append((start, after))
    return skipped


def _unpacked_bytes(kind: bytes, content: bytes) -> int:
    """Return the size of a chunk's content, decompressed as far as the limit where it is."""
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


class _WithoutParts(io.RawIOBase):
    """A file as it would be without some parts of it.

    Args:
        path: The file.
        skipped: Start and end of each part, in their order.
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
