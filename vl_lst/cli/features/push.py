"""`vl-lst features push`: a feature file to a dataset on the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from vl_lst.cli._console import QuietOption, results, status
from vl_lst.cli._outputs import JsonOption, write_json_report

__all__ = ["push"]


def push(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.h5", help="Complete feature file, or a shard.")
    ],
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Dataset; created if it does not exist.")
    ],
    private: Annotated[
        bool,
        typer.Option(
            "--private",
            help="Create it as private. Refused if it already exists and is public.",
        ),
    ] = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Upload a feature file to a dataset on the Hugging Face Hub.

    The file keeps its name and its settings. A README is written if the dataset has none. An
    interrupted push can be repeated: files that have arrived are not uploaded again.

    Requires a token with write access: hf auth login, or HF_TOKEN.

    Example: vl-lst features push coco.h5 alice/coco-rn101 --private
    """
    from eval.hub import hub_progress_bars
    from feature_extraction.exchange.hub_transfer import push_features

    with hub_progress_bars(show=status.is_terminal and not quiet):
        pushed = push_features(file, repository, private=private)
    if not quiet:
        if not pushed.is_changed:
            status.print("the dataset already holds this file; nothing has changed")
        if pushed.has_new_card:
            status.print(f"note: state the license in {pushed.url}/blob/main/README.md")
    results.print(f"{pushed.url} commit {pushed.commit}", markup=False)
    write_json_report(
        json_file,
        {
            "url": pushed.url,
            "commit": pushed.commit,
            "file": pushed.file_name,
            "changed": pushed.is_changed,
        },
    )
