"""`vl-lst features`: look into feature files, check them, bring them in and take them elsewhere."""

import enum
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from feature_extraction.encoders.table import MAX_IMAGE_SIZE
from vl_lst.cli._console import QuietOption, progress, results, status
from vl_lst.cli._outputs import FeatureFileOption, JsonOption, binary_file, write_json_report
from vl_lst.cli.extract_features import DEMO_ENCODER, Resize
from vl_lst.cli.features_compress import compress
from vl_lst.cli.features_join import join

if TYPE_CHECKING:
    from feature_extraction.exchange.summary import StoreSummary, ValueSummary
    from feature_extraction.exchange.verification import Difference
    from feature_extraction.spec import FeatureSpec

__all__ = ["export", "features", "import_", "info", "verify"]

SHOWN_FAILURES, BAR_CELLS = 5, 40
EXPORT_NAMES = ("export.json", "dataset_info.json", "state.json")

FeatureFileArgument = Annotated[
    Path, typer.Argument(metavar="FILE.h5", help="A feature file.", show_default=False)
]


class ExportFormat(enum.StrEnum):
    """What an export makes."""

    H5 = "h5"
    ARROW = "arrow"


def info(file: FeatureFileArgument, json_file: JsonOption = None) -> None:
    """Say how a feature file was made, what is in it, and how its values lie.

    Values are those of up to 64 images, spread evenly over the file.

    Example: vl-lst features info val2014.h5
    """
    from feature_extraction.exchange.summary import summarise
    from feature_extraction.sizes import format_bytes

    summary = summarise(file)
    lines = [
        f"{file}: {format_bytes(summary.file_bytes)}"
        + (f", an index of {len(summary.files):,} files" if list(summary.files) != [file] else ""),
        *_spec_lines(summary.spec),
        f"images      {summary.done:,} done, {len(summary.failures):,} failed, "
        f"{summary.pending:,} pending, of {summary.listed:,}",
        *_failure_lines(summary.failures),
        f"compression {', '.join(summary.compression)}",
        *(_value_lines(summary.values) if summary.values else []),
    ]
    for line in lines:
        results.print(line, markup=False)
    write_json_report(json_file, _summary_document(file, summary))


