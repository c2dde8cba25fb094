"""`vl-lst sweep`: train a grid of settings and seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks import SUITES, get_task
from vl_lst.cli._choices import SUITE_NAMES, TASKS
from vl_lst.cli._console import QuietOption, announce_imports, results, status
from vl_lst.cli._input_protection import protect_recipe_inputs, protect_runs
from vl_lst.cli._outputs import JsonOption, binary_file, write_json_report
from vl_lst.cli._recipe_options import (
    BackboneOption,
    BackbonePrecisionOption,
    DataRootOption,
    FeaturesOption,
    HeadOption,
    MethodOption,
    StatesOption,
    TrainFileOption,
    ValidationFileOption,
    data_option,
    model_option,
    option_changes,
    refuse_settings_given_twice,
)
from vl_lst.cli._runs_progress import describe_scores, runs_progress
from vl_lst.cli._suite_scores import refuse_options_of_one_task
from vl_lst.errors import TrainingError, VlLstError

if TYPE_CHECKING:
    from eval.run_files import RunRecord
    from vl_lst.cli._sweep_runs import PlannedRun

__all__ = ["sweep"]

FEATURE_SUFFIX = ".h5"


def sweep(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="RUNS",
            help="Folder of the runs.",
            callback=binary_file("a folder of runs", is_checked=False),
        ),
    ],
    recipes_and_features: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE|FILE.h5]...",
            help="YAML file, or name of a bundled recipe; several are all trained. Default: each "
            "method's recipe. Names that end in .h5 are more feature files.",
            show_default=False,
        ),
    ] = None,
    grid: Annotated[
        list[str] | None,
        model_option(
            metavar="FIELD=VALUE,...",
            help="Recipe field and the values to train with, in YAML, such as "
            "optimizer.lr=1e-3,3e-3; may be repeated for all combinations. METHOD:FIELD=VALUE,... "
            "is for one method alone. A method without the option is trained once.",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        model_option(metavar="N[,N]...", help="Seeds to train each combination with. Default: 0."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        model_option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a field of all recipes; may be repeated. Options of methods apply to "
            "the methods that have them.",
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Maximum number of parallel runs. They share the processor's cores, and are "
            "spread over the CUDA devices.",
        ),
    ] = 1,
    print_commands: Annotated[
        bool,
        typer.Option(
            "--print-commands",
            help="Train nothing: print one `vl-lst train` command a line, for a job array.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train nothing: print a table of the runs.")
    ] = False,
    task: Annotated[
        str | None,
        data_option(
            metavar="TASK[,TASK]...",
            help=f"Task, one of {TASKS}. Several are trained together. The tasks of a suite "
            f"({SUITE_NAMES}) are trained one by one.",
        ),
    ] = None,
    data_root: DataRootOption = None,
    train_file: TrainFileOption = None,
    val_file: ValidationFileOption = None,
    features: FeaturesOption = None,
    states: StatesOption = None,
    backbone: BackboneOption = None,
    backbone_precision: BackbonePrecisionOption = None,
    method: MethodOption = None,
    head: HeadOption = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train all combinations of a grid of settings, each in a process of its own.

    Runs are in RUNS/METHOD/FIELD=VALUE/seed-N. Without a recipe, each method is trained with its
    own; with one, other methods take their learning rate and options from their own recipes.

    A run that fails does not end the others, and the exit code is then 1. Run the same command
    again to continue: finished runs are kept and interrupted ones resumed. A changed grid adds
    runs; a run whose settings would change is refused before anything is trained.

    Several recipes, all tasks of a suite: vl-lst sweep glue-lst-paper glue-lora --task glue
    --data-root data --seeds 0,1,2 --out runs

    Example: vl-lst sweep --task vqa --data-root data --features train.h5 val.h5 --backbone t5-base
    --grid method.name=lst,full,lora --grid method.options.reduction=2,4,8 --seeds 0,1,2 --jobs 2
    --out runs
    """
    if print_commands and dry_run:
        raise typer.BadParameter("found both --print-commands and --dry-run: leave one out")
    given = recipes_and_features or []
    recipes = [name for name in given if not name.endswith(FEATURE_SUFFIX)]
    files = [Path(name) for name in given if name.endswith(FEATURE_SUFFIX)]
    suite = task if task in SUITES else None
    if suite is not None:
        refuse_options_of_one_task(
            suite,
            {
                "--features": [*(features or []), *files],
                "--train-file": train_file,
                "--val-file": val_file,
                "--states": states,
            },
        )
    announce_imports(quiet=quiet)
    from vl_lst.cli._sweep_runs import plan_runs, print_plan, train_command
    from vl_lst.recipes import parse_override
    from vl_lst.recipes.grid import parse_axis, parse_values
    from vl_lst.recipes.sweep import expand_grid

    options: dict[str, object] = {
        "--task": task,
        "--data-root": data_root,
        "--train-file": train_file,
        "--val-file": val_file,
        "--features": [*(features or []), *files],
        "--states": states,
        "--backbone": backbone,
        "--backbone-precision": backbone_precision,
        "--method": method,
        "--head": head,
    }
    overrides = tuple(map(parse_override, settings or []))
    refuse_settings_given_twice(options, overrides)
    runs, notes = expand_grid(
        recipes,
        [parse_axis(text) for text in grid or []],
        None if seeds is None else parse_values(seeds, source=f"--seeds {seeds:.80}"),
        _options_of_tasks(suite, option_changes(options)),
        overrides,
    )
    planned = plan_runs(runs, out)
    protect_runs(each.folder for each in planned)
    for each in planned:
        protect_recipe_inputs(each.recipe.model_dump(mode="json"))
    if not quiet:
        for note in notes:
            status.print(f"note: {note}", markup=False)
    if print_commands:
        for run in runs:
            results.print(train_command(run, out), markup=False)
        return
    if dry_run:
        print_plan(planned)
        return
    _train(planned, out, suite, jobs, json_file, quiet=quiet)


