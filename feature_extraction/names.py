"""Names of images: how a file's name becomes an id, and what almost the same ids differ in.

Ids are compared exactly. Where ids are missed, `near_names` says whether they are there under names
that differ in one kind of thing, such as an image's suffix; nothing is matched by it.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from eval.image_suffixes import IMAGE_SUFFIXES

__all__ = [
    "NearNames",
    "image_id_of",
    "near_names",
    "near_names_hint",
]

SUFFIX = re.compile(rf"({'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))})(\?.*)?", re.IGNORECASE)
NUMBER = re.compile(r"(?:.*\D)?0*(\d+)", re.DOTALL)
DIGITS = re.compile(r"\d+")
ANY_SUFFIX = re.compile(r"\.(h5|hdf5|npy|npz|safetensors|pt|pth|json|txt)$", re.IGNORECASE)
SEPARATORS = re.compile(r"[\s_\-,;'\"]+")

FEATURE_FILE = "the feature file"


def image_id_of(name: str) -> str:
    r"""Return the image id that a file name stands for: without folders and an image's suffix.

    Args:
        name: As other programs write it: `train/1.jpg`, `train\1.jpg`, `1.jpg`, `1`.
    """
    return _without_suffix(_without_folders(name))


def _without_folders(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and SUFFIX.fullmatch(dot + suffix) else name


def _number(name: str) -> str:
    """Return the number that ends a name, without zeros before it: 42 of COCO_..._000042."""
    match = NUMBER.fullmatch(_plain(name))
    return match[1] if match else name


def _without_zeros(name: str) -> str:
    return DIGITS.sub(lambda match: match[0].lstrip("0") or "0", _plain(name))


def _is_bare_number(name: str) -> bool:
    return _plain(name).isdecimal()


def _plain(name: str) -> str:
    """Return a name without the differences of the first kinds below."""
    name = image_id_of(_without_invisible(unicodedata.normalize("NFC", name)).strip())
    return unicodedata.normalize("NFC", name.strip().casefold())


def _without_invisible(name: str) -> str:
    # Such as a byte-order mark, or a space of no width.
    if name.isascii() and name.isprintable():
        return name
    return "".join(each for each in name if unicodedata.category(each) not in ("Cf", "Cc"))


def _without_any_suffix(name: str) -> str:
    while (shorter := ANY_SUFFIX.sub("", _plain(name))) and shorter != name:
        name = shorter
    return name


def _without_separators(name: str) -> str:
    return SEPARATORS.sub("-", _plain(unquote(name))).strip("-")


PREFIX = "what stands before the number"

# What two names may differ in alone, the more harmless first: how to see it, and how to say it.
KINDS: dict[str, Callable[[str], str]] = {
    "the image suffix": _without_suffix,
    "spaces at the ends": str.strip,
    "folders before the name": _without_folders,
    "how Unicode composes letters and accents": lambda name: unicodedata.normalize("NFC", name),
    "letter case": str.casefold,
    "invisible characters": _without_invisible,
    "several of suffix, folders, spaces, letter case and Unicode": _plain,
    "the suffix of a file of features, or a second suffix": _without_any_suffix,
    "hyphens, underscores, spaces, quotes or escapes with %": _without_separators,
    "the decimal point of a number": lambda name: name.removesuffix(".0"),
    "zeros before a number": _without_zeros,
    PREFIX: _number,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NearNames:
    """How names that are missed are nearest to names that are there.

    Args:
        kind: What they differ in.
        count: How many of those missed differ in this alone from exactly one that is there.
        missed: The first of them.
        present: What is there instead.
    """

    kind: str
    count: int
    missed: str
    present: str


def near_names(missed: Iterable[str], present: Iterable[str]) -> NearNames | None:
    """Find the kind of difference that explains most of the names missed; `None` where none does.

    Args:
        missed: Names that are wanted and not there.
        present: Names that are there.
    """
    # Callers may pass names that are not texts; they match nothing.
    missed = [name for name in dict.fromkeys(missed) if isinstance(name, str)]
    present = list(dict.fromkeys(present))
    best: NearNames | None = None
    for kind, key in KINDS.items():
        found: defaultdict[str, list[str]] = defaultdict(list)
        for name in present:
            found[key(name)].append(name)
        near = [(name, found[key(name)]) for name in missed if key(name) in found]
        pairs = [(name, names[0]) for name, names in near if len(names) == 1]
        if kind == PREFIX:
            # The same number behind two prefixes is of two images: train_7, val_7.
            pairs = [pair for pair in pairs if any(map(_is_bare_number, pair))]
        if pairs and (best is None or len(pairs) > best.count):
            name, there = pairs[0]
            best = NearNames(kind=kind, count=len(pairs), missed=name, present=there)
    return best


def near_names_hint(
    missed: Iterable[str], present: Iterable[str], *, place: str = FEATURE_FILE
) -> str:
    """Describe how missing names differ from present ones; empty if there is no such difference.

    Args:
        missed: Names that are wanted and missing.
        present: Names that exist.
        place: Where they exist, such as "the folder".

    Returns:
        One or two sentences with a leading space, to append to a message.
    """
    near = near_names(missed, present)
    if near is None:
        return ""
    # What looks the same, such as an accent composed in two ways, is shown by its characters.
    shown = ascii if "Unicode" in near.kind else repr
    return (
        f" {near.count:,} of them differ only in {near.kind} from names in {place}: found "
        f"{shown(near.present):.80}, expected {shown(near.missed):.80}. Write the ids of the "
        f"examples as they are in {place}, or rename the files"
        f"{' and make the features again' if place == FEATURE_FILE else ''}."
    )