def verify(
    file: FeatureFileArgument,
    images: Annotated[
        Path,
        typer.Option("--images", metavar="DIR", help="Folder of the photographs, or part of them."),
    ],
    sample: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Photographs to extract again.")
    ] = 8,
    encoder_weights: Annotated[
        Path | None,
        typer.Option(
            "--encoder-weights",
            metavar="PATH",
            help="Weights of the encoder the file names, where it names no tag: a .safetensors "
            "file, or the encoder's folder.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="'auto' (CUDA where there is one), 'cpu', 'cuda', 'cuda:1', ...")
    ] = "auto",
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Extract a few photographs again and compare with what is stored.

    Exit code 1 when a value differs by more than other machines explain: a twentieth of itself
    and of the root mean square of its image's values together, a quarter where the encoder ran
    in bf16.

    Example: vl-lst features verify val2014.h5 --images coco/val2014
    """
    from feature_extraction.encoders.encoder import encoder_from_spec
    from feature_extraction.errors import StoreError
    from feature_extraction.exchange.verification import verify as compare
    from feature_extraction.images.finding import left_out_note
    from feature_extraction.store import open_features
    from vl_lst.bundled import CLIP_FOLDER

    store = open_features(file)
    if encoder_weights is None and store.spec.encoder == DEMO_ENCODER:
        encoder_weights = CLIP_FOLDER
    encoder = encoder_from_spec(store.spec, encoder_weights, device=device)
    with progress("comparing", quiet=quiet) as report:
        found = compare(store, images, encoder, sample=sample, on_progress=report)
    largest = found.largest
    if found.absent and not quiet:
        note = f" Note: {left_out_note(found.left_out)}." if found.left_out else ""
        status.print(
            f"note: {found.absent:,} images of {file} are not in {images}.{found.near_names}{note}",
            markup=False,
        )
    results.print(
        f"largest difference in {len(found.differences)} images: {largest.absolute:.6g}, in "
        f"{_place(largest)}",
        markup=False,
    )
    write_json_report(
        json_file,
        {
            "path": str(file),
            "encoder": encoder.spec.encoder,
            "weights": encoder.spec.weights,
            "agrees": not found.wrong,
            "largest": _difference_document(largest),
            "images": {each.image_id: _difference_document(each) for each in found.differences},
            "images_not_in_folder": found.absent,
            "left_out": found.left_out,
        },
    )
    if found.wrong:
        worst = max(found.wrong, key=lambda each: each.excess)
        raise StoreError(
            f"{file} does not hold what {encoder.spec.encoder} (weights {encoder.spec.weights}) "
            f"makes of {images}: {len(found.wrong)} of {len(found.differences)} images differ by "
            f"more than other machines explain, {worst.image_id!r} by {worst.excess:.3g} times as "
            f"much, with {worst.absolute:.6g} in {_place(worst)}. Weights, "
            "activation, resize rule, image size or photographs are others than those the features "
            "were made with: find out which, or extract again."
        )
    results.print(f"{file} holds what {encoder.spec.encoder} makes of {images}", markup=False)


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="Folder, searched in depth, of files IMAGE_ID.h5 (dataset IMAGE_ID/features), "
            ".npy, .npz or .safetensors; clip-retrieval's output; Parquet; or one HDF5, .npz or "
            ".safetensors file with an entry, or a row and a name, for each image.",
            show_default=False,
        ),
    ],
    out: FeatureFileOption,
    encoder: Annotated[
        str, typer.Option(metavar="NAME", help="What made the features, such as RN101.")
    ] = "imported",
    image_size: Annotated[
        int,
        typer.Option(
            min=1, max=MAX_IMAGE_SIZE, help="Side in pixels of the square the encoder saw."
        ),
    ] = 224,
    resize: Annotated[
        Resize, typer.Option(help="How photographs became that square.")
    ] = Resize.SQUASH,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Exit with 0 although files are damaged.")
    ] = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Make one feature file of features that another program made.

    Interrupted at any moment, the same command goes on where it was, and the file comes out the
    same. All features must have one shape. Damaged files are listed with the reason, and make the
    command exit with 1 after everything else is done; run again, it tries them again.

    Example: vl-lst features import data_clip_RN101_att --out coco.h5 --encoder RN101
    """
    from feature_extraction.exchange.importing import import_features
    from feature_extraction.sizes import format_bytes

    with progress("importing", quiet=quiet) as report:
        result = import_features(
            source,
            out,
            encoder=encoder,
            image_size=image_size,
            resize=resize.value,
            on_progress=report,
        )
    failures = dict(result.failures)
    results.print(
        f"{out}: {result.images - len(failures):,} of {result.images:,} images of "
        f"{result.spec.tokens} x {result.spec.channels}, {format_bytes(result.file_bytes)}; "
        f"{result.imported:,} imported in {result.seconds:.1f} s",
        markup=False,
    )
    for line in _failure_lines(failures):
        results.print(line, markup=False)
    if result.left_out and not quiet:
        counts = ", ".join(f"{count:,} {suffix}" for suffix, count in result.left_out.items())
        status.print(f"left out: {counts}", markup=False)
    write_json_report(
        json_file,
        {
            "path": str(out),
            "images": result.images,
            "left_out": dict(result.left_out),
            "imported": result.imported,
            "failures": failures,
            "file_bytes": result.file_bytes,
            "seconds": result.seconds,
            "spec": json.loads(result.spec.to_json()),
            "spec_sha256": result.spec.digest,
        },
    )
    if failures and not allow_missing:
        status.print(
            f"{len(failures):,} images have no features, because their files are damaged. Replace "
            "the files and run the same command again, or pass --allow-missing.",
            markup=False,
        )
        raise typer.Exit(1)


def export(
    file: FeatureFileArgument,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder to make.",
            callback=binary_file("a folder", is_checked=False, holds=EXPORT_NAMES),
        ),
    ],
    export_format: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="h5: a file IMAGE_ID.h5 for each image, with the dataset IMAGE_ID/features; "
            "arrow: a folder for datasets.load_from_disk.",
        ),
    ],
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Export a feature file to the format of another program.

    Images without features are left out. The folder appears under its name once it is complete.

    Example: vl-lst features export val2014.h5 --out val2014_arrow --format arrow
    """
    from feature_extraction.exchange.exporting import export_features
    from feature_extraction.store import open_features

    store = open_features(file)
    with progress("exporting", quiet=quiet) as report:
        result = export_features(store, out, export_format.value, on_progress=report)
    left_out = len(store.listed_ids) - len(store)
    results.print(
        f"{out}: {result.images:,} images in {result.files:,} files; {result.written:,} written "
        f"now, {left_out:,} without features left out",
        markup=False,
    )
    write_json_report(
        json_file,
        {
            "path": str(out),
            "format": export_format.value,
            "images": result.images,
            "written": result.written,
            "files": result.files,
            "left_out": left_out,
        },
    )


def _spec_lines(spec: "FeatureSpec") -> list[str]:
    from feature_extraction.spec import IMPORTED

    if spec.weights == IMPORTED:
        made = f"imported; said to be of {spec.encoder}"
        prepared = f"{spec.image_size} x {spec.image_size} pixels, {spec.resize}, as was said"
    else:
        made = f"{spec.encoder}, weights {spec.weights} ({spec.weights_sha256[:12]})"
        prepared = (
            f"{spec.image_size} x {spec.image_size} pixels, {spec.resize}; tower in "
            f"{spec.precision}" + (", QuickGELU" if spec.quick_gelu else "")
        )
    rows, columns = spec.grid
    tiles = f" of the whole and {spec.crops} x {spec.crops} tiles" if spec.crops > 1 else ""
    return [
        f"encoder     {made}",
        f"photographs {prepared}",
        f"features    {spec.tokens} x {spec.channels} {spec.dtype}, {spec.layer} of "
        f"{rows} x {columns}{tiles}",
        f"digest      {spec.digest}",
        f"made with   {', '.join(f'{name} {v}' for name, v in sorted(spec.packages.items()))}",
    ]


def _failure_lines(failures: Mapping[str, str]) -> list[str]:
    shown = list(failures.items())[:SHOWN_FAILURES]
    lines = [f"  failed {image_id}: {reason}" for image_id, reason in shown]
    if len(failures) > SHOWN_FAILURES:
        lines.append(f"  ... and {len(failures) - SHOWN_FAILURES:,} more")
    return lines


def _value_lines(values: "ValueSummary") -> list[str]:
    lines = [
        f"values      of {values.images:,} images: {values.least:.4g} to {values.greatest:.4g}, "
        f"mean {values.mean:.4g}, standard deviation {values.std:.4g}, "
        f"{100 * values.zero_share:.1f} % zero"
    ]
    if values.not_finite:
        lines.append(f"  {values.not_finite:,} values are not finite: the file is not to be used")
    most, total = max(values.counts), sum(values.counts)
    cell = "█" if results.encoding.lower().startswith("utf") else "#"
    for low, high, count in zip(values.edges, values.edges[1:], values.counts, strict=False):
        bar = cell * math.ceil(BAR_CELLS * count / most)
        lines.append(f"  {low:>10.4g} .. {high:<10.4g} {100 * count / total:5.1f} % {bar}".rstrip())
    return lines


def _summary_document(file: Path, summary: "StoreSummary") -> dict[str, object]:
    values = summary.values
    return {
        "path": str(file),
        "spec": json.loads(summary.spec.to_json()),
        "spec_sha256": summary.spec.digest,
        "images": summary.listed,
        "done": summary.done,
        "failed": len(summary.failures),
        "pending": summary.pending,
        "failures": dict(summary.failures),
        "file_bytes": summary.file_bytes,
        "files": [str(each) for each in summary.files],
        "compression": list(summary.compression),
        "values": values
        and {
            "images": values.images,
            "least": values.least,
            "greatest": values.greatest,
            "mean": values.mean,
            "std": values.std,
            "zero_share": values.zero_share,
            "not_finite": values.not_finite,
            "histogram": {"edges": list(values.edges), "counts": list(values.counts)},
        },
    }


def _difference_document(difference: "Difference") -> dict[str, object]:
    numbers = {
        "difference": difference.absolute,
        "stored": difference.stored,
        "made": difference.made,
        "excess": difference.excess,
    }
    return {
        "image_id": difference.image_id,
        "token": difference.token,
        "channel": difference.channel,
        **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
    }


def _place(difference: "Difference") -> str:
    return (
        f"image {difference.image_id!r}, token {difference.token}, channel {difference.channel} "
        f"({difference.stored:.6g} stored, {difference.made:.6g} made now)"
    )


features = typer.Typer(
    name="features",
    help="Look into feature files, check, join and compress them, import and export features.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
features.command("info")(info)
features.command("verify")(verify)
features.command("import")(import_)
features.command("export")(export)
features.command("join")(join)
features.command("compress")(compress)