def _options_of_tasks(
    suite: str | None, options: Sequence[tuple[str, Any]]
) -> dict[str | None, tuple[tuple[str, Any], ...]]:
    """Return the fields that options set, by the task of a suite, or by `None` without one."""
    from vl_lst.cli._suite_training import fit_head

    if suite is None:
        return {None: tuple(options)}
    return {
        task: (
            ("task", task),
            *(
                (path, fit_head(get_task(task), value) if path == "head" else value)
                for path, value in options
                if path != "task"
            ),
        )
        for task in SUITES[suite]
    }


def _train(
    planned: Sequence["PlannedRun"],
    out: Path,
    suite: str | None,
    jobs: int,
    json_file: Path | None,
    *,
    quiet: bool,
) -> None:
    """Train the runs that are not finished, and print the scores of all.

    Raises:
        TrainingError: Runs failed.
    """
    from vl_lst.cli._sweep_runs import print_scores
    from vl_lst.training.parallel_runs import train_in_parallel

    records = {each.run.name: each.record for each in planned if each.record is not None}
    if not quiet:
        for name, record in records.items():
            status.print(f"{name}: finished before, {describe_scores(record)}", markup=False)
    failures: dict[str, VlLstError] = {}
    left = {each.run.name: (each.recipe, each.folder) for each in planned if each.record is None}
    if left:
        with runs_progress("training", quiet=quiet) as shown:
            records |= train_in_parallel(
                left, processes=jobs, report=shown.report, watcher=shown, failures=failures
            )
    print_scores(planned, records, suite)
    results.print(f"runs: {out}; compare them with `vl-lst leaderboard {out}`", markup=False)
    write_json_report(json_file, _document(planned, records, failures))
    if failures:
        listed = "\n".join(f"  {name}: {error}" for name, error in failures.items())
        raise TrainingError(
            f"{len(failures)} of the {len(planned)} runs failed:\n{listed}\n"
            "Run the same command again to try them again; it keeps finished runs."
        )


def _document(
    planned: Sequence["PlannedRun"],
    records: Mapping[str, "RunRecord"],
    failures: Mapping[str, VlLstError],
) -> dict[str, object]:
    return {
        "runs": {
            name: records[name].model_dump(mode="json") if name in records else None
            for name in (each.run.name for each in planned)
        },
        "failed": {name: str(error) for name, error in failures.items()},
    }
