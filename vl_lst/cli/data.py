"""`vl-lst data`: check, prepare and download the annotations of a task."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from vl_lst.cli._choices import TASKS
from vl_lst.cli._console import QuietOption, progress, results, status
from vl_lst.cli._outputs import JsonOption, write_json_report
from vl_lst.progress import ProgressReport

if TYPE_CHECKING:
    from tasks import Task
    from tasks._data_check import FileState, SplitState

__all__ = ["check", "data", "download", "prepare"]

TaskOption = Annotated[str, typer.Option(help=f"Task: {TASKS}.")]
RootOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder with the official annotations.")
]
SplitsOption = Annotated[
    list[str] | None,
    typer.Option("--split", help="Download only the files of this split. May be repeated."),
]

# Wider than any table of these commands.
UNLIMITED_WIDTH = 1000
MEBIBYTE = 1 << 20

data = typer.Typer(
    name="data",
    help="Check, prepare and download the official annotations.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@data.command()
def check(
    task: TaskOption,
    data_root: RootOption,
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="Split to check. May be repeated. By default the splits for training and "
            "validation."
        ),
    ] = None,
    features: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.h5", help="Feature file that must contain the images. May be repeated."
        ),
    ] = None,
    more_features: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE.h5", help="More feature files.", show_default=False),
    ] = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Check that the annotation files of a task are present and complete.

    Lists the files with their size, and the splits with their numbers of examples and images. The
    exit code is 0 if everything that the splits require is present, 1 otherwise.

    Example: vl-lst data check --task vqa --data-root data --features train.h5 val.h5
    """
    from eval.errors import InputError
    from tasks import get_task
    from tasks._data_check import check_files, check_split

    chosen = get_task(task)
    files = [*(features or []), *(more_features or [])]
    store = None
    if files:
        from feature_extraction.store import open_features

        store = open_features(files)
    file_states = check_files(chosen, data_root)
    split_states = [
        check_split(chosen, data_root, name, store)
        for name in dict.fromkeys(split or chosen.splits[:2])
    ]
    if store is not None:
        from feature_extraction.names import near_names_hint

        split_states = [
            replace(each, problem=f"{each.problem}.{near_names_hint(each.missing_images, store)}")
            if each.missing_images
            else each
            for each in split_states
        ]
    problems = [state.problem for state in split_states if state.problem is not None]
    if file_states:
        _print_table(_file_table(chosen, data_root, file_states))
    _print_table(_split_table(split_states))
    write_json_report(json_file, _check_document(chosen, data_root, file_states, split_states))
    for state in split_states:
        if not state.problem and not state.is_published_size and not quiet:
            status.print(f"note: {state.split} does not have the published size", markup=False)
    if problems:
        raise InputError("; ".join(problems))
    names = ", ".join(state.split for state in split_states)
    results.print(f"{chosen.name} {names}: all required files are present", markup=False)


