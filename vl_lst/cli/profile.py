"""`vl-lst profile`: the memory and time that transfer methods need."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import typer

from vl_lst.choices import (
    ChosenArithmeticPrecision,
    ChosenBackbonePrecision,
    DeviceName,
    OptimizerName,
    Vocabulary,
)
from vl_lst.cli._choices import (
    BACKBONES,
    METHODS,
    complete_backbone,
    complete_method,
    complete_recipe_name,
)
from vl_lst.cli._compared_methods import (
    ALL,
    Recompute,
    read_compared_methods,
    read_optimizer,
    read_precisions,
    read_profile_recipe,
    require_choice,
)
from vl_lst.cli._console import QuietOption, announce_imports, progress, results
from vl_lst.cli._outputs import JsonOption, binary_file, write_json_report

__all__ = ["profile"]

DEFAULT_STEPS = 6
DEFAULT_GRID = 6
DEFAULT_IMAGE_TOKENS = 49
DEFAULT_CHANNELS = 2048
DEFAULT_ANSWERS = 3_129
model_option = partial(typer.Option, rich_help_panel="Backbone and methods")
batch_option = partial(typer.Option, rich_help_panel="Shape of a batch")
measurement_option = partial(typer.Option, rich_help_panel="Measurement")


class _ImageShape(NamedTuple):
    """What a method reads of an image.

    Args:
        tokens: Feature vectors per image.
        channels: Channels of a feature vector.
        pooled_grid: Side of the grid that features are max-pooled to; `None` if they are not.
        has_visual_embedding: Whether a visual embedding reads the features, not the backbone.
    """

    tokens: int
    channels: int
    pooled_grid: int | None
    has_visual_embedding: bool


def profile(
    backbone: Annotated[
        str | None,
        model_option(
            metavar="NAME|PATH",
            help=f"Hugging Face model ID such as t5-base, a local directory, or {BACKBONES} "
            "(bundled). docs/backbones.md lists the models that need no download to be profiled "
            "with --dry-run or --random-weights. Default: the recipe's.",
            autocompletion=complete_backbone,
        ),
    ] = None,
    random_weights: Annotated[
        bool,
        model_option(
            "--random-weights", help="Initialise the backbone at random, without a download."
        ),
    ] = False,
    backbone_precision: Annotated[
        ChosenBackbonePrecision | None,
        model_option(
            help="Precision of the backbone's weights. A method that needs a quantized backbone "
            "keeps the precision of its own recipe. Default: nf4 or int8 if a method's own recipe "
            "says so, else the recipe's; `auto` is that of the computation."
        ),
    ] = None,
    vocabulary: Annotated[
        int | None,
        model_option(
            min=3,
            max=10_000_000,
            help="Vocabulary size of a backbone with random weights. Default: as published; that "
            "of the tokenizer may be smaller.",
        ),
    ] = None,
    methods: Annotated[
        str | None,
        model_option(
            metavar="METHOD[,METHOD]...|all",
            help=f"Transfer methods, of {METHODS}; or `all`. Times are relative to the first. "
            "Default: the recipe's, else all.",
            autocompletion=complete_method,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        model_option(
            metavar="FILE|NAME",
            help="Recipe for the backbone, the method and its options, precisions and grid. "
            "Default: each method's options are those that `vl-lst train` uses.",
            autocompletion=complete_recipe_name,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        model_option(
            "--set",
            metavar="METHOD.OPTION=VALUE",
            help="Override an option of a method, such as lst.reduction=8; may be repeated.",
        ),
    ] = None,
    recompute: Annotated[
        Recompute | None,
        model_option(
            help="Whether methods recompute blocks in the backward pass (gradient checkpointing); "
            "`both` measures each method both ways. Default: each recipe's; auto is measured as "
            "true."
        ),
    ] = None,
    optimizer: Annotated[
        OptimizerName | None,
        model_option(
            help="Optimizer of all methods. Default: the recipe's, else adamw.", show_choices=True
        ),
    ] = None,
    batch_size: Annotated[int, batch_option(min=1, max=65_536, help="Examples per step.")] = 16,
    text_tokens: Annotated[int, batch_option(min=1, max=8_192, help="Tokens per prompt.")] = 15,
    answer_tokens: Annotated[int, batch_option(min=1, max=8_192, help="Tokens per answer.")] = 4,
    answers: Annotated[
        int | None,
        batch_option(
            min=2,
            max=1_000_000,
            help="Answers from which a backbone without a decoder picks. Default: "
            f"{DEFAULT_ANSWERS:,}, as in VQA.",
        ),
    ] = None,
    images: Annotated[
        int, batch_option(min=0, max=100, help="Images per example; 0 for text alone.")
    ] = 1,
    image_tokens: Annotated[
        int | None,
        batch_option(
            min=1,
            max=65_536,
            help=f"Feature vectors per image. Default: {DEFAULT_IMAGE_TOKENS}, or what a backbone "
            "that reads images takes.",
        ),
    ] = None,
    channels: Annotated[
        int | None,
        batch_option(
            min=1,
            max=65_536,
            help=f"Channels of a feature vector. Default: {DEFAULT_CHANNELS}, or what a backbone "
            "that reads images takes.",
        ),
    ] = None,
    grid: Annotated[
        int | None,
        batch_option(
            min=0,
            max=256,
            help="Side of the grid that features are max-pooled to; 0 for no pooling. Default: "
            "the recipe's, else 6.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        measurement_option(
            "--dry-run", help="Estimate bytes in seconds, for any size, without running a step."
        ),
    ] = False,
    steps: Annotated[
        int,
        measurement_option(
            min=0,
            max=1_000_000,
            help="Timed steps per method, of which the median is reported; 0 for no times.",
        ),
    ] = DEFAULT_STEPS,
    precision: Annotated[
        ChosenArithmeticPrecision | None,
        measurement_option(
            help="Precision of the computation; `auto` is bf16 where the device computes it "
            "natively, else fp32, and fp32 with --dry-run. Default: the recipe's."
        ),
    ] = None,
    device: Annotated[DeviceName, measurement_option(help="Device to run on.")] = "auto",
    shared_device: Annotated[
        bool,
        measurement_option("--shared-device", help="Measure even if other processes use the GPU."),
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
    """Measure what transfer methods cost: bytes and seconds of training and of answering.

    Bytes saved for the backward pass are exact on any device. Peak memory is measured on CUDA, on a
    device that no other process uses. Methods alternate within one run, so their times can be
    compared.

    Example: vl-lst profile --backbone t5-base --random-weights --methods lst,full,lora --json
    cost.json --plot cost.svg

    With and without gradient checkpointing: vl-lst profile --backbone t5-base --dry-run --methods
    lst,full,lora,qlora --recompute both --plot cost.svg

    Without running: vl-lst profile --backbone t5-3b --dry-run --methods lst,full

    Text alone: vl-lst profile --recipe glue-lst-paper --images 0 --text-tokens 128 --dry-run
    """
    if dry_run and (device != "auto" or shared_device or steps != DEFAULT_STEPS):
        raise typer.BadParameter(
            "--dry-run runs no steps: leave out --device, --shared-device and --steps"
        )
    if vocabulary is not None and not (random_weights or dry_run):
        raise typer.BadParameter("--vocabulary requires --random-weights or --dry-run")
    if not images and (image_tokens, channels, grid) != (None, None, None):
        raise typer.BadParameter(
            "--images 0 has no features: leave out --image-tokens, --channels and --grid"
        )
    announce_imports(quiet=quiet)
    from eval.recipe_fields import get_field
    from vl_lst.backbones.random_weights import backbone_config
    from vl_lst.devices import choose_device
    from vl_lst.profiling.device import refuse_shared_device
    from vl_lst.profiling.measure import ProfileSettings, profile_methods
    from vl_lst.profiling.plot import plot_profiles, require_plot_format
    from vl_lst.profiling.report import (
        bytes_table,
        inference_table,
        parts_tables,
        profile_document,
        seconds_table,
        settings_lines,
    )
    from vl_lst.profiling.workload import Workload

    given = read_profile_recipe(recipe)
    name = backbone or get_field(given, ("backbone", "name"))
    if name is None:
        raise typer.BadParameter("give --backbone, such as t5-base, or a recipe that names one")
    if plot is not None:
        require_plot_format(plot)
    compared = read_compared_methods(
        methods,
        given,
        settings or [],
        source=recipe,
        backbone=name,
        precision=backbone_precision,
        recompute=recompute,
    )
    where = choose_device("cpu" if dry_run else device)
    if not shared_device:
        refuse_shared_device(where)
    if answers is not None and backbone_config(name)[1].has_decoder:
        raise typer.BadParameter(
            f"the backbone {name} has a decoder, so it generates answers: leave out --answers"
        )
    shape = _image_shape(name, given, images, image_tokens, channels, grid)
    cut = get_field(given, ("backbone", "vocabulary"))
    if cut is not None:
        require_choice("backbone.vocabulary", cut, get_args(Vocabulary))
    is_loaded = not (random_weights or dry_run)
    weights, arithmetic = read_precisions(
        backbone_precision, precision, given, where, name=name, dry_run=dry_run
    )
    wanted = ProfileSettings(
        backbone=name,
        random_weights=random_weights,
        vocabulary=cut if is_loaded else vocabulary,
        backbone_precision=weights,
        precision=arithmetic,
        tf32=where.type == "cuda" and get_field(given, ("training", "tf32")) is not False,
        workload=Workload(
            batch_size=batch_size,
            text_tokens=text_tokens,
            answer_tokens=answer_tokens,
            images=images,
            image_tokens=shape.tokens,
            channels=shape.channels,
            pooled_grid=shape.pooled_grid,
            has_visual_embedding=shape.has_visual_embedding,
            answers=answers or DEFAULT_ANSWERS,
        ),
        optimizer=read_optimizer(optimizer, given),
        steps=steps,
        estimate=dry_run,
        device=where,
    )
    with progress("profiling", quiet=quiet) as report:
        chosen = methods or get_field(given, ("method", "name"))
        profiles = profile_methods(
            compared, wanted, report, leave_out_untrained=chosen in (None, ALL)
        )
    results.print(bytes_table(profiles, wanted))
    for table in parts_tables(profiles):
        results.print(table)
    if (times := seconds_table(profiles)) is not None:
        results.print(times)
    if (inference := inference_table(profiles, wanted)) is not None:
        results.print(inference)
    for line in settings_lines(profiles, wanted):
        results.print(line, markup=False)
    write_json_report(json_file, profile_document(profiles, wanted))
    if plot is not None:
        plot_profiles(profiles, wanted, plot)


def _image_shape(
    backbone: str,
    recipe: Mapping[str, Any],
    images: int,
    tokens: int | None,
    channels: int | None,
    grid: int | None,
) -> _ImageShape:
    """Return what a method reads of an image, from the options, the backbone and the recipe.

    Args:
        backbone: Name of the backbone.
        recipe: Fields of the recipe.
        images: Images per example.
        tokens: Value of `--image-tokens`.
        channels: Value of `--channels`.
        grid: Value of `--grid`.

    Raises:
        BadParameter: Features are given for a backbone that reads images.
    """
    from eval.recipe_fields import get_field
    from vl_lst.backbones.random_weights import own_image_tokens

    if not images:
        return _ImageShape(0, 0, None, has_visual_embedding=False)
    is_embedded = get_field(recipe, ("visual", "embedding")) == "learned"
    own = None if is_embedded else own_image_tokens(backbone)
    if own is None:
        if grid is None:
            grid = (recipe.get("visual") or {}).get("pooled_grid", DEFAULT_GRID)
        return _ImageShape(
            tokens or DEFAULT_IMAGE_TOKENS,
            channels or DEFAULT_CHANNELS,
            grid or None,
            has_visual_embedding=True,
        )
    if (tokens, channels, grid) != (None, None, None):
        raise typer.BadParameter(
            f"the backbone {backbone} reads images as {own[0]} tokens of {own[1]} channels: leave "
            "out --image-tokens, --channels and --grid"
        )
    return _ImageShape(*own, pooled_grid=None, has_visual_embedding=False)
