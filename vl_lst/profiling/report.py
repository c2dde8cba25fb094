"""A profile as JSON and as tables."""

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

__all__ = [
    "bytes_table",
    "inference_table",
    "parts_tables",
    "profile_document",
    "seconds_table",
    "settings_lines",
]

DEFINITION = {
    "options": "all options of the method: those of the recipe that `vl-lst train` uses for this "
    "backbone, changed by --set; recipe is its name, null if the method has no recipe",
    "backbone_precision": "precision of the backbone's weights for all methods but those whose own "
    "backbone_precision is another",
    "recompute": "whether blocks save only their input and run again in the backward pass "
    "(gradient checkpointing); null if the method has no such option",
    "head": "head that was measured: generate, or classify if the backbone has no decoder",
    "trainable": "number of trainable parameters; total is the number of all parameters, those "
    "shared between layers counted once",
    "parameter_bytes": "size of all parameters and buffers, the backbone's included; a shared "
    "storage counts once, quantized weights count as codes and scales",
    "gradient_bytes": "size of the gradients",
    "optimizer_bytes": "size of the state that the optimizer keeps between steps",
    "saved_bytes": "distinct storages that autograd saves in the forward pass for the backward "
    "pass, each counted once and in full, without parameters and buffers; a storage belongs to the "
    "innermost part whose forward saved it first, or to `elsewhere`: head and loss; recomputed "
    "activations take their bytes again for a moment in the backward pass",
    "training_bytes": "sum of parameter_bytes, gradient_bytes, optimizer_bytes and saved_bytes",
    "peak_allocated": "torch.cuda.max_memory_allocated over training steps only, reset after "
    f"{WARM_UP_STEPS} warm-up steps, parameters included; null without CUDA",
    "seconds": "medians over the steps after warm-up; the methods take turns in one run, so only "
    "ratios are meaningful; optimizer includes gradient clipping and freeing the gradients",
    "checkpoint_bytes": "size of the tensors that a checkpoint stores of the model",
    "inference_bytes": "parameter_bytes plus the peak of what answering the batch allocates: on "
    "CUDA that of torch's allocator, elsewhere the bytes of the tensors that are alive at the same "
    "time; a ladder runs the backbone and its side network; null without steps",
    "seconds_per_answer": "median seconds of answering the batch by greedy search with "
    "workload.answer_tokens tokens, or by picking from the answers, divided by the batch size; "
    "null without steps",
    "ratio": "median step divided by that of the first method",
}
ESTIMATE = (
    "counted without running the model: tensors had shapes but no data, and operations were chosen "
    "as on the CPU, so the bytes are those of the CPU"
)
# Explains the mark behind the name of a method.
RECOMPUTED = "* blocks recomputed in the backward pass, one at a time"
TWO_NETWORKS = "memory includes weights; a ladder runs the backbone and its side network"
METHODS_PER_TABLE = 5
TERMINAL_WIDTH = 80
PACKAGES = ("vl-lst", "torch", "transformers", "peft", "torchao")


