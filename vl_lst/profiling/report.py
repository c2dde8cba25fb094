"""A profile as a document for machines and as tables for people."""

import importlib.metadata
import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich import box
from rich.table import Table

from vl_lst.devices import device_name
from vl_lst.profiling.measure import MethodProfile, ProfileSettings
from vl_lst.training.resources import WARM_UP_STEPS
from vl_lst.training.saved_bytes import TOTAL, UNATTRIBUTED

__all__ = ["bytes_table", "document", "parts_tables", "seconds_table", "settings_lines"]

DEFINITION = {
    "options": "all settings of the method: those of its recipe, as `vl-lst train` takes them for "
    "this backbone, changed by --set; recipe is its name, null where none is for the method",
    "trainable": "parameters that train; total counts those shared between layers once",
    "parameter_bytes": "held by all parameters and buffers, the backbone's included, a storage "
    "that several share once; quantised ones as codes and scales",
    "gradient_bytes": "of the gradients of what trains",
    "optimizer_bytes": "of AdamW's state",
    "saved_bytes": "distinct storages that autograd keeps of a forward pass for the backward pass, "
    "each counted whole and once, parameters and buffers excluded; a storage belongs to the "
    "innermost part in whose forward it was first saved, or to `elsewhere`: head and loss; what is "
    "recomputed needs its own bytes again for a moment in the backward pass",
    "training_bytes": "parameter_bytes, gradients, optimiser state and saved_bytes together",
    "peak_allocated": "torch.cuda.max_memory_allocated over training steps only, reset after "
    f"{WARM_UP_STEPS} warm-up steps, parameters included; null without CUDA",
    "seconds": "medians over steps after the warm-up; the methods take turns in one run, so only "
    "ratios mean something; optimizer holds gradient clipping, AdamW and forgetting gradients",
    "ratio": "of the median step to the first method's",
}
ESTIMATE = (
    "nothing was run: tensors had shapes and no data, and operations were chosen as on the CPU, so "
    "bytes are what the CPU would count"
)
METHODS_SIDE_BY_SIDE = 5
TERMINAL_WIDTH = 80
PACKAGES = ("vl-lst", "torch", "transformers", "peft", "torchao")


def document(profiles: Sequence[MethodProfile], settings: ProfileSettings) -> dict[str, Any]:
    """Everything that was measured and how, as JSON has it.

    Args:
        profiles: From `profile_methods`; ratios are to the first.
        settings: They were measured with.
    """
    first = profiles[0].seconds
    return {
        "schema_version": 1,
        "definition": DEFINITION | ({"estimate": ESTIMATE} if settings.estimate else {}),
        "estimate": settings.estimate,
        "backbone": settings.backbone,
        "random_weights": settings.random_weights or settings.estimate,
        "backbone_precision": settings.backbone_precision,
        "precision": settings.precision,
        "workload": asdict(settings.workload),
        "warm_up_steps": WARM_UP_STEPS,
        "steps": 0 if settings.estimate else settings.steps,
        "device": None if settings.estimate else device_name(settings.device),
        "threads": torch.get_num_threads(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "methods": [
            {
                **asdict(profile),
                "trainable_percent": profile.trainable_percent,
                "training_bytes": profile.training_bytes,
                "ratio": profile.seconds.step / first.step if profile.seconds and first else None,
            }
            for profile in profiles
        ],
    }


def bytes_table(profiles: Sequence[MethodProfile], settings: ProfileSettings) -> Table:
    """What each method holds.

    Args:
        profiles: From `profile_methods`.
        settings: They were measured with.
    """
    how = "estimated for" if settings.estimate else f"measured on {settings.device.type},"
    rows = settings.workload.batch_size
    peaks = any(profile.peak_allocated is not None for profile in profiles)
    numbers = (
        "trainable",
        "%",
        "weights",
        "grads",
        "Adam",
        "saved",
        "sum",
        *["peak"][: int(peaks)],
    )
    title = f"{settings.backbone} in {settings.backbone_precision}, {how} batch {rows}; MiB"
    table = _table(title, "method", numbers)
    for profile in profiles:
        cells = [
            profile.method,
            f"{profile.trainable:,}",
            f"{profile.trainable_percent:.2f}",
            _mebibytes(profile.parameter_bytes),
            _mebibytes(profile.gradient_bytes),
            _mebibytes(profile.optimizer_bytes),
            _mebibytes(profile.saved_bytes[TOTAL]),
            _mebibytes(profile.training_bytes),
        ]
        table.add_row(*cells, *([_mebibytes(profile.peak_allocated)] if peaks else []))
    return table


def settings_lines(profiles: Sequence[MethodProfile]) -> Iterator[str]:
    """Say for each method which settings it was measured with, and where they are from.

    Args:
        profiles: From `profile_methods`.

    Yields:
        Lines of at most `TERMINAL_WIDTH` characters.
    """
    yield "settings:"
    for profile in profiles:
        source = f"recipe {profile.recipe}" if profile.recipe else "its own defaults"
        values = {name: json.dumps(value) for name, value in profile.options.items()}
        options = ", ".join(f"{name}={value}" for name, value in values.items())
        yield from textwrap.wrap(
            f"{profile.method} ({source}): {options}",
            TERMINAL_WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )


def seconds_table(profiles: Sequence[MethodProfile]) -> Table | None:
    """How long each method's steps take, beside the first's; `None` where there were no steps.

    Args:
        profiles: From `profile_methods`.
    """
    first = profiles[0].seconds
    if first is None:
        return None
    numbers = ("examples/s", "forward", "backward", "optimiser", "step", "ratio")
    table = _table("seconds of a step, medians", "method", numbers)
    for profile in profiles:
        seconds = profile.seconds
        assert seconds is not None
        table.add_row(
            profile.method,
            f"{profile.examples_per_second:.1f}",
            f"{seconds.forward:.3f}",
            f"{seconds.backward:.3f}",
            f"{seconds.optimizer:.3f}",
            f"{seconds.step:.3f}",
            f"{seconds.step / first.step:.2f}",
        )
    return table


def parts_tables(profiles: Sequence[MethodProfile]) -> Iterator[Table]:
    """Bytes saved for backward by part, the layers of a backbone together; a few methods each.

    Args:
        profiles: From `profile_methods`.
    """
    for start in range(0, len(profiles), METHODS_SIDE_BY_SIDE):
        shown = profiles[start : start + METHODS_SIDE_BY_SIDE]
        columns = [_without_layers(profile.saved_bytes) for profile in shown]
        names = [profile.method for profile in shown]
        table = _table("saved for backward, by part; MiB", "part", names)
        parts = dict.fromkeys(part for column in columns for part in column)
        for part in [*(p for p in parts if p not in (UNATTRIBUTED, TOTAL)), UNATTRIBUTED, TOTAL]:
            label = "head and loss" if part == UNATTRIBUTED else part
            table.add_row(label, *(_mebibytes(column.get(part, 0)) for column in columns))
        yield table


def _table(title: str, first: str, numbers: Sequence[str]) -> Table:
    """Narrow enough for a terminal of 80 characters."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _without_layers(saved: dict[str, int]) -> dict[str, int]:
    together: dict[str, int] = {}
    for part, count in saved.items():
        stack = part.partition(" layer ")[0]
        together[stack] = together.get(stack, 0) + count
    return together


def _mebibytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:,.1f}"
