"""`vl-lst features pull`: a feature file from a dataset on the Hugging Face Hub."""

from typing import Annotated

import typer

from vl_lst.cli._console import QuietOption, progress, results
from vl_lst.cli._features import NewFileOption
from vl_lst.cli._outputs import JsonOption, write_json_report

__all__ = ["pull"]


def pull(
    source: Annotated[
        str,
        typer.Argument(
            metavar="OWNER/NAME",
            help="Dataset, optionally followed by /FILE.h5 if it has several, and by @REVISION.",
            show_default=False,
        ),
    ],
    out: NewFileOption,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Download a feature file from a dataset on the Hugging Face Hub.

    The file is byte-identical to the one that was pushed. A download can be interrupted at any
    point: run the same command again to resume.

    For features in Parquet, use `vl-lst features import`.

    Example: vl-lst features pull alice/coco-rn101 --out coco.h5
    """
    from feature_extraction.exchange.hub_transfer import pull_features
    from feature_extraction.sizes import format_bytes

    with progress("downloading", quiet=quiet) as report:
        pulled = pull_features(source, out, on_progress=report)
    store, size = pulled.store, out.stat().st_size
    results.print(
        f"{out}: {len(store):,} images of {store.tokens} x {store.channels}, "
        f"{format_bytes(size)}; {pulled.file_name} of {pulled.repository}, commit "
        f"{pulled.commit[:12]}{'' if pulled.is_changed else '; already there'}",
        markup=False,
    )
    write_json_report(
        json_file,
        {
            "path": str(out),
            "repository": pulled.repository,
            "commit": pulled.commit,
            "file": pulled.file_name,
            "file_bytes": size,
            "changed": pulled.is_changed,
            "spec_sha256": store.spec.digest,
        },
    )
