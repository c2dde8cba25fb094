"""The class of `vl-lst` and of its groups of commands."""

from typing import Any

from typer.core import TyperGroup

__all__ = ["CommandGroup"]


class CommandGroup(TyperGroup):
    """A group whose option `--help` has a value that needs no conversion.

    Typer imports pydantic, which takes longer than showing the help of a command, to convert the
    missing value of this option.
    """

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option `--help` with the default `False`.

        Args:
            ctx: Typer's context.
        """
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option