def profile_document(
    profiles: Sequence[MethodProfile], settings: ProfileSettings
) -> dict[str, Any]:
    """Return a profile, its settings and definitions as a JSON document.

    Args:
        profiles: Profiles from `profile_methods`; ratios are relative to the first one.
        settings: Settings of the profile.
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
        "tf32": settings.tf32,
        "optimizer": settings.optimizer.name,
        "workload": asdict(settings.workload),
        "warm_up_steps": WARM_UP_STEPS,
        "steps": 0 if settings.estimate else settings.steps,
        "device": None if settings.estimate else device_name(settings.device),
        "threads": torch.get_num_threads(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "methods": [
            {
                **asdict(profile),
                "recompute": profile.recomputes,
                "head": {"kind": profile.head.kind, "answers": profile.head.answers},
                "trainable_percent": profile.trainable_percent,
                "training_bytes": profile.training_bytes,
                "ratio": profile.seconds.step / first.step if profile.seconds and first else None,
            }
            for profile in profiles
        ],
    }


def bytes_table(profiles: Sequence[MethodProfile], settings: ProfileSettings) -> Table:
    """Return a table of the memory of each method.

    Args:
        profiles: Profiles from `profile_methods`.
        settings: Settings of the profile.
    """
    how = "estimated for" if settings.estimate else f"measured on {settings.device.type},"
    rows = settings.workload.batch_size
    has_peaks = any(profile.peak_allocated is not None for profile in profiles)
    numbers = (
        "trainable",
        "%",
        "weights",
        "grads",
        "optim.",
        "saved",
        "sum",
        *["peak"][: int(has_peaks)],
    )
    title = (
        f"{settings.backbone} in {_precisions(profiles)}, {settings.optimizer.name}, {how} batch "
        f"{rows}; MiB"
    )
    table = _table(title, "method", numbers)
    if any(profile.recomputes for profile in profiles):
        table.caption, table.caption_justify = RECOMPUTED, "left"
    for profile in profiles:
        cells = [
            _label(profile),
            f"{profile.trainable:,}",
            f"{profile.trainable_percent:.2f}",
            _mebibytes(profile.parameter_bytes),
            _mebibytes(profile.gradient_bytes),
            _mebibytes(profile.optimizer_bytes),
            _mebibytes(profile.saved_bytes[TOTAL]),
            _mebibytes(profile.training_bytes),
        ]
        table.add_row(*cells, *([_mebibytes(profile.peak_allocated)] if has_peaks else []))
    return table


def settings_lines(profiles: Sequence[MethodProfile], settings: ProfileSettings) -> Iterator[str]:
    """Yield the head if it classifies, and the options of each method with their source.

    Args:
        profiles: Profiles from `profile_methods`.
        settings: Settings of the profile.

    Yields:
        Lines of at most `TERMINAL_WIDTH` characters.
    """
    head = profiles[0].head
    if head.kind == "classify":
        yield f"head: classify, from {head.answers:,} answers (the backbone has no decoder)"
    yield "options:"
    for profile in profiles:
        source = f"recipe {profile.recipe}" if profile.recipe else "defaults"
        if profile.backbone_precision != settings.backbone_precision:
            source += f", backbone in {profile.backbone_precision}"
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
    """Return a table of the time of each method's steps; `None` without steps.

    Args:
        profiles: Profiles from `profile_methods`; ratios are relative to the first one.
    """
    first = profiles[0].seconds
    if first is None:
        return None
    numbers = ("examples/s", "forward", "backward", "optimizer", "step", "ratio")
    table = _table("seconds per step, medians", "method", numbers)
    for profile in profiles:
        seconds = profile.seconds
        assert seconds is not None
        table.add_row(
            _label(profile),
            f"{profile.examples_per_second:.1f}",
            f"{seconds.forward:.3f}",
            f"{seconds.backward:.3f}",
            f"{seconds.optimizer:.3f}",
            f"{seconds.step:.3f}",
            f"{seconds.step / first.step:.2f}",
        )
    return table


def inference_table(profiles: Sequence[MethodProfile], settings: ProfileSettings) -> Table | None:
    """Return a table of what using each method costs; `None` without steps.

    Args:
        profiles: Profiles from `profile_methods`; ratios are relative to the first one.
        settings: Settings of the profile.
    """
    first = profiles[0].seconds_per_answer
    if first is None:
        return None
    workload, head = settings.workload, profiles[0].head
    what = f"{workload.answer_tokens} tokens" if head.kind == "generate" else "one pick"
    table = _table(
        f"inference, batch {workload.batch_size}, {what} per answer; MiB",
        "method",
        ("checkpoint", "weights", "memory", "ms per example", "ratio"),
    )
    table.caption, table.caption_justify = TWO_NETWORKS, "left"
    for profile in profiles:
        seconds = profile.seconds_per_answer
        assert seconds is not None
        table.add_row(
            _label(profile),
            _mebibytes(profile.checkpoint_bytes),
            _mebibytes(profile.parameter_bytes),
            _mebibytes(profile.inference_bytes),
            f"{1000 * seconds:.2f}",
            f"{seconds / first:.2f}",
        )
    return table


def parts_tables(profiles: Sequence[MethodProfile]) -> Iterator[Table]:
    """Yield tables of the bytes saved for the backward pass by part, for a few methods each.

    The layers of a backbone are added up.

    Args:
        profiles: Profiles from `profile_methods`.
    """
    for start in range(0, len(profiles), METHODS_PER_TABLE):
        shown = profiles[start : start + METHODS_PER_TABLE]
        columns = [_without_layers(profile.saved_bytes) for profile in shown]
        names = [_label(profile) for profile in shown]
        table = _table("saved for backward, by part; MiB", "part", names)
        parts = dict.fromkeys(part for column in columns for part in column)
        for part in [*(p for p in parts if p not in (UNATTRIBUTED, TOTAL)), UNATTRIBUTED, TOTAL]:
            label = "head and loss" if part == UNATTRIBUTED else part
            table.add_row(label, *(_mebibytes(column.get(part, 0)) for column in columns))
        yield table


def _label(profile: MethodProfile) -> str:
    return f"{profile.method}{RECOMPUTED[0] if profile.recomputes else ''}"


def _precisions(profiles: Sequence[MethodProfile]) -> str:
    """Return the precision of the backbone, or with several, the methods of each."""
    methods: dict[str, list[str]] = {}
    for profile in profiles:
        names = methods.setdefault(profile.backbone_precision, [])
        if profile.method not in names:
            names.append(profile.method)
    if len(methods) == 1:
        return next(iter(methods))
    usual, *others = sorted(methods, key=lambda precision: -len(methods[precision]))
    exceptions = [f"{name}: {each}" for each in others for name in methods[each]]
    return f"{usual} ({', '.join(exceptions)})"


def _table(title: str, first: str, numbers: Sequence[str]) -> Table:
    """Return an empty table that is narrow enough for 80 characters."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _without_layers(saved: dict[str, int]) -> dict[str, int]:
    merged: dict[str, int] = {}
    for part, count in saved.items():
        stack = part.partition(" layer ")[0]
        merged[stack] = merged.get(stack, 0) + count
    return merged


def _mebibytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:,.1f}"
