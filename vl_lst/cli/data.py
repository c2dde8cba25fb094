"""`vl-lst data`: check, prepare and download the annotations of a task."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from eval.text import format_bytes
from tasks import SUITES, get_task
from tasks._suites import splits_of
from vl_lst.cli._choices import SUITE_NAMES, TASKS, complete_task
from vl_lst.cli._console import QuietOption, progress, results, status
from vl_lst.cli._data_tables import check_document, file_table, print_table, split_table
from vl_lst.cli._group import CommandGroup
from vl_lst.cli._outputs import JsonOption, write_json_report
from vl_lst.cli._recipe_options import MoreFeaturesArgument
from vl_lst.cli._suite_scores import refuse_options_of_one_task
from vl_lst.progress import ProgressReport

__all__ = ["check", "data", "download", "prepare"]

TaskOption = Annotated[
    str,
    typer.Option(
        metavar="TASK",
        help=f"Task, one of {TASKS}; or a suite of tasks ({SUITE_NAMES}).",
        autocompletion=complete_task,
    ),
]
RootOption = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="Folder with the official annotation files in vqa/, gqa/, nlvr2/, coco/, glue/.",
    ),
]
SplitsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--split",
        metavar="SPLIT",
        help="Download only the files of this split; may be repeated. Default: all files.",
    ),
]

MEBIBYTE = 1 << 20

data = typer.Typer(
    name="data",
    cls=CommandGroup,
    help="Check, prepare and download the official annotations.\n\n"
    "Example: vl-lst data check --task vqa --data-root data",
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
            metavar="SPLIT",
            help="Split to check; may be repeated. Default: the task's splits for training and "
            "validation.",
        ),
    ] = None,
    features: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.h5",
            help="Feature file that must contain the images. Pass several, or repeat the option.",
        ),
    ] = None,
    more_features: MoreFeaturesArgument = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Check that the annotation files of a task are present and complete.

    Lists the files with their size, and the splits with their numbers of examples and images. The
    exit code is 0 if everything that the splits require is present, 1 otherwise.

    Example: vl-lst data check --task vqa --data-root data --features train.h5 val.h5
    """
    from eval.errors import InputError

    files = [*(features or []), *(more_features or [])]
    if task not in SUITES:
        document, problems = _check_task(task, data_root, split, files, quiet=quiet)
        write_json_report(json_file, document)
        if problems:
            raise InputError("; ".join(problems))
        return
    refuse_options_of_one_task(task, {"--features": files})
    documents: dict[str, dict[str, object]] = {}
    problems_of: dict[str, list[str]] = {}
    for name in SUITES[task]:
        chosen = _splits_of_suite(name, split)
        documents[name], problems_of[name] = _check_task(name, data_root, chosen, [], quiet=quiet)
    write_json_report(
        json_file,
        {"suite": task, "complete": not any(problems_of.values()), "tasks": documents},
    )
    if any(problems_of.values()):
        raise InputError("data are missing or not usable:\n" + _listed(problems_of))


def _listed(problems: Mapping[str, Sequence[str]]) -> str:
    """Return a line for each problem, which names its task."""
    return "\n".join(f"  {task}: {text}" for task, texts in problems.items() for text in texts)


def _splits_of_suite(task: str, splits: Sequence[str] | None) -> list[str] | None:
    """Return the splits of a task that splits of its suite stand for; `None` if none is given."""
    if splits is None:
        return None
    return [part for split in splits for part in splits_of(get_task(task), split)]


