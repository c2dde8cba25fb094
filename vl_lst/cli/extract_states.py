"""`vl-lst extract-states`: a backbone's states of a run's texts, in one HDF5 file."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vl_lst.choices import StatePrecision
from vl_lst.cli._choices import TASKS
from vl_lst.cli._console import QuietOption, announce_imports, notes, progress, results
from vl_lst.cli._input_protection import protect_recipe_inputs
from vl_lst.cli._outputs import JsonOption, binary_file, write_json_report
from vl_lst.cli._recipe_options import (
    BackboneOption,
    BackbonePrecisionOption,
    DataRootOption,
    FeaturesOption,
    HeadOption,
    MethodOption,
    MoreFeaturesArgument,
    RecipeOption,
    SettingsOption,
    TrainFileOption,
    ValidationFileOption,
    data_option,
    option_changes,
    refuse_settings_given_twice,
)

__all__ = ["extract_states"]

states_option = partial(typer.Option, rich_help_panel="States")


def extract_states(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE.h5",
            help="File of states to write, or to complete if it exists.",
            callback=binary_file("a file of states", is_checked=False),
        ),
    ],
    task: Annotated[
        str | None,
        data_option(metavar="TASK[,TASK]...", help=f"Task, one of {TASKS}, or several."),
    ] = None,
    data_root: DataRootOption = None,
    train_file: TrainFileOption = None,
    val_file: ValidationFileOption = None,
    splits: Annotated[
        list[str] | None,
        data_option(
            "--split",
            metavar="SPLIT",
            help="Split to extract; may be repeated. Default: the training split, and the "
            "validation split unless the head generates, which runs the backbone anyway.",
        ),
    ] = None,
    features: FeaturesOption = None,
    more_features: MoreFeaturesArgument = None,
    backbone: BackboneOption = None,
    backbone_precision: BackbonePrecisionOption = None,
    method: MethodOption = None,
    head: HeadOption = None,
    recipe: RecipeOption = None,
    settings: SettingsOption = None,
    layers: Annotated[
        str | None,
        states_option(
            metavar="N[,N]...",
            help="Layers of the encoder and of the decoder that the method reads, counted from 0: "
            "sets method.options.encoder_layers and decoder_layers. Default: the recipe's.",
        ),
    ] = None,
    precision: Annotated[
        StatePrecision | None,
        states_option(
            help="Type of the stored states. Default: that of the backbone's activations."
        ),
    ] = None,
    batch_size: Annotated[
        int, states_option(min=1, max=65_536, help="Texts that the backbone reads at once.")
    ] = 64,
    shard: Annotated[
        str | None,
        states_option(
            metavar="I/N",
            help="Extract only the I-th of N shards, counted from 1, into FILE.shard-I-of-N.h5.",
        ),
    ] = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Extract the states of a frozen backbone, from which `vl-lst train --states` trains.

    A ladder reads the states of a backbone that never changes. This command computes them once for
    each distinct prompt and each distinct pair of a prompt and an answer. Give it the options with
    which you will train.

    The size of the file is printed before work begins. Extraction can be interrupted at any point.
    Run the same command again to resume; the finished file is byte-identical to that of an
    uninterrupted run.

    Example: vl-lst extract-states --task vqa --data-root data --features train.h5 val.h5
    --backbone t5-base --out states.h5

    One layer in 16 bits: vl-lst extract-states --task rte --data-root data --backbone t5-3b
    --layers 23 --precision bf16 --out states.h5
    """
    announce_imports(quiet=quiet)
    from feature_extraction.sizes import format_bytes
    from feature_extraction.store.shards import Shard
    from vl_lst.extraction import extract_states as extract
    from vl_lst.recipes import (
        default_recipe,
        parse_override,
        read_recipe_file,
        resolve_recipe,
    )

    options: dict[str, object] = {
        "--task": task,
        "--data-root": data_root,
        "--train-file": train_file,
        "--val-file": val_file,
        "--features": [*(features or []), *(more_features or [])],
        "--backbone": backbone,
        "--backbone-precision": backbone_precision,
        "--method": method,
        "--head": head,
    }
    with notes(quiet=quiet):
        overrides = [parse_override(setting) for setting in settings or []]
        stacks = [f"method.options.{stack}_layers" for stack in ("encoder", "decoder")]
        refuse_settings_given_twice(
            options, overrides, others={} if layers is None else {"--layers": stacks}
        )
        changes = [*option_changes(options), *overrides]
        named = dict(changes)
        base = recipe or default_recipe(named.get("method.name"), named.get("backbone.name"))
        fields = read_recipe_file(base)
        resolved = resolve_recipe(fields, changes)
        if layers is not None:
            changes += _layer_changes(resolved.backbone.name, layers)
            resolved = resolve_recipe(fields, changes)
        protect_recipe_inputs(resolved.model_dump(mode="json"))
        with progress("extracting", quiet=quiet) as report:
            result = extract(
                resolved,
                out,
                splits=splits or (),
                precision=precision,
                batch_size=batch_size,
                shard=None if shard is None else Shard.parse(shard),
                report=report,
            )
    results.print(
        f"{result.path}: {result.inputs:,} prompts and {result.pairs:,} answers, "
        f"{format_bytes(result.file_bytes)}; {result.computed:,} prompts computed in "
        f"{result.seconds:.1f} s",
        markup=False,
    )
    write_json_report(
        json_file,
        {
            "path": str(result.path),
            "inputs": result.inputs,
            "pairs": result.pairs,
            "computed": result.computed,
            "file_bytes": result.file_bytes,
            "seconds": result.seconds,
            "spec": json.loads(result.spec.model_dump_json()),
            "spec_sha256": result.spec.digest,
        },
    )


def _layer_changes(backbone: str, text: str) -> list[tuple[str, Sequence[int]]]:
    """Return the options of a method that `--layers` sets.

    Raises:
        BadParameter: The text is not a list of numbers.
        ModelError: There is no such backbone.
    """
    from vl_lst.backbones.random_weights import backbone_config

    try:
        layers = [int(number) for number in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"--layers is {text!r:.60}: expected numbers with commas between them, such as 5,11"
        ) from None
    stacks = ["encoder", "decoder"] if backbone_config(backbone)[1].has_decoder else ["encoder"]
    return [(f"method.options.{stack}_layers", layers) for stack in stacks]
