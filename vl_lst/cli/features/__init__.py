"""`vl-lst features`: inspect, verify, import, export, join, compress, push and pull."""

import typer

from vl_lst.cli._group import CommandGroup
from vl_lst.cli.features.compress import compress
from vl_lst.cli.features.export import export
from vl_lst.cli.features.import_ import import_
from vl_lst.cli.features.info import info
from vl_lst.cli.features.join import join
from vl_lst.cli.features.pull import pull
from vl_lst.cli.features.push import push
from vl_lst.cli.features.verify import verify

__all__ = ["features"]

features = typer.Typer(
    name="features",
    cls=CommandGroup,
    help="Inspect, verify, import, export, join, compress, push and pull feature files.\n\n"
    "Example: vl-lst features info val2014.h5",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
for command in (info, verify, import_, export, join, compress, push, pull):
    features.command(command.__name__.rstrip("_"))(command)
