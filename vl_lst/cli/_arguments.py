"""What is refused in the arguments of every command before any command sees them.

An empty text is what an unset variable of a shell leaves behind. As a path it would mean the
current folder, so it is never taken for a value.
"""

import os
from collections.abc import Sequence

__all__ = ["find_argument_problem"]


def find_argument_problem(arguments: Sequence[str]) -> str | None:
    """Say what is wrong with a command line whatever its command, `None` where nothing is.

    Args:
        arguments: Those after the program's name.
    """
    for number, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if not (equals and option.startswith("--")):
            before = arguments[number - 1] if number else ""
            option = before if before.startswith("--") and "=" not in before else ""
            value = argument
        name = option or f"argument {number + 1}"
        if not value.strip():
            return (
                f"{name} is empty: found {value!r}, expected a value. Was a variable of the shell "
                "not set?"
            )
        if "\0" in value or not _can_be_passed(value):
            return f"{name} is not valid text: found {value!a:.60}"
    return None


def _can_be_passed(text: str) -> bool:
    """Whether the text is one that the system can pass; undecodable bytes of a path are."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True