@data.command()
def prepare(
    task: TaskOption,
    data_root: RootOption,
    min_count: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000_000_000,
            help="Minimum number of training examples per listed answer. By default 9 for vqa and "
            "1 for gqa.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Create the files derived from official ones: answer lists and Karpathy's splits of VQA.

    Existing files are checked and kept.

    Example: vl-lst data prepare --task vqa --data-root data
    """
    from tasks import get_task

    chosen = get_task(task)
    rows: list[dict[str, object]] = []
    if chosen.prepare is not None:
        for file in chosen.prepare(data_root, min_count=min_count, overwrite=overwrite):
            rows.append({"path": str(file.path), "written": file.written, "note": file.note})
            done = "written" if file.written else "kept"
            results.print(f"{done}: {file.path} ({file.note})", markup=False)
    elif not quiet:
        status.print(f"{chosen.name} needs no derived files", markup=False)
    write_json_report(json_file, {"task": chosen.name, "files": rows})


@data.command()
def download(
    task: TaskOption,
    data_root: RootOption,
    split: SplitsOption = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Server folder to download from instead of the official hosts."
        ),
    ] = None,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep archives after unpacking them.")
    ] = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Download the annotation files that are available without registration.

    Existing files are kept. Run the same command again to resume an interrupted download. If a host
    is down, the files of the other hosts are still downloaded. Checksums are stored in
    DIR/.downloads and compared when a file is downloaded again.

    Example: vl-lst data download --task vqa --data-root data --split val2014
    """
    from eval.errors import InputError
    from tasks import get_task
    from tasks._download import download_file

    chosen = get_task(task)
    if unknown := [name for name in split or [] if name not in chosen.splits]:
        raise chosen.unknown_split(unknown[0])
    requested = [file for file in chosen.files if not split or set(split) & set(file.splits)]
    inputs = {path for file in requested for path in file.derived_from}
    available = [
        file
        for file in chosen.files
        if file.source is not None and (file in requested or file.path in inputs)
    ]
    missing = [file for file in available if file.find(data_root) is None]
    written: list[Path] = []
    problems: list[str] = []
    # Each source is downloaded once, with all its files.
    for file in {file.source: file for file in missing}.values():
        try:
            with progress(f"downloading {file.path} (MiB)", quiet=quiet) as report:
                written += download_file(
                    file,
                    data_root,
                    mirror=mirror,
                    keep_archive=keep_archives,
                    others=missing,
                    report=partial(_report_mebibytes, report),
                )
        except InputError as error:
            problems.append(str(error))
    for path in written:
        results.print(f"written: {path} ({_size(path.stat().st_size)})", markup=False)
    if not quiet and len(missing) < len(available):
        existing = len(available) - len(missing)
        status.print(f"{existing} of {len(available)} files already existed", markup=False)
    if not quiet:
        for file in requested:
            if file.source is None and file.find(data_root) is None:
                status.print(f"not downloaded: {file.path} ({file.address})", markup=False)
    write_json_report(
        json_file,
        {
            "task": chosen.name,
            "written": [str(path) for path in written],
            "problems": problems,
        },
    )
    if problems:
        raise InputError("; ".join(problems))


def _report_mebibytes(report: ProgressReport, name: str, done: int, total: int | None) -> None:
    # Rounded up.
    total_mebibytes = -(-(done if total is None else total) // MEBIBYTE)
    report(-(-done // MEBIBYTE), total_mebibytes, name)


def _print_table(table: Table) -> None:
    if not results.is_terminal:
        # Outside a terminal lines are not wrapped, so that addresses can be searched for.
        options = results.options.update_width(UNLIMITED_WIDTH)
        table.width = Measurement.get(results, options, table).maximum
    results.print(table)


def _file_table(task: "Task", data_root: Path, states: Sequence["FileState"]) -> Table:
    table = Table(title=f"files of {task.name} below {data_root}")
    for name in ("file", "state", "size", "needed by", "official address"):
        table.add_column(name, justify="right" if name == "size" else "left", overflow="fold")
    for state in states:
        file = state.file
        if state.found is None:
            found = Text("absent") if file.optional else Text("missing", "red")
        else:
            exact = state.found == data_root / file.path
            found = Text("found" if exact else f"{state.found.relative_to(data_root)} instead")
        needed = f"optional: {file.optional}" if file.optional else ", ".join(file.splits)
        size = "" if state.size is None else _size(state.size)
        table.add_row(Text(file.path), found, size, Text(needed), Text(file.address))
    return table


def _split_table(states: Sequence["SplitState"]) -> Table:
    table = Table(title="splits")
    for name in ("split", "examples", "published", "images", "published", "images missing"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for state in states:
        published = state.published
        table.add_row(
            Text(state.split),
            _number(state.examples),
            _number(published and published.examples),
            _number(state.images),
            _number(published and published.images),
            _number(None if state.missing_images is None else len(state.missing_images)),
        )
    return table


def _size(size: int) -> str:
    return f"{size:,} B" if size < MEBIBYTE else f"{size / MEBIBYTE:,.1f} MiB"


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _check_document(
    task: "Task",
    data_root: Path,
    files: Sequence["FileState"],
    splits: Sequence["SplitState"],
) -> dict[str, object]:
    return {
        "task": task.name,
        "data_root": str(data_root),
        "complete": not any(state.problem for state in splits),
        "files": [
            {
                "path": state.file.path,
                "found": None if state.found is None else str(state.found),
                "bytes": state.size,
                "splits": list(state.file.splits),
                "optional": state.file.optional,
                "address": state.file.address,
            }
            for state in files
        ],
        "splits": [
            {
                "split": state.split,
                "examples": state.examples,
                "published_examples": state.published and state.published.examples,
                "images": state.images,
                "published_images": state.published and state.published.images,
                "missing_images": state.missing_images,
                "problem": state.problem,
            }
            for state in splits
        ],
    }