def _check_task(
    task: str, data_root: Path, split: Sequence[str] | None, files: Sequence[Path], *, quiet: bool
) -> tuple[dict[str, object], list[str]]:
    """Check a task's files and splits, print tables, and return the JSON report and problems."""
    from eval.errors import InputError
    from tasks._data_check import check_files, check_split

    chosen = get_task(task)
    store = None
    if files and not chosen.images_per_example:
        raise InputError(
            f"--features: found feature files, but examples of {task} have no images: expected none"
        )
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
    found = (state.problem for state in split_states if state.problem is not None)
    # Splits that are read from the same file have the same problem.
    problems = list(dict.fromkeys(found))
    if file_states:
        print_table(file_table(chosen, data_root, file_states))
    print_table(split_table(split_states, has_images=chosen.images_per_example > 0))
    for state in split_states:
        if not state.problem and not state.is_published_size and not quiet:
            status.print(
                f"note: {task} {state.split} does not have the published size", markup=False
            )
    if not problems:
        names = ", ".join(state.split for state in split_states)
        results.print(f"{chosen.name} {names}: all required files are present", markup=False)
    return check_document(chosen, data_root, file_states, split_states), problems


@data.command()
def prepare(
    task: TaskOption,
    data_root: RootOption,
    min_count: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000_000_000,
            help="Minimum number of training examples of a listed answer. Default: 9 for vqa, "
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
    if task not in SUITES:
        files = _prepare_task(task, data_root, min_count, overwrite=overwrite, quiet=quiet)
        write_json_report(json_file, {"task": task, "files": files})
        return
    refuse_options_of_one_task(task, {"--min-count": min_count})
    documents = {
        name: {
            "task": name,
            "files": _prepare_task(name, data_root, None, overwrite=overwrite, quiet=quiet),
        }
        for name in SUITES[task]
    }
    write_json_report(json_file, {"suite": task, "tasks": documents})


def _prepare_task(
    task: str, data_root: Path, min_count: int | None, *, overwrite: bool, quiet: bool
) -> list[dict[str, object]]:
    """Create the derived files of a task, print their paths, and return their JSON report."""
    chosen = get_task(task)
    rows: list[dict[str, object]] = []
    if chosen.prepare is not None:
        for file in chosen.prepare(data_root, min_count=min_count, overwrite=overwrite):
            rows.append({"path": str(file.path), "written": file.written, "note": file.note})
            done = "written" if file.written else "kept"
            results.print(f"{done}: {file.path} ({file.note})", markup=False)
    elif not quiet:
        status.print(f"{chosen.name} needs no derived files", markup=False)
    return rows


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

    if task in SUITES:
        splits_by_task = {name: _splits_of_suite(name, split) for name in SUITES[task]}
    else:
        splits_by_task = {task: split}
    documents: dict[str, dict[str, object]] = {}
    problems: dict[str, list[str]] = {}
    for name, splits in splits_by_task.items():
        written, problems[name] = _download_task(
            name, data_root, splits or [], mirror, keep_archives=keep_archives, quiet=quiet
        )
        paths = [str(path) for path in written]
        documents[name] = {"task": name, "written": paths, "problems": problems[name]}
    if task not in SUITES:
        write_json_report(json_file, documents[task])
        if problems[task]:
            raise InputError("; ".join(problems[task]))
        return
    write_json_report(json_file, {"suite": task, "tasks": documents})
    if any(problems.values()):
        raise InputError("files could not be downloaded:\n" + _listed(problems))


def _download_task(
    task: str,
    data_root: Path,
    split: Sequence[str],
    mirror: str | None,
    *,
    keep_archives: bool,
    quiet: bool,
) -> tuple[list[Path], list[str]]:
    """Download the missing files of a task, and return those written and what went wrong."""
    from eval.errors import InputError
    from tasks._download import download_file

    chosen = get_task(task)
    if unknown := [name for name in split if name not in chosen.splits]:
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
        results.print(f"written: {path} ({format_bytes(path.stat().st_size)})", markup=False)
    if not quiet and len(missing) < len(available):
        existing = len(available) - len(missing)
        status.print(f"{task}: {existing} of {len(available)} files already existed", markup=False)
    if not quiet:
        for file in requested:
            if file.source is None and file.find(data_root) is None:
                status.print(f"not downloaded: {file.path} ({file.address})", markup=False)
    return written, problems


def _report_mebibytes(report: ProgressReport, name: str, done: int, total: int | None) -> None:
    # Rounded up.
    total_mebibytes = -(-(done if total is None else total) // MEBIBYTE)
    report(-(-done // MEBIBYTE), total_mebibytes, name)
