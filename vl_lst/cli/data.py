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

TaskOption = Annotated[str, typer.Option(help=f"The task, of {TASKS}.")]
RootOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder the official annotation files lie below.")
]
SplitsOption = Annotated[
    list[str] | None, typer.Option("--split", help="Only for this split; may be repeated.")
]

# Wider than any table here.
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
            help="A split that must be usable; may be repeated. By default the two the task "
            "trains and validates with."
        ),
    ] = None,
    features: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.h5", help="Feature file that must have the images; repeatable."),
    ] = None,
    more_features: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE.h5]...", help="Further feature files.", show_default=False),
    ] = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Say which files a task needs, whether they are there, and whether they are whole.

    Exit code 0 when all that the splits need is there, 1 otherwise.

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
            status.print(f"note: {state.split} is not of the published size", markup=False)
    if problems:
        raise InputError("; ".join(problems))
    names = ", ".join(state.split for state in split_states)
    results.print(f"{chosen.name}: all that is needed for {names} is there", markup=False)


@data.command()
def prepare(
    task: TaskOption,
    data_root: RootOption,
    min_count: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000_000_000,
            help="Examples an answer must have to be listed: 9 for vqa, 1 for gqa by default.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make anew what is there, not only check it.")
    ] = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Make what is derived from the official files: Karpathy's splits of VQA, answer lists.

    What is there already is checked and kept.

    Example: vl-lst data prepare --task vqa --data-root data
    """
    from tasks import get_task

    chosen = get_task(task)
    made = []
    if chosen.prepare is not None:
        for each in chosen.prepare(data_root, min_count=min_count, overwrite=overwrite):
            made.append(each)
            done = "written" if each.written else "kept"
            results.print(f"{done}: {each.path} ({each.note})", markup=False)
    elif not quiet:
        status.print(f"{chosen.name} reads the official files as they are", markup=False)
    rows = [{"path": str(m.path), "written": m.written, "note": m.note} for m in made]
    write_json_report(json_file, {"task": chosen.name, "files": rows})


@data.command()
def download(
    task: TaskOption,
    data_root: RootOption,
    split: SplitsOption = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Fetch the files from this folder of a server, not officially."
        ),
    ] = None,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep archives after unpacking them.")
    ] = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Fetch what the official hosts offer without registration.

    A transfer that broke off is continued by the same command, and a host that is down does not
    keep the others from being asked. Files that are there stay as they
    are; checksums are kept in DIR/.downloads and compared when a file is fetched again.

    Example: vl-lst data download --task vqa --data-root data --split val2014
    """
    from eval.errors import InputError
    from tasks import get_task
    from tasks._download import download_file

    chosen = get_task(task)
    if strangers := [name for name in split or [] if name not in chosen.splits]:
        raise chosen.unknown_split(strangers[0])
    asked = [file for file in chosen.files if not split or set(split) & set(file.splits)]
    ingredients = {path for file in asked for path in file.made_of}
    wanted = [
        file
        for file in chosen.files
        if file.source is not None and (file in asked or file.path in ingredients)
    ]
    absent = [file for file in wanted if file.found(data_root) is None]
    written: list[Path] = []
    problems: list[str] = []
    # One file of each source stands for all that come with it.
    for file in {file.source: file for file in absent}.values():
        try:
            with progress(f"downloading {file.path} (MiB)", quiet=quiet) as report:
                written += download_file(
                    file,
                    data_root,
                    mirror=mirror,
                    keep_archive=keep_archives,
                    others=absent,
                    report=partial(_report_mebibytes, report),
                )
        except InputError as error:
            problems.append(str(error))
    for path in written:
        results.print(f"written: {path} ({_size(path.stat().st_size)})", markup=False)
    if not quiet and len(absent) < len(wanted):
        there = len(wanted) - len(absent)
        status.print(f"{there} of {len(wanted)} files were there already", markup=False)
    if not quiet:
        for file in asked:
            if file.source is None and file.found(data_root) is None:
                status.print(f"not fetched: {file.path} ({file.address})", markup=False)
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
    whole = -(-(done if total is None else total) // MEBIBYTE)
    report(-(-done // MEBIBYTE), whole, name)


def _print_table(table: Table) -> None:
    if not results.is_terminal:
        # Where nothing wraps lines, an address stays whole and can be searched for.
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
            found = Text("not there") if file.optional else Text("missing", "red")
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
