"""A process that decodes: what it does, and how the extraction talks to it.

    extraction -> process   one line per batch: the number of a slot, and paths
    process -> extraction   one line per batch: why each image failed, empty where it did not

Lines are JSON and go through a socket; squares and sizes go through the memory of the slot. The
process is started afresh, not forked: it holds neither the tower nor any lock or handle of the
extraction's, it is safe whatever threads that has, and needs no torch. It ends when the extraction
does, however that ends: the socket is then closed.
"""

import contextlib
import dataclasses
import json
import math
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import FeatureError, ImageError, stored_reason
from feature_extraction.images.decode import ImageFile, decode_image
from feature_extraction.images.preprocess import prepare
from feature_extraction.spec import FeatureSpec

# N images of a batch, K squares of one image, S side of a square

__all__ = ["DecodingProcess", "Geometry", "Slot", "decode_into"]

UNDER_WAY = -1

# Libraries start threads for arithmetic that decoding does not do.
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


class Slot(NamedTuple):
    """Where a batch is put.

    Args:
        pixels: uint8 `[N, K, 3, S, S]`.
        image_size: int32 `[N, 2]`, height and width.
    """

    pixels: NDArray[np.uint8]
    image_size: NDArray[np.int32]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """What goes into a slot.

    Args:
        batch_size: Images.
        spec: How photographs become squares.
    """

    batch_size: int
    spec: FeatureSpec

    @property
    def slot_bytes(self) -> int:
        """Memory of one slot."""
        return self._size_bytes + self.batch_size * math.prod(self._squares_shape)

    def slots(self, memory: bytearray | mmap.mmap) -> list[Slot]:
        """Divide memory into as many slots as it has room for."""
        return [
            self._slot(memory, start)
            for start in range(0, len(memory) - self.slot_bytes + 1, self.slot_bytes)
        ]

    @property
    def _size_bytes(self) -> int:
        return self.batch_size * 2 * np.dtype(np.int32).itemsize

    @property
    def _squares_shape(self) -> tuple[int, ...]:
        return self.spec.squares, 3, self.spec.image_size, self.spec.image_size

    def _slot(self, memory: bytearray | mmap.mmap, start: int) -> Slot:
        shape = (self.batch_size, *self._squares_shape)
        size_N2 = np.frombuffer(memory, np.int32, self.batch_size * 2, start)
        pixels_NK3SS = np.frombuffer(memory, np.uint8, math.prod(shape), start + self._size_bytes)
        return Slot(pixels_NK3SS.reshape(shape), size_N2.reshape(-1, 2))


def decode_into(slot: Slot, position: int, path: str, spec: FeatureSpec) -> str:
    """Decode one photograph into its place; return why it failed, nothing where it did not."""
    reason, size = "", (0, 0)
    try:
        decoded = decode_image(Path(path), spec.decoded_side)
    except ImageError as error:
        slot.pixels[position] = 0
        reason = stored_reason(error)
    else:
        slot.pixels[position] = prepare(decoded, spec.image_size, spec.resize, spec.crops)
        size = (decoded.height, decoded.width)
    slot.image_size[position] = size
    return reason


class DecodingProcess:
    """The extraction's end.

    Args:
        geometry: Of the slots.
        memory: File descriptor of the memory they are in.
    """

    def __init__(self, geometry: Geometry, memory: int) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            settings = {
                "connection": theirs.fileno(),
                "memory": memory,
                "batch_size": geometry.batch_size,
                "spec": geometry.spec.to_json(),
            }
            # It must find what this process imports, where this process finds it.
            paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, json.dumps(settings)],
                env={**os.environ, **ONE_THREAD, "PYTHONPATH": paths},
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), memory),
                # Ctrl-C on a terminal is left to the extraction.
                process_group=0,
            )
            self._stream = ours.makefile("rwb")

    def decode(self, number: int, slot: Slot, files: Sequence[ImageFile]) -> list[str]:
        """Let it fill a slot; return why each image failed, empty for those that did not.

        Args:
            number: Which slot.
            slot: The same, as this process sees it.
            files: The batch.

        Raises:
            FeatureError: The process died.
        """
        slot.image_size[:] = 0
        request = json.dumps([number, [str(file.path) for file in files]])
        try:
            self._stream.write(request.encode() + b"\n")
            self._stream.flush()
            reply = self._stream.readline()
        except OSError:
            reply = b""
        if not reply:
            raise FeatureError(self._obituary(slot, files))
        reasons: list[str] = json.loads(reply)
        return reasons

    def end(self) -> None:
        """End it at once: it holds nothing that would be lost."""
        self._process.kill()
        self._process.wait()
        # What could not be sent to it is of no use any more.
        with contextlib.suppress(OSError):
            self._stream.close()

    def _obituary(self, slot: Slot, files: Sequence[ImageFile]) -> str:
        code = self._process.wait()
        at = np.flatnonzero(slot.image_size[:, 0] == UNDER_WAY)
        where = f" at {files[at[0]].path}" if at.size else ""
        if code >= 0:
            how, why = f"exit code {code}", "; what it printed says why"
        else:
            how, why = f"killed by {signal.Signals(-code).name}", ", perhaps for lack of memory"
        return (
            f"a decoding process died ({how}){where}{why}. What is done is kept: run the same "
            "command again, with fewer --workers or a smaller --batch-size."
        )


def main() -> None:
    """Decode what is asked for until nobody is there to ask."""
    settings = json.loads(sys.argv[1])
    spec = FeatureSpec.from_json(settings["spec"])
    geometry = Geometry(batch_size=settings["batch_size"], spec=spec)
    slots = geometry.slots(mmap.mmap(settings["memory"], 0))
    connection = socket.socket(fileno=settings["connection"])
    news = select.poll()
    news.register(connection, select.POLLIN)
    with (
        contextlib.suppress(ConnectionError),
        connection,
        connection.makefile("rwb") as stream,
    ):
        for line in stream:
            number, paths = json.loads(line)
            slot, reasons = slots[number], []
            for position, path in enumerate(paths):
                # There is one request at a time: news now can only be that the other end is gone.
                if news.poll(0):
                    return
                slot.image_size[position] = UNDER_WAY
                reasons.append(decode_into(slot, position, path, spec))
            stream.write(json.dumps(reasons).encode() + b"\n")
            stream.flush()


if __name__ == "__main__":
    main()
