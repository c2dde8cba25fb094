"""The class of `vl-lst` and of its groups of commands."""

from typing import Any

from typer.core import TyperGroup

__all__ = ["CommandGroup"]


class CommandGroup(TyperGroup):
    """A group whose options have values that need no conversion.

    Typer imports pydantic, which takes longer than showing the help of a command, to convert the
    missing values of `--help`, `--install-completion` and `--show-completion`.
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

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters; flags that would have no value are `False`.

        Args:
            ctx: Typer's context.
        """
        parameters = super().get_params(ctx)
        for each in parameters:
            if getattr(each, "is_flag", False) and each.default is None:
                each.default = False
        return parameters
