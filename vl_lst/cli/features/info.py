"""`vl-lst features info`: how a feature file was made and what it holds."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vl_lst.cli._console import results
from vl_lst.cli._features import FeatureFileArgument, failure_lines
from vl_lst.cli._outputs import JsonOption, write_json_report

if TYPE_CHECKING:
    from feature_extraction.exchange.summary import StoreSummary, ValueSummary
    from feature_extraction.spec import FeatureSpec
    from feature_extraction.store.source import Source

__all__ = ["info"]

BAR_WIDTH = 40


def info(file: FeatureFileArgument, json_file: JsonOption = None) -> None:
    """Show how a feature file was made, which images it holds, and a histogram of its values.

    Values are sampled from up to 64 images, spread evenly over the file.

    Example: vl-lst features info val2014.h5
    """
    from feature_extraction.exchange.summary import summarise
    from feature_extraction.sizes import format_bytes

    summary = summarise(file)
    is_index = list(summary.files) != [file]
    lines = [
        f"{file}: {format_bytes(summary.file_bytes)}"
        + (f", an index of {len(summary.files):,} files" if is_index else ""),
        *_spec_lines(summary.spec),
        *(_source_line(source) for source in summary.sources),
        f"images      {summary.done:,} done, {len(summary.failures):,} failed, "
        f"{summary.pending:,} pending, of {summary.listed:,}",
        *failure_lines(summary.failures),
        f"compression {', '.join(summary.compression)}",
        *(_value_lines(summary.values) if summary.values else []),
    ]
    for line in lines:
        results.print(line, markup=False)
    write_json_report(json_file, _document(file, summary))


def _spec_lines(spec: "FeatureSpec") -> Iterator[str]:
    from feature_extraction.spec import IMPORTED

    square = f"{spec.image_size} x {spec.image_size} pixels, {spec.resize}"
    if spec.weights == IMPORTED:
        yield f"encoder     imported; declared as {spec.encoder}"
        yield f"photographs {square}, as declared"
    else:
        yield f"encoder     {spec.encoder}, weights {spec.weights} ({spec.weights_sha256[:12]})"
        gelu = ", QuickGELU" if spec.quick_gelu else ""
        yield f"photographs {square}; encoder in {spec.precision}{gelu}"
    rows, columns = spec.grid
    layer = "language tokens" if spec.layer == "language" else spec.layer
    tiles = f" of the whole image and {spec.crops} x {spec.crops} tiles" if spec.crops > 1 else ""
    yield (
        f"features    {spec.tokens} x {spec.channels} {spec.dtype}, {layer} of "
        f"{rows} x {columns}{tiles}"
    )
    if spec.projection_sha256 is not None:
        yield f"projection  {spec.projection_sha256[:12]}, into the language model of the encoder"
    yield f"digest      {spec.digest}"
    yield f"made with   {', '.join(f'{name} {v}' for name, v in sorted(spec.packages.items()))}"


def _source_line(source: "Source") -> str:
    from feature_extraction.sizes import format_bytes

    return (
        f"source      {source.address}, commit {source.revision[:12]}, {source.files:,} files of "
        f"{format_bytes(source.file_bytes)}"
    )


def _value_lines(values: "ValueSummary") -> Iterator[str]:
    yield (
        f"values      of {values.images:,} images: {values.minimum:.4g} to {values.maximum:.4g}, "
        f"mean {values.mean:.4g}, standard deviation {values.std:.4g}, "
        f"{100 * values.zero_share:.1f} % zero"
    )
    if values.not_finite:
        yield f"  {values.not_finite:,} values are not finite: do not use this file"
    highest, total = max(values.counts), sum(values.counts)
    cell = "█" if results.encoding.lower().startswith("utf") else "#"
    for low, high, count in zip(values.edges, values.edges[1:], values.counts, strict=False):
        bar = cell * math.ceil(BAR_WIDTH * count / highest)
        yield f"  {low:>10.4g} .. {high:<10.4g} {100 * count / total:5.1f} % {bar}".rstrip()


def _document(file: Path, summary: "StoreSummary") -> dict[str, object]:
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
        "sources": [source.model_dump() for source in summary.sources],
        "values": values
        and {
            "images": values.images,
            "least": values.minimum,
            "greatest": values.maximum,
            "mean": values.mean,
            "std": values.std,
            "zero_share": values.zero_share,
            "not_finite": values.not_finite,
            "histogram": {"edges": list(values.edges), "counts": list(values.counts)},
        },
    }
