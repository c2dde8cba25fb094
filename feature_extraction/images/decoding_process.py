"""A worker process that decodes images, and the protocol between it and the extraction.

    extraction -> worker   one line per batch: the number of a slot, and paths
    worker -> extraction   one line per batch: reason of each failure, empty for decoded images

Lines are JSON and go through a socket; squares and sizes go through the memory of the slot. The
worker is a new process, not a fork: it does not hold the encoder, locks or file descriptors of the
extraction, is safe next to threads, and does not need torch. It exits when the extraction ends for
any reason, because this closes the socket.
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
from feature_extraction.images.decode import decode_image
from feature_extraction.images.finding import ImageFile
from feature_extraction.images.preprocess import prepare
from feature_extraction.spec import FeatureSpec

# N images per batch, K squares per image, S square size

__all__ = ["DecodingProcess", "Slot", "SlotLayout", "decode_into"]

# Image size in a slot while the image is being decoded.
IN_PROGRESS = -1

# Libraries start threads for arithmetic that decoding does not need.
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


class Slot(NamedTuple):
    """Memory of one batch.

    Args:
        pixels: uint8 `[N, K, 3, S, S]`.
        image_size: int32 `[N, 2]`, height and width.
    """

    pixels: NDArray[np.uint8]
    image_size: NDArray[np.int32]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SlotLayout:
    """Layout of a slot in shared memory.

    Args:
        batch_size: Images per slot.
        spec: Spec with the number and size of squares.
    """

    batch_size: int
    spec: FeatureSpec

    @property
    def slot_bytes(self) -> int:
        """Size of a slot in bytes."""
        return self._size_bytes + self.batch_size * math.prod(self._squares_shape)

    def slots(self, memory: bytearray | mmap.mmap) -> list[Slot]:
        """Divide memory into slots; a remainder is not used."""
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
    """Decode one photograph into a slot; return the reason of a failure, or an empty string."""
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
    """The extraction's handle of a worker process.

    Args:
        layout: Layout of the slots.
        memory: File descriptor of the shared memory.
    """

    def __init__(self, layout: SlotLayout, memory: int) -> None:
        own_end, worker_end = socket.socketpair()
        with own_end, worker_end:
            settings = {
                "connection": worker_end.fileno(),
                "memory": memory,
                "batch_size": layout.batch_size,
                "spec": layout.spec.to_json(),
            }
            # The worker must import the same modules as this process.
            paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, json.dumps(settings)],
                env={**os.environ, **ONE_THREAD, "PYTHONPATH": paths},
                stdin=subprocess.DEVNULL,
                pass_fds=(worker_end.fileno(), memory),
                # Only the extraction handles Ctrl-C.
                process_group=0,
            )
            self._stream = own_end.makefile("rwb")

    def decode(self, number: int, slot: Slot, files: Sequence[ImageFile]) -> list[str]:
        """Decode a batch into a slot.

        Args:
            number: Number of the slot.
            slot: The slot.
            files: Images of the batch.

        Returns:
            Reason for each image that failed; empty for decoded images.

        Raises:
            FeatureError: The process exited unexpectedly.
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
            raise FeatureError(self._describe_exit(slot, files))
        reasons: list[str] = json.loads(reply)
        return reasons

    def end(self) -> None:
        """Kill the process; it has no state that could be lost."""
        self._process.kill()
        self._process.wait()
        # A request that was not sent is no longer needed.
        with contextlib.suppress(OSError):
            self._stream.close()

    def _describe_exit(self, slot: Slot, files: Sequence[ImageFile]) -> str:
        code = self._process.wait()
        in_progress = np.flatnonzero(slot.image_size[:, 0] == IN_PROGRESS)
        where = f" while it decoded {files[in_progress[0]].path}" if in_progress.size else ""
        if code >= 0:
            how, why = f"exit code {code}", "; see its output above"
        else:
            how = f"killed by {signal.Signals(-code).name}"
            why = ", possibly because it ran out of memory"
        return (
            f"a decoding process exited unexpectedly ({how}){where}{why}. Finished batches are "
            "kept: run the same command again, with fewer --workers or a smaller --batch-size."
        )


def main() -> None:
    """Serve decoding requests until the extraction closes the connection."""
    settings = json.loads(sys.argv[1])
    spec = FeatureSpec.from_json(settings["spec"])
    layout = SlotLayout(batch_size=settings["batch_size"], spec=spec)
    slots = layout.slots(mmap.mmap(settings["memory"], 0))
    connection = socket.socket(fileno=settings["connection"])
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    with (
        contextlib.suppress(ConnectionError),
        connection,
        connection.makefile("rwb") as stream,
    ):
        for line in stream:
            number, paths = json.loads(line)
            slot, reasons = slots[number], []
            for position, path in enumerate(paths):
                # There is one request at a time, so input now means that the extraction has ended.
                if poller.poll(0):
                    return
                slot.image_size[position] = IN_PROGRESS
                reasons.append(decode_into(slot, position, path, spec))
            stream.write(json.dumps(reasons).encode() + b"\n")
            stream.flush()


if __name__ == "__main__":
    main()
