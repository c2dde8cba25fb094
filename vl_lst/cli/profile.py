"""`vl-lst profile`: the memory and time that transfer methods need."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from vl_lst.choices import ArithmeticPrecision, BackbonePrecision, DeviceName
from vl_lst.cli._choices import BACKBONES, METHODS
from vl_lst.cli._compared_methods import read_contenders, read_profile_recipe, require_choice
from vl_lst.cli._console import QuietOption, progress, results
from vl_lst.cli._outputs import JsonOption, binary_file, write_json_report

__all__ = ["profile"]

DEFAULT_STEPS = 6
DEFAULT_GRID = 6
PRECISIONS: tuple[ArithmeticPrecision, ...] = get_args(ArithmeticPrecision)
BACKBONE_PRECISIONS: tuple[BackbonePrecision, ...] = get_args(BackbonePrecision)
MODEL, BATCH, MEASUREMENT = "Backbone and methods", "Shape of a batch", "Measurement"


def profile(
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH|demo",
            help=f"Hugging Face model ID ({BACKBONES}), a local directory, or `demo` (bundled). "
            "Default: the recipe's.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    random_weights: Annotated[
        bool,
        typer.Option(
            "--random-weights",
            help="Initialise the backbone at random, without a download.",
            rich_help_panel=MODEL,
        ),
    ] = False,
    backbone_precision: Annotated[
        BackbonePrecision | None,
        typer.Option(
            help="Precision of the backbone's weights. Default: the recipe's, else fp32.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    vocabulary: Annotated[
        int | None,
        typer.Option(
            min=3,
            max=10_000_000,
            help="Vocabulary size of a backbone with random weights.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD[,METHOD]...|all",
            help=f"Transfer methods, of {METHODS}; or `all`. Times are relative to the first. "
            "Default: the recipe's, else all.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Recipe for the backbone, the method and its options, precisions and grid. "
            "Default: each method's options are those that `vl-lst train` uses.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="METHOD.OPTION=VALUE",
            help="Override an option of a method, such as lst.reduction=8; may be repeated.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, max=65_536, help="Examples per step.", rich_help_panel=BATCH)
    ] = 16,
    text_tokens: Annotated[
        int, typer.Option(min=1, max=8_192, help="Tokens per prompt.", rich_help_panel=BATCH)
    ] = 15,
    answer_tokens: Annotated[
        int, typer.Option(min=1, max=8_192, help="Tokens per answer.", rich_help_panel=BATCH)
    ] = 4,
    images: Annotated[
        int, typer.Option(min=1, max=100, help="Images per example.", rich_help_panel=BATCH)
    ] = 1,
    image_tokens: Annotated[
        int,
        typer.Option(min=1, max=65_536, help="Feature vectors per image.", rich_help_panel=BATCH),
    ] = 49,
    channels: Annotated[
        int,
        typer.Option(
            min=1, max=65_536, help="Channels of a feature vector.", rich_help_panel=BATCH
        ),
    ] = 2048,
    grid: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=256,
            help="Side of the grid that features are max-pooled to; 0 for no pooling. Default: "
            "the recipe's, else 6.",
            rich_help_panel=BATCH,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Estimate bytes in seconds, for any size, without running a step.",
            rich_help_panel=MEASUREMENT,
        ),
    ] = False,
    steps: Annotated[
        int,
        typer.Option(
            min=0,
            max=1_000_000,
            help="Timed steps per method, of which the median is reported; 0 for no times.",
            rich_help_panel=MEASUREMENT,
        ),
    ] = DEFAULT_STEPS,
    precision: Annotated[
        ArithmeticPrecision | None,
        typer.Option(
            help="Precision of the computation. Default: the recipe's, else fp32.",
            rich_help_panel=MEASUREMENT,
        ),
    ] = None,
    device: Annotated[
        DeviceName, typer.Option(help="Device to run on.", rich_help_panel=MEASUREMENT)
    ] = "auto",
    shared_device: Annotated[
        bool,
        typer.Option(
            "--shared-device",
            help="Measure even if other processes use the GPU.",
            rich_help_panel=MEASUREMENT,
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Plot memory against the share of trainable parameters, as .svg, .png or .pdf.",
            callback=binary_file("a plot"),
        ),
    ] = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Measure what transfer methods cost: parameters, bytes, and seconds per training step.

    Bytes saved for the backward pass are exact on any device. Peak memory is measured on CUDA, on a
    device that no other process uses. Methods alternate within one run, so their times can be
    compared.

    Example: vl-lst profile --backbone t5-base --random-weights --methods lst,full,lora --json
    cost.json --plot cost.svg

    Without running: vl-lst profile --backbone t5-3b --dry-run --backbone-precision int8
    """
    if dry_run and (device != "auto" or shared_device or steps != DEFAULT_STEPS):
        raise typer.BadParameter(
            "--dry-run runs no steps: leave out --device, --shared-device and --steps"
        )
    if vocabulary is not None and not (random_weights or dry_run):
        raise typer.BadParameter("--vocabulary requires --random-weights or --dry-run")
    from vl_lst.devices import choose_device
    from vl_lst.profiling.device import refuse_shared_device
    from vl_lst.profiling.measure import ProfileSettings, profile_methods
    from vl_lst.profiling.plot import plot_profiles, require_plot_format
    from vl_lst.profiling.report import (
        bytes_table,
        document,
        parts_tables,
        seconds_table,
        settings_lines,
    )
    from vl_lst.profiling.workload import Workload
    from vl_lst.recipes.fields import dig

    given = read_profile_recipe(recipe)
    name = backbone or dig(given, ("backbone", "name"))
    if name is None:
        raise typer.BadParameter("give --backbone, such as t5-base, or a recipe that names one")
    if plot is not None:
        require_plot_format(plot)
    contenders = read_contenders(methods, given, settings or [], source=recipe, backbone=name)
    where = choose_device("cpu" if dry_run else device)
    if not shared_device:
        refuse_shared_device(where)
    if grid is None:
        grid = (given.get("visual") or {}).get("pooled_grid", DEFAULT_GRID)
    wanted = ProfileSettings(
        backbone=name,
        random_weights=random_weights,
        vocabulary=vocabulary,
        backbone_precision=require_choice(
            "backbone.precision",
            backbone_precision or dig(given, ("backbone", "precision")) or "fp32",
            BACKBONE_PRECISIONS,
        ),
        precision=require_choice(
            "training.precision",
            precision or dig(given, ("training", "precision")) or "fp32",
            PRECISIONS,
        ),
        workload=Workload(
            batch_size=batch_size,
            text_tokens=text_tokens,
            answer_tokens=answer_tokens,
            images=images,
            image_tokens=image_tokens,
            channels=channels,
            pooled_grid=grid or None,
        ),
        steps=steps,
        estimate=dry_run,
        device=where,
    )
    with progress("profiling", quiet=quiet) as report:
        profiles = profile_methods(contenders, wanted, report)
    results.print(bytes_table(profiles, wanted))
    for table in parts_tables(profiles):
        results.print(table)
    if (times := seconds_table(profiles)) is not None:
        results.print(times)
    for line in settings_lines(profiles):
        results.print(line, markup=False)
    write_json_report(json_file, document(profiles, wanted))
    if plot is not None:
        plot_profiles(profiles, wanted, plot)
