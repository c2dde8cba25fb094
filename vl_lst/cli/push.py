"""`vl-lst push`: upload a run to the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from vl_lst.cli._console import QuietOption, announce_imports, results, status
from vl_lst.cli._outputs import JsonOption, write_json_report

__all__ = ["push"]


def push(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run directory written by `vl-lst train`.")
    ],
    repository: Annotated[
        str,
        typer.Argument(metavar="OWNER/NAME", help="Repository; created if it does not exist."),
    ],
    private: Annotated[
        bool,
        typer.Option(
            "--private",
            help="Create it as private. Refused if it already exists and is public.",
        ),
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option(
            metavar="BRANCH",
            help="Branch to upload to; created if it does not exist. Default: main.",
        ),
    ] = None,
    license_id: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="ID",
            help="License of the weights, as the Hub calls it, such as apache-2.0. Default: "
            "that of the repository, else unknown.",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Model ID of the backbone on the Hub, if the run was trained on a local copy.",
        ),
    ] = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Upload a run to the Hugging Face Hub, with a model card.

    Uploads what is needed to use the run: recipe, record, best checkpoint and answer lists. Paths
    of this machine are left out. Push again to update the repository; an interrupted push continues
    with what is missing.

    Requires a token with write access: hf auth login, or HF_TOKEN.

    Example: vl-lst push runs/vqa alice/vqa-ladder --license apache-2.0

    Anybody can then use it: vl-lst predict alice/vqa-ladder --image cat.jpg --question "..."
    """
    announce_imports(quiet=quiet)
    from eval.hub import hub_progress_bars
    from vl_lst.hub.card import LICENSE
    from vl_lst.hub.push import push_run

    def report(message: str) -> None:
        if not quiet:
            status.print(message, markup=False)

    with hub_progress_bars(show=status.is_terminal and not quiet):
        pushed = push_run(
            run,
            repository,
            private=private,
            revision=revision,
            license_id=license_id,
            backbone=backbone,
            report=report,
        )
    if not pushed.is_changed:
        report("the repository already holds this run; nothing has changed")
    if pushed.license_id == LICENSE:
        report("note: the license is unknown; state it with --license")
    results.print(f"{pushed.url} commit {pushed.commit}", markup=False)
    write_json_report(
        json_file,
        {
            "url": pushed.url,
            "commit": pushed.commit,
            "changed": pushed.is_changed,
            "files": pushed.files,
        },
    )
