"""`vl-lst extract-features`: photographs in, one HDF5 file of their features out."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from feature_extraction.choices import Compression, Layer, Precision, ResizeRule
from feature_extraction.encoders.table import MAX_IMAGE_SIZE
from vl_lst.bundled import ENCODER_FOLDERS
from vl_lst.cli._choices import ENCODER_NAMES, RESIZE_RULES
from vl_lst.cli._console import QuietOption, progress, results, status
from vl_lst.cli._distributed import (
    choose_shard,
    cores_per_process,
    device_of_process,
    wait_for_other_processes,
)
from vl_lst.cli._features import (
    DEFAULT_ENCODER,
    DeviceOption,
    OutOption,
    build_named_encoder,
    exit_if_incomplete,
    failure_lines,
)
from vl_lst.cli._outputs import STANDARD_OUTPUT, JsonOption, write_json_report

__all__ = ["extract_features"]

encoder_option = partial(typer.Option, rich_help_panel="Image encoder")
speed_option = partial(typer.Option, rich_help_panel="Speed and size")


def extract_features(
    images: Annotated[
        Path,
        typer.Option("--images", metavar="DIR", help="Folder of photographs, with subfolders."),
    ],
    out: OutOption,
    encoder: Annotated[
        str,
        encoder_option(
            metavar="NAME|FOLDER",
            help=f"{ENCODER_NAMES}, {', '.join(ENCODER_FOLDERS)}; another open_clip model name; "
            "timm:NAME such as timm:resnet50; hf:OWNER/NAME such as hf:facebook/dinov2-base, also "
            "a vision-language model; or a folder saved by one of these libraries.",
        ),
    ] = DEFAULT_ENCODER,
    weights: Annotated[
        str | None,
        encoder_option(
            metavar="TAG|FILE|random",
            help="Pretrained tag of the library such as `openai`, a .safetensors file, or `random` "
            "(for trying things out). Default: the encoder's own.",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        encoder_option(
            min=1,
            max=MAX_IMAGE_SIZE,
            help="Side of the encoder's square input in pixels; a larger one gives more grid "
            "cells. Default: 224 for the encoders named above, else the encoder's own.",
        ),
    ] = None,
    layer: Annotated[
        Layer | None,
        encoder_option(
            help="`grid` stores all cells of the last layer, `pooled` one vector per image, "
            "`language` the tokens that the language model of a vision-language model reads. "
            "Default: `language` for such a model, else `grid`.",
        ),
    ] = None,
    resize: Annotated[
        ResizeRule,
        encoder_option(
            metavar="RULE",
            help=f"How photographs become squares: {RESIZE_RULES}. The paper uses squash.",
        ),
    ] = "squash",
    crops: Annotated[
        int,
        encoder_option(
            min=1,
            max=8,
            help="N: also store the features of N x N tiles of each photograph, each tile resized "
            "to the encoder's input.",
        ),
    ] = 1,
    precision: Annotated[
        Precision, encoder_option(help="Precision of the image encoder.")
    ] = "fp32",
    device: DeviceOption = "auto",
    batch_size: Annotated[
        int, speed_option(min=1, max=65_536, help="Images per batch of the encoder.")
    ] = 32,
    workers: Annotated[
        int | None,
        speed_option(
            min=0,
            max=256,
            help="Processes that decode images; 0 decodes in the main process. Default: one per "
            "core, at most 4 for an encoder on the CPU and 16 for one on CUDA.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        speed_option(
            metavar="I/N",
            help="Extract only the I-th of N shards, counted from 1, into FILE.shard-I-of-N.h5. "
            "Under torchrun each process extracts its own.",
        ),
    ] = None,
    compression: Annotated[
        Compression,
        speed_option(
            help="Compression of the finished file; effective for encoders that end in a ReLU, "
            "such as RN50."
        ),
    ] = "none",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Exit with 0 even if images cannot be read.")
    ] = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Extract features from a folder of photographs into one HDF5 file.

    An image's id is its file name without suffix. Extraction can be interrupted at any point. Run
    the same command again to resume; the finished file is byte-identical to that of an
    uninterrupted run.

    Images that cannot be read are listed with the reason. The command then exits with 1 after all
    other images are done, and retries them when it is run again.

    Several processes or machines can extract one shard each; `vl-lst features join` joins the
    shards.

    Example: vl-lst extract-features --images coco/val2014 --out val2014.h5

    With finer detail: vl-lst extract-features --images photos --out fine.h5 --crops 2

    For a backbone that reads images: vl-lst extract-features --images photos --out tokens.h5
    --encoder hf:OWNER/NAME --layer language
    """
    from feature_extraction.allocation import keep_freed_memory
    from feature_extraction.cores import usable_cores
    from feature_extraction.images.finding import find_images
    from feature_extraction.sizes import format_bytes
    from feature_extraction.store.outputs import check_output_file

    part, is_launched = choose_shard(shard)
    if is_launched and json_file == STANDARD_OUTPUT:
        raise typer.BadParameter(
            "--json -: found several processes, expected one. Give a file name: each process then "
            "writes its own file"
        )
    is_first = not is_launched or part is None or part.number == 1
    check_output_file(out)
    if part is not None:
        check_output_file(part.path(out))
    files = find_images(images)
    if is_first and not quiet:
        if files.note:
            status.print(files.note, markup=False)
        status.print(f"{len(files):,} images in {images}; building {encoder}", markup=False)
    # These import PyTorch, which takes several seconds.
    from feature_extraction.extract import extract
    from feature_extraction.pipeline import default_workers

    built = build_named_encoder(
        encoder,
        weights=weights,
        image_size=image_size,
        layer=layer,
        resize=resize,
        crops=crops,
        precision=precision,
        device=device_of_process(device) if is_launched else device,
    )
    if built.device.type == "cpu":
        keep_freed_memory()
    cores = cores_per_process(usable_cores())
    is_silent = quiet or not is_first
    with progress("extracting", quiet=is_silent) as report:
        result = extract(
            files,
            out,
            built,
            batch_size=batch_size,
            workers=default_workers(cores, built.device) if workers is None else workers,
            shard=part,
            on_progress=report,
        )
    if compression == "zstd":
        from feature_extraction.exchange.compression import compress_store

        with progress("compressing", quiet=is_silent) as report:
            compress_store(result.path, result.path, on_progress=report)
    file_bytes = result.path.stat().st_size
    failures = dict(result.failures)
    results.print(
        f"{result.path}: {result.images - len(failures):,} of {result.images:,} images, "
        f"{format_bytes(file_bytes)}; {result.extracted:,} extracted in "
        f"{result.seconds:.1f} s ({result.images_per_second:.1f} images/s)",
        markup=False,
    )
    for line in failure_lines(failures):
        results.print(line, markup=False)
    write_json_report(
        part.path(json_file) if json_file and part and is_launched else json_file,
        {
            "path": str(result.path),
            "images": result.images,
            "extracted": result.extracted,
            "failures": failures,
            "left_out": files.left_out,
            "file_bytes": file_bytes,
            "seconds": result.seconds,
            "images_per_second": result.images_per_second,
            "spec": json.loads(built.spec.to_json()),
            "spec_sha256": built.spec.digest,
        },
    )
    if is_launched:
        wait_for_other_processes()
    exit_if_incomplete(failures, allow_missing=allow_missing)
