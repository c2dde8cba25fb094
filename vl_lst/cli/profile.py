"""`vl-lst profile`: what transfer methods cost in memory and time."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from vl_lst.choices import ArithmeticPrecision, BackbonePrecision, DeviceName
from vl_lst.cli._choices import BACKBONES, METHODS, alternatives
from vl_lst.cli._console import QuietOption, progress, results
from vl_lst.cli._outputs import JsonOption, binary_file, write_json_report
from vl_lst.cli._profiling import one_of, read_contenders, read_profile_recipe

__all__ = ["profile"]

DEFAULT_STEPS = 6
DEFAULT_GRID = 6
ARITHMETIC: tuple[ArithmeticPrecision, ...] = get_args(ArithmeticPrecision)
WEIGHTS: tuple[BackbonePrecision, ...] = get_args(BackbonePrecision)
DEVICES: tuple[DeviceName, ...] = get_args(DeviceName)


def profile(
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH|demo",
            help=f"{BACKBONES}; a folder; demo. Default: the recipe's.",
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD[,METHOD]...|all",
            help=f"Transfer methods, of {METHODS}; times are compared with the first. `all`: all "
            "of them. Default: the recipe's, else all.",
        ),
    ] = None,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="Draw the backbone's weights: needs no download."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Build without data and estimate bytes, in seconds for any size; no steps.",
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, max=65_536, help="Examples a step.")] = 16,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar=alternatives(ArithmeticPrecision),
            help="Of the arithmetic. Default: the recipe's, fp32.",
        ),
    ] = None,
    backbone_precision: Annotated[
        str | None,
        typer.Option(
            metavar=alternatives(BackbonePrecision),
            help="How the backbone is held. Default: the recipe's, fp32.",
        ),
    ] = None,
    text_tokens: Annotated[int, typer.Option(min=1, max=8_192, help="Of each prompt.")] = 15,
    answer_tokens: Annotated[int, typer.Option(min=1, max=8_192, help="Of each answer.")] = 4,
    images: Annotated[int, typer.Option(min=1, max=100, help="Of each example.")] = 1,
    image_tokens: Annotated[
        int, typer.Option(min=1, max=65_536, help="Feature vectors of each image.")
    ] = 49,
    channels: Annotated[
        int, typer.Option(min=1, max=65_536, help="Width of a feature vector.")
    ] = 2048,
    grid: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=256,
            help="Side of the grid they are max-pooled to, 0 to keep them. Default: the "
            "recipe's, 6.",
        ),
    ] = None,
    vocabulary: Annotated[
        int | None,
        typer.Option(min=3, max=10_000_000, help="Token ids of a backbone with random weights."),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar=alternatives(DeviceName), help="Where to run.")
    ] = "auto",
    shared_device: Annotated[
        bool,
        typer.Option("--shared-device", help="Measure although other processes use the GPU."),
    ] = False,
    steps: Annotated[
        int,
        typer.Option(
            min=0, max=1_000_000, help="Steps to take the median of, for each method; 0: no times."
        ),
    ] = DEFAULT_STEPS,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Take backbone, method with its options, precisions and grid from a recipe. "
            "Default: each method has the options of the recipe that `train` takes for it.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="METHOD.OPTION=VALUE",
            help="Change an option of a method, such as lst.reduction=8; may be repeated.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw memory against trainable share, as .svg, .png or .pdf.",
            callback=binary_file("a picture"),
        ),
    ] = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Measure what transfer methods cost: parameters, bytes, and seconds of a training step.

    Bytes saved for backward are exact on any device. Peak memory is measured on CUDA, on a device
    that nobody else uses. Methods take turns in one run, so that their times compare.

    Example: vl-lst profile --backbone t5-base --random-weights --methods lst,full,lora --json
    cost.json --plot cost.svg

    In seconds, without running: vl-lst profile --backbone t5-3b --dry-run --backbone-precision int8
    """
    if dry_run and (device != "auto" or shared_device or steps != DEFAULT_STEPS):
        raise typer.BadParameter(
            "--dry-run makes no steps on any device: leave out --device, --shared-device, --steps"
        )
    if vocabulary is not None and not (random_weights or dry_run):
        raise typer.BadParameter("--vocabulary is for --random-weights: weights have their own")
    from eval.recipe_fields import get_field
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

    given = read_profile_recipe(recipe)
    name = backbone or get_field(given, ("backbone", "name"))
    if name is None:
        raise typer.BadParameter("give --backbone, such as t5-base; the recipe, if any, has none")
    if plot is not None:
        require_plot_format(plot)
    contenders = read_contenders(methods, given, settings or [], source=recipe, backbone=name)
    where = choose_device("cpu" if dry_run else one_of("--device", device, DEVICES))
    if not shared_device:
        refuse_shared_device(where)
    own_grid = (given.get("visual") or {}).get("pooled_grid", DEFAULT_GRID)
    side = own_grid if grid is None else grid
    wanted = ProfileSettings(
        backbone=name,
        random_weights=random_weights,
        vocabulary=vocabulary,
        backbone_precision=one_of(
            "--backbone-precision",
            backbone_precision or get_field(given, ("backbone", "precision")) or "fp32",
            WEIGHTS,
        ),
        precision=one_of(
            "--precision",
            precision or get_field(given, ("training", "precision")) or "fp32",
            ARITHMETIC,
        ),
        workload=Workload(
            batch_size=batch_size,
            text_tokens=text_tokens,
            answer_tokens=answer_tokens,
            images=images,
            image_tokens=image_tokens,
            channels=channels,
            pooled_grid=side or None,
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
