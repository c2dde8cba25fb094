"""Image ids: deriving them from file names, and explaining near misses.

Ids are compared exactly. For missing ids, `find_near_names` finds existing names that differ in
only one respect, such as the image suffix. The result is used only in messages.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from eval.image_suffixes import IMAGE_SUFFIXES

__all__ = [
    "NearNames",
    "abbreviate",
    "find_near_names",
    "image_id_of",
    "near_names_hint",
]

SUFFIX = re.compile(rf"({'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))})(\?.*)?", re.IGNORECASE)
NUMBER = re.compile(r"(?:.*\D)?0*(\d+)", re.DOTALL)
DIGITS = re.compile(r"\d+")
ANY_SUFFIX = re.compile(r"\.(h5|hdf5|npy|npz|safetensors|pt|pth|json|txt)$", re.IGNORECASE)
SEPARATORS = re.compile(r"[\s_\-,;'\"]+")

FEATURE_FILE = "the feature file"


def abbreviate(names: Sequence[str], limit: int = 5) -> str:
    """Return the first names for a message, such as `a, b, c and 4 more`."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def image_id_of(name: str) -> str:
    r"""Return the image id of a file name: the name without folders and image suffix.

    Args:
        name: File name in any form, such as `train/1.jpg`, `train\1.jpg`, `1.jpg` or `1`.
    """
    return _without_suffix(_without_folders(name))


def _without_folders(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and SUFFIX.fullmatch(dot + suffix) else name


def _number(name: str) -> str:
    """Return the number at the end of a name, without leading zeros: 42 for COCO_..._000042."""
    match = NUMBER.fullmatch(_plain(name))
    return match[1] if match else name


def _without_zeros(name: str) -> str:
    return DIGITS.sub(lambda match: match[0].lstrip("0") or "0", _plain(name))


def _is_bare_number(name: str) -> bool:
    return _plain(name).isdecimal()


def _plain(name: str) -> str:
    """Return a name without the differences of the first six `KINDS`."""
    name = image_id_of(_without_invisible(unicodedata.normalize("NFC", name)).strip())
    return unicodedata.normalize("NFC", name.strip().casefold())


def _without_invisible(name: str) -> str:
    # Such as a byte-order mark or a zero-width space.
    if name.isascii() and name.isprintable():
        return name
    return "".join(each for each in name if unicodedata.category(each) not in ("Cf", "Cc"))


def _without_any_suffix(name: str) -> str:
    while (shorter := ANY_SUFFIX.sub("", _plain(name))) and shorter != name:
        name = shorter
    return name


def _without_separators(name: str) -> str:
    return SEPARATORS.sub("-", _plain(unquote(name))).strip("-")


PREFIX = "the prefix of a number"

# Differences between two names, from harmless to risky: a description, and a function that maps
# names with only this difference to the same string.
KINDS: dict[str, Callable[[str], str]] = {
    "the image suffix": _without_suffix,
    "spaces at the ends": str.strip,
    "folders before the name": _without_folders,
    "how Unicode composes letters and accents": lambda name: unicodedata.normalize("NFC", name),
    "letter case": str.casefold,
    "invisible characters": _without_invisible,
    "several of suffix, folders, spaces, letter case and Unicode": _plain,
    "the suffix of a file of features, or a second suffix": _without_any_suffix,
    "hyphens, underscores, spaces, quotes or % escapes": _without_separators,
    "the decimal point of a number": lambda name: name.removesuffix(".0"),
    "leading zeros of a number": _without_zeros,
    PREFIX: _number,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NearNames:
    """The difference that explains most of the missing names.

    Args:
        kind: Description of the difference.
        count: Number of missing names with exactly one present name that differs only in this.
        missing: First of these names.
        present: Its counterpart.
    """

    kind: str
    count: int
    missing: str
    present: str


def find_near_names(missing: Iterable[str], present: Iterable[str]) -> NearNames | None:
    """Return the difference that explains most of the missing names; `None` if there is none.

    Args:
        missing: Names that are wanted and missing.
        present: Names that exist.
    """
    # Names that are not strings match nothing.
    missing = [name for name in dict.fromkeys(missing) if isinstance(name, str)]
    present = list(dict.fromkeys(present))
    best: NearNames | None = None
    for kind, key in KINDS.items():
        found: defaultdict[str, list[str]] = defaultdict(list)
        for name in present:
            found[key(name)].append(name)
        near = [(name, found[key(name)]) for name in missing if key(name) in found]
        pairs = [(name, names[0]) for name, names in near if len(names) == 1]
        if kind == PREFIX:
            # The same number after two prefixes means two images: train_7, val_7.
            pairs = [pair for pair in pairs if any(map(_is_bare_number, pair))]
        if pairs and (best is None or len(pairs) > best.count):
            name, counterpart = pairs[0]
            best = NearNames(kind=kind, count=len(pairs), missing=name, present=counterpart)
    return best


def near_names_hint(
    missing: Iterable[str], present: Iterable[str], *, place: str = FEATURE_FILE
) -> str:
    """Describe how missing names differ from present ones; empty if there is no such difference.

    Args:
        missing: Names that are wanted and missing.
        present: Names that exist.
        place: Where they exist, such as "the folder".

    Returns:
        One or two sentences with a leading space, to append to a message.
    """
    near = find_near_names(missing, present)
    if near is None:
        return ""
    # Names that look the same, such as with composed accents, are shown escaped.
    shown = ascii if "Unicode" in near.kind else repr
    return (
        f" {near.count:,} of them differ only in {near.kind} from names in {place}: found "
        f"{shown(near.present):.80}, expected {shown(near.missing):.80}. Write the ids of the "
        f"examples as they are in {place}, or rename the files"
        f"{' and extract the features again' if place == FEATURE_FILE else ''}."
    )
