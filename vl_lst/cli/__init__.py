"""The command line: `vl-lst COMMAND`, one file per command.

Exit codes: 0 success, 1 a problem with what the user gave or has, 2 wrong usage, 130 interrupted.
Commands import what they need inside their function, so that `vl-lst score` never loads torch.
"""

import sys
from collections.abc import Sequence

import typer

from vl_lst.cli._console import complain, explain, status
from vl_lst.cli.data import data
from vl_lst.cli.demo import demo
from vl_lst.cli.evaluate import evaluate
from vl_lst.cli.extract_features import extract_features
from vl_lst.cli.features import features
from vl_lst.cli.leaderboard import leaderboard
from vl_lst.cli.predict import predict
from vl_lst.cli.profile import profile
from vl_lst.cli.score import score
from vl_lst.cli.train import train
from vl_lst.errors import EXPLAINED_ERRORS

__all__ = ["app", "main"]

INTERRUPTED = 130

app = typer.Typer(
    name="vl-lst",
    help="Memory-efficient fine-tuning of a frozen CLIP-T5 on vision-and-language tasks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (
    demo,
    extract_features,
    train,
    evaluate,
    score,
    predict,
    profile,
    leaderboard,
):
    app.command(command.__name__.replace("_", "-"))(command)
app.add_typer(data)
app.add_typer(features)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: Arguments after the program's name; `None` takes them from `sys.argv`.
    """
    try:
        app(args=list(sys.argv[1:] if argv is None else argv), prog_name="vl-lst")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        status.print("interrupted")
        return INTERRUPTED
    except EXPLAINED_ERRORS as error:
        complain(explain(error))
        return 1
    return 0
