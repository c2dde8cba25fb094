"""Text for people: counts, sizes in bytes, escaped characters, names that are near."""

import difflib
import re
from collections.abc import Iterable

__all__ = [
    "counted",
    "did_you_mean",
    "escape_controls",
    "escape_markdown",
    "format_bytes",
    "is_utf8",
    "unknown_name",
]

UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
STEP = 1024
MAX_COMPARED_LENGTH = 100
# Control characters except tabs and line feeds, and those that change the direction of writing.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# What begins a link, code, HTML, a formula, a cell or emphasis within a line of Markdown. `://` and
# `www.` begin links too.
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~&$@^]|:(?=//)|(?<=www)\.)", re.IGNORECASE)


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number and what it counts, such as `1 example` or `2,000 examples`.

    Args:
        number: The number.
        one: What it counts, if it is 1; a verb may follow ("example has").
        many: What it counts otherwise. Default: `one` and an "s".
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def escape_controls(text: str) -> str:
    r"""Return text from data with control characters as escapes, such as `\x1b`.

    A terminal or a browser would act on them instead of showing them.
    """
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is within a line; line feeds become spaces."""
    return MARKDOWN.sub(r"\\\1", " ".join(escape_controls(text).split()))


def is_utf8(text: str) -> bool:
    """Return whether text, such as a file name from the operating system, can be UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def format_bytes(size: float, *, short: bool = False) -> str:
    """Return a size in the largest binary unit of which there is at least one, such as `3.2 MiB`.

    Args:
        size: Number of bytes.
        short: Omit trailing zeros, as on the ticks of an axis.
    """
    if size < STEP:
        number = f"{size:.4g}" if short else f"{size:,.0f}"
        return f"{number} byte{'' if number == '1' else 's'}"
    value, unit = size / STEP, 0
    # 1,023.95 would be printed as 1,024.0.
    while value >= STEP - 0.05 and unit + 1 < len(UNITS):
        value, unit = value / STEP, unit + 1
    return f"{f'{value:.4g}' if short else f'{value:,.1f}'} {UNITS[unit]}"


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "", limit: int = 3) -> str:
    """Return the end of a message that suggests similar names; empty if none is similar.

    Letter case, and the choice between `-` and `_`, make no difference.

    Args:
        name: An unknown name.
        known: Names that exist.
        prefix: Prefix of the names in the message.
        limit: Maximum number of suggestions.

    Returns:
        The end, such as "; did you mean lora or dora?".
    """
    spellings: dict[str, str] = {}
    for each in known:
        spellings.setdefault(_without_case(each), each)
    # Comparing takes time that grows with the product of the lengths.
    wanted = _without_case(name)[:MAX_COMPARED_LENGTH]
    near = difflib.get_close_matches(wanted, spellings, n=limit)
    listed = " or ".join(prefix + spellings[each] for each in near)
    return f"; did you mean {listed}?" if near else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message about a name that does not exist.

    Args:
        kind: What the name is of, such as "method".
        name: The name.
        known: Names that exist.
    """
    names = list(known)
    return f"no {kind} {name!r:.60}: expected one of: {', '.join(names)}{did_you_mean(name, names)}"


def _without_case(name: str) -> str:
    return name.casefold().replace("_", "-")
