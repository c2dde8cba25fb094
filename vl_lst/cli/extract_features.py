"""`vl-lst extract-features`: photographs in, one HDF5 file of their features out."""

import enum
import json
from pathlib import Path
from typing import Annotated

import typer

from feature_extraction.encoders.table import MAX_IMAGE_SIZE
from vl_lst.bundled import CLIP_FOLDER
from vl_lst.cli._choices import ENCODER_NAMES
from vl_lst.cli._console import QuietOption, progress, results, status
from vl_lst.cli._outputs import STANDARD_OUTPUT, FeatureFileOption, JsonOption, write_json_report
from vl_lst.cli._processes import chosen_shard, own_device, own_share, wait_for_others

__all__ = ["extract_features"]

DEMO_ENCODER = "demo"
SHOWN_FAILURES = 5


class Layer(enum.StrEnum):
    """Which features are stored."""

    GRID = "grid"
    POOLED = "pooled"


class Resize(enum.StrEnum):
    """How a photograph becomes a square."""

    SQUASH = "squash"
    LETTERBOX = "letterbox"
    CENTER_CROP = "center-crop"


class Precision(enum.StrEnum):
    """Arithmetic of the tower."""

    FP32 = "fp32"
    BF16 = "bf16"


class Compression(enum.StrEnum):
    """How the finished file is compressed."""

    NONE = "none"
    ZSTD = "zstd"


def extract_features(
    images: Annotated[
        Path,
        typer.Option("--images", metavar="DIR", help="Folder of photographs, searched in depth."),
    ],
    out: FeatureFileOption,
    encoder: Annotated[
        str,
        typer.Option(
            help=f"{ENCODER_NAMES}, demo; another model of open_clip by its name; "
            "timm:NAME such as timm:resnet50; hf:OWNER/NAME such as hf:facebook/dinov2-base; or "
            "a folder one of these libraries wrote."
        ),
    ] = "RN101",
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="TAG|FILE|random",
            help="The library's tag such as 'openai', a .safetensors file, or 'random' (to try "
            "things out). Default: the encoder's own.",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_IMAGE_SIZE,
            help="Side of the tower's square in pixels, larger for more cells. Default: 224 for "
            "the encoders named above, else the encoder's own.",
        ),
    ] = None,
    layer: Annotated[
        Layer, typer.Option(help="All cells of the last layer, or one vector per image.")
    ] = Layer.GRID,
    resize: Annotated[
        Resize, typer.Option(help="How photographs become squares; the paper squashes.")
    ] = Resize.SQUASH,
    crops: Annotated[
        int,
        typer.Option(
            min=1,
            max=8,
            help="N for the features of the whole photograph and of its N x N tiles, each as "
            "large as the tower's square.",
        ),
    ] = 1,
    batch_size: Annotated[
        int, typer.Option(min=1, max=65_536, help="Images the tower sees at once.")
    ] = 32,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=256,
            help="Processes that decode images; 0 decodes between the tower's batches. Default: "
            "one per core, at most 4, with a tower on CUDA at most 16.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Do the I-th of N parts of the images, counted from 1, into "
            "FILE.shard-I-of-N.h5. Under torchrun each process does its own.",
        ),
    ] = None,
    precision: Annotated[Precision, typer.Option(help="Arithmetic of the tower.")] = Precision.FP32,
    compression: Annotated[
        Compression,
        typer.Option(help="Compress the finished file; pays for towers with ReLU, such as RN50."),
    ] = Compression.NONE,
    device: Annotated[
        str, typer.Option(help="'auto' (CUDA where there is one), 'cpu', 'cuda', 'cuda:1', ...")
    ] = "auto",
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Exit with 0 although images could not be read."),
    ] = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Extract features of a folder of photographs into one HDF5 file.

    An image's id is its file name without suffix. Interrupted at any moment,
    the same command goes on where it was, and the file comes out the same.
    Images that cannot be read are listed with the reason, and make the command
    exit with 1 after everything else is done; run again, it tries them again.
    Several processes or machines take a shard each; `vl-lst features join`
    makes one file of them.

    Example: vl-lst extract-features --images coco/val2014 --out val2014.h5

    Finer: vl-lst extract-features --images photos --out fine.h5 --crops 2
    """
    from feature_extraction.allocation import keep_freed_memory
    from feature_extraction.cores import usable_cores
    from feature_extraction.encoders.encoder import build_encoder
    from feature_extraction.extract import extract
    from feature_extraction.images.finding import find_images
    from feature_extraction.pipeline import default_workers
    from feature_extraction.sizes import format_bytes
    from feature_extraction.store.outputs import check_output_file

    part, is_launched = chosen_shard(shard)
    if is_launched and json_file == STANDARD_OUTPUT:
        raise typer.BadParameter(
            "--json -: found several processes, expected one. Give a file name, of which each "
            "process writes its own"
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
    tower = build_encoder(
        CLIP_FOLDER if encoder == DEMO_ENCODER else encoder,
        weights=weights,
        image_size=image_size,
        layer=layer.value,
        resize=resize.value,
        crops=crops,
        precision=precision.value,
        device=own_device(device) if is_launched else device,
        name=encoder if encoder == DEMO_ENCODER else None,
    )
    if tower.device.type == "cpu":
        keep_freed_memory()
    cores = own_share(usable_cores())
    with progress("extracting", quiet=quiet or not is_first) as report:
        result = extract(
            files,
            out,
            tower,
            batch_size=batch_size,
            workers=default_workers(cores, tower.device) if workers is None else workers,
            shard=part,
            on_progress=report,
        )
    if compression is Compression.ZSTD:
        from feature_extraction.exchange.compression import compress_store

        with progress("compressing", quiet=quiet or not is_first) as report:
            compress_store(result.path, result.path, on_progress=report)
    file_bytes = result.path.stat().st_size
    failures = dict(result.failures)
    results.print(
        f"{result.path}: {result.images - len(failures):,} of {result.images:,} images, "
        f"{format_bytes(file_bytes)}; {result.extracted:,} extracted in "
        f"{result.seconds:.1f} s ({result.images_per_second:.1f} images/s)",
        markup=False,
    )
    for image_id, reason in list(failures.items())[:SHOWN_FAILURES]:
        results.print(f"  failed {image_id}: {reason}", markup=False)
    if len(failures) > SHOWN_FAILURES:
        results.print(f"  ... and {len(failures) - SHOWN_FAILURES:,} more", markup=False)
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
            "spec": json.loads(tower.spec.to_json()),
            "spec_sha256": tower.spec.digest,
        },
    )
    if is_launched:
        wait_for_others()
    if failures and not allow_missing:
        status.print(
            f"{len(failures):,} images could not be read and have no features. Replace the files "
            "and run the same command again, or pass --allow-missing.",
            markup=False,
        )
        raise typer.Exit(1)
