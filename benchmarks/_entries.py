"""Results of independent measurements: one may fail, or run out of memory or time."""

import gc
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import torch

__all__ = ["Entries", "Entry"]

Value = float | int | str | bool | None
Status = Literal["done", "failed", "out of memory", "no time left"]


@dataclass(frozen=True, slots=True)
class Entry:
    """Result of one measurement.

    Args:
        part: Part that it belongs to.
        name: What was measured.
        status: How it ended.
        values: Numbers by name, or the reason of a failure.
        seconds: How long it took.
    """

    part: str
    name: str
    status: Status
    values: Mapping[str, Value]
    seconds: float = 0.0


class Entries:
    """Measurements so far; each is printed as a row of a Markdown table when it is there.

    Args:
        device: Device that they use.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._part = ""
        self._deadline = 0.0
        self.all: list[Entry] = []

    @property
    def failed(self) -> bool:
        """Whether a measurement failed; lack of memory or time is not a failure."""
        return any(entry.status == "failed" for entry in self.all)

    def run(self, part: str, measure_all: Callable[[], None], *, seconds: float) -> None:
        """Run a part, which may take some seconds; what it does outside `attempt` may fail too."""
        self._part = part
        self._deadline = time.monotonic() + seconds
        started = time.monotonic()
        status, values = _outcome(measure_all)
        if status != "done":
            self._add(Entry(part, "preparation", status, values, time.monotonic() - started))

    @property
    def seconds_left(self) -> float:
        """Seconds left to the part."""
        return self._deadline - time.monotonic()

    def attempt(self, name: str, measure: Callable[[], Mapping[str, Value]]) -> None:
        """Run a measurement if there is time, and keep its result or the reason of its failure."""
        if self.seconds_left <= 0:
            self._add(Entry(self._part, name, "no time left", {}))
            return
        started = time.monotonic()
        status, values = _outcome(measure)
        self._add(Entry(self._part, name, status, values, time.monotonic() - started))
        # A failed measurement leaves its model in a cycle of frames and exceptions.
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def document(self) -> list[dict[str, object]]:
        """Return the entries for a JSON file."""
        return [asdict(entry) for entry in self.all]

    def _add(self, entry: Entry) -> None:
        if not self.all:
            print("| part | measured | result |\n|---|---|---|")
        self.all.append(entry)
        print(_row(entry), flush=True)


def _outcome(
    work: Callable[[], Mapping[str, Value] | None],
) -> tuple[Status, Mapping[str, Value]]:
    """Return how a measurement ended, and its values or the reason of its failure."""
    try:
        return "done", work() or {}
    except subprocess.TimeoutExpired:
        return "no time left", {}
    except torch.OutOfMemoryError as error:
        return "out of memory", {"reason": _first_line(error)}
    except Exception as error:  # noqa: BLE001 - whatever fails must not stop the rest
        return "failed", {"reason": _first_line(error)}


def _row(entry: Entry) -> str:
    shown = ", ".join(f"{name} {_shown(value)}" for name, value in entry.values.items())
    if entry.status != "done":
        shown = f"{entry.status}: {shown}" if shown else entry.status
    return f"| {entry.part} | {entry.name} | {shown} |"


def _shown(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]:.200}".replace("|", "/")
