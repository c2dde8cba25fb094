"""The parts of `gpu.py`. Each takes measurements that do not depend on each other."""

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import extraction
import generation
import reference_parity
import torch
from _entries import Entries, Value
from _step_rows import VOCABULARY, Row, StepBench, tiny_config, tiny_workload

from feature_extraction.cores import usable_cores
from feature_extraction.encoders.encoder import build_encoder
from feature_extraction.extract import extract
from feature_extraction.images.finding import find_images
from feature_extraction.pipeline import default_workers
from vl_lst.backbones.quantization import BackbonePrecision
from vl_lst.backbones.random_weights import backbone_config
from vl_lst.choices import ArithmeticPrecision
from vl_lst.devices import autocast
from vl_lst.profiling.workload import Workload
from vl_lst.recipes import read_recipe_file

__all__ = ["PARTS", "Setting"]

REPOSITORY = Path(__file__).resolve().parents[1]
MIB = 2**20
# In test files: a test for CUDA alone, or one that runs on each device.
MARKED = re.compile(r"mark\.gpu|on_devices")
PRECISIONS: tuple[ArithmeticPrecision, ...] = ("fp32", "bf16")
# Orders of addition differ between devices; an error in the arithmetic is far larger.
FP32_DIFFERENCE, FP32_GRADIENT_DIFFERENCE = 1e-3, 1e-2
STEPS = 3
# Lengths of the paper's experiments on text.
TEXT_BATCH, TEXT_TOKENS = 100, 128
ANSWER_TOKENS = 19
ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all parts share.

    Args:
        device: Device to measure on.
        tiny: Whether to take tiny sizes, which run in an instant.
        folder: Empty folder for files.
    """

    device: torch.device
    tiny: bool
    folder: Path


def run_tests(setting: Setting, entries: Entries) -> None:
    """Run the tests that are marked `gpu`, and count the results."""
    files = [
        path
        for path in sorted((REPOSITORY / "tests").rglob("test_*.py"))
        if MARKED.search(path.read_text())
    ][: 1 if setting.tiny else None]

    def measure() -> Mapping[str, Value]:
        options = ("-m", "gpu", "-q", "--no-header")
        command = [sys.executable, "-m", "pytest", *options, *map(str, files)]
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=entries.seconds_left,
            check=False,
        )
        lines = done.stdout.strip().splitlines() or ["no output"]
        found = {kind: int(count) for count, kind in re.findall(r"(\d+) (\w+)", lines[-1])}
        if done.returncode:
            failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
            raise RuntimeError("; ".join([*failures, lines[-1]]))
        return {"passed": found.get("passed", 0), "skipped": found.get("skipped", 0)}

    entries.attempt(f"{len(files)} files of tests", measure)


def compare_with_reference(setting: Setting, entries: Entries) -> None:
    """Compare with the recorded numbers, in each precision."""
    paths = sorted((REPOSITORY / "tests" / "golden" / "lst").glob("*.safetensors"))
    paths = [path for path in paths if "pruning" not in path.name]
    if setting.tiny:
        paths = [path for path in paths if path.stem in ("a_vqa_r4", "g_full")]

    def measure(path: Path, precision: ArithmeticPrecision) -> Mapping[str, Value]:
        with autocast(precision, setting.device):
            found: Any = reference_parity.compare_fixture(
                path, "eager", torch.float32, setting.device
            )
        differences = {name: each for name, each in found["max_abs"].items() if each is not None}
        if precision == "fp32" and (
            max(differences.values()) > FP32_DIFFERENCE
            or found["max_rel_grad"] > FP32_GRADIENT_DIFFERENCE
        ):
            raise ValueError(f"differs from the recording: {differences}")
        return {
            "logits": differences["logits"],
            "largest": max(differences.values()),
            "gradients": found["max_rel_grad"],
            "same greedy": found["greedy_equal"],
            "same beams": found["beam_equal"],
        }

    for precision in PRECISIONS:
        for path in paths:
            entries.attempt(f"{path.stem}, {precision}", partial(measure, path, precision))


def measure_steps(setting: Setting, entries: Entries) -> None:
    """Measure memory and time of training steps of several methods."""
    kept, recomputed = {"recompute": False}, {"recompute": True}
    bf16: dict[str, Any] = {"precision": "bf16", "backbone_precision": "bf16"}
    states: dict[str, Any] = {"method": "lst", "options": kept, "states": True}
    nf4: dict[str, Any] = {"precision": "bf16", "backbone_precision": "nf4"}
    # What trains stays in fp32, so a method that trains the backbone has it in fp32.
    rows = (
        Row(name="lst, bf16", method="lst", options=kept, **bf16),
        Row(name="lst recomputed, bf16", method="lst", options=recomputed, **bf16),
        Row(name="lst + states, bf16", **states, **bf16),
        Row(name="lst, fp32", method="lst", options=kept),
        Row(name="lst, tf32", method="lst", options=kept, tf32=True),
        Row(name="lst recomputed, fp32", method="lst", options=recomputed),
        Row(name="lst + states, fp32", **states),
        Row(name="full, bf16", method="full", options=kept, precision="bf16"),
        Row(name="full + checkpointing, bf16", method="full", options=recomputed, precision="bf16"),
        Row(name="full, fp32", method="full", options=kept),
        Row(name="full, tf32", method="full", options=kept, tf32=True),
        Row(name="lora, bf16", method="lora", options=kept, **bf16),
        Row(name="lora, fp32", method="lora", options=kept),
        Row(name="qlora, nf4", method="qlora", options=kept, **nf4),
        Row(name="stock full, bf16", precision="bf16"),
        Row(name="stock full, fp32"),
    )
    config = tiny_config() if setting.tiny else backbone_config("t5-base", vocabulary=VOCABULARY)
    for batch_size in (2,) if setting.tiny else (16, 300):
        workload = tiny_workload() if setting.tiny else Workload(batch_size=batch_size)
        bench = StepBench(*config, workload, setting.device)
        for row in rows:
            name = f"{row.name}, batch {workload.batch_size}"
            entries.attempt(name, partial(_measure_row, bench, row))


def measure_compilation(setting: Setting, entries: Entries) -> None:
    """Measure steps whose blocks are compiled, next to the same without."""
    config = tiny_config() if setting.tiny else backbone_config("t5-base", vocabulary=VOCABULARY)
    # The compiler of the CPU needs a C++ compiler, and minutes.
    compiler = "eager" if setting.tiny else "inductor"
    for batch_size in (2,) if setting.tiny else (16, 300):
        workload = tiny_workload() if setting.tiny else Workload(batch_size=batch_size)
        bench = StepBench(*config, workload, setting.device, compiler)
        for method in ("lst",) if setting.tiny else ("lst", "full"):
            for compiled in (False, True):
                row = Row(
                    name=method,
                    method=method,
                    options={"recompute": False},
                    precision="bf16",
                    backbone_precision="bf16" if method == "lst" else "fp32",
                    compiled=compiled,
                )
                how = "compiled" if compiled else "not compiled"
                name = f"{method}, bf16, {how}, batch {workload.batch_size}"
                entries.attempt(name, partial(_measure_row, bench, row))


def measure_large(setting: Setting, entries: Entries) -> None:
    """Measure a ladder next to T5-3B on texts: of the last layer, as in the paper, and of all."""
    options = read_recipe_file("glue-lst-paper-3b")["method"]["options"] | {"recompute": False}
    last = {} if not setting.tiny else {"encoder_layers": [1], "decoder_layers": [1]}
    ladders = {
        "last layer": {**options, **last},
        "all layers": {**options, "encoder_layers": None, "decoder_layers": None},
    }
    precisions: tuple[BackbonePrecision, ...] = ("bf16", "nf4")
    config = tiny_config() if setting.tiny else backbone_config("t5-3b")
    workload = (
        replace(tiny_workload(), images=0)
        if setting.tiny
        else Workload(batch_size=TEXT_BATCH, text_tokens=TEXT_TOKENS, images=0)
    )
    bench = StepBench(*config, workload, setting.device)
    for precision in precisions:
        for ladder, chosen in ladders.items():
            row = Row(
                name=ladder,
                method="lst",
                options=chosen,
                precision="bf16",
                backbone_precision=precision,
            )
            name = f"lst, {ladder}, {precision}, batch {workload.batch_size}"
            entries.attempt(name, partial(_measure_row, bench, row))


def _measure_row(bench: StepBench, row: Row) -> Mapping[str, Value]:
    result = bench.measure(row, STEPS)
    seconds = result.median()
    peak = result.peak_allocated
    peaks = {} if peak is None else {"peak MiB": peak / MIB}
    return {
        "ms per step": 1000 * seconds["step"],
        "ms backbone": 1000 * seconds["backbone"],
        "ms backward": 1000 * seconds["backward"],
        "examples/s": bench.workload.batch_size / seconds["step"],
        **peaks,
        "model MiB": result.model_bytes / MIB,
        "saved MiB": result.saved_bytes / MIB,
    }


def measure_generation(setting: Setting, entries: Entries) -> None:
    """Measure greedy and beam search, in each precision."""
    config = tiny_config() if setting.tiny else backbone_config("t5-base", vocabulary=VOCABULARY)
    workload = tiny_workload() if setting.tiny else Workload()

    def measure(precision: ArithmeticPrecision) -> Mapping[str, Value]:
        found = generation.measure(
            config,
            workload,
            precision,
            tokens=5 if setting.tiny else ANSWER_TOKENS,
            rounds=1 if setting.tiny else ROUNDS,
            device=setting.device,
        )
        return {
            f"{search}: {name} {'tokens' if search.startswith('long') else 'answers'}/s": rate
            for search, rates in found.items()
            for name, rate in rates.items()
        }

    for precision in PRECISIONS:
        entries.attempt(precision, partial(measure, precision))


def measure_extraction(setting: Setting, entries: Entries) -> None:
    """Measure the extraction of features from generated photographs."""
    name, batch_size = ("RN50", 2) if setting.tiny else ("RN101", 128)
    count = batch_size if setting.tiny else extraction.PHOTOGRAPHS
    found = find_images(extraction.generate(setting.folder / "photographs", count))

    def measure(precision: ArithmeticPrecision) -> Mapping[str, Value]:
        encoder = build_encoder(
            name, weights="random", precision=precision, device=str(setting.device)
        )
        folder = setting.folder / precision
        folder.mkdir()
        squares_N3SS = extraction.squares(found, encoder)
        warm = extraction.run_encoder(encoder, squares_N3SS, batch_size)
        alone = extraction.timed(warm, batch_size).elapsed
        batches = 2 if setting.tiny else max(2, round(ROUNDS / alone / batch_size))
        files = extraction.linked(found, folder / "linked", batches * batch_size)
        workers = 0 if setting.tiny else default_workers(usable_cores(), setting.device)
        tower = extraction.run_encoder(encoder, squares_N3SS, batch_size, batches)
        out = folder / "features.h5"

        def pipeline() -> None:
            extract(files, out, encoder, batch_size=batch_size, workers=workers)

        tower_seconds = extraction.timed(tower, len(files)).elapsed
        pipeline_seconds = extraction.timed(pipeline, len(files)).elapsed
        return {
            "encoder, images/s": 1 / tower_seconds,
            "pipeline, images/s": 1 / pipeline_seconds,
            "pipeline / encoder": tower_seconds / pipeline_seconds,
            "images": len(files),
            "workers": workers,
        }

    for precision in PRECISIONS[:1] if setting.tiny else PRECISIONS:
        entries.attempt(f"{name}, {precision}", partial(measure, precision))


PARTS: Mapping[str, Callable[[Setting, Entries], None]] = {
    "tests": run_tests,
    "parity": compare_with_reference,
    "steps": measure_steps,
    "large": measure_large,
    "generation": measure_generation,
    "extraction": measure_extraction,
    "compile": measure_compilation,
}
