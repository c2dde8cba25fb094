"""The table of families in the documentation agrees with the code."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from vl_lst.backbones.families import find_family, known_model_types
from vl_lst.backbones.published import PUBLISHED

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "backbones.md"
YES = {True: "yes", False: "no"}


def table() -> list[dict[str, str]]:
    """Return the rows of the table by the names of its columns."""
    lines = re.findall(r"^\| (.+) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    start = next(n for n, line in enumerate(lines) if line.startswith("`model_type`"))
    columns = lines[start].split(" | ")
    rows = []
    for line in lines[start + 1 :]:
        cells = line.split(" | ")
        if len(cells) != len(columns):
            break
        rows.append(dict(zip(columns, cells, strict=True)))
    return rows


def code_words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_model_type_is_in_one_row() -> None:
    listed = [kind for row in table() for kind in code_words(row["`model_type`"])]
    assert sorted(listed) == known_model_types()


@pytest.mark.parametrize("row", table(), ids=lambda row: row["`model_type`"])
def test_a_row_says_what_the_family_does(row: dict[str, str]) -> None:
    kinds = code_words(row["`model_type`"])
    for kind in kinds:
        family, config = find_family(kind), SimpleNamespace(model_type=kind)
        assert row["decoder"] == YES[family.has_decoder]
        assert row["reads images"] == YES[family.reads_images]
        derived = "from weights" if family.reads_images else "all"
        is_derived = family.matches_side_blocks and family.has_shared_positions(config)
        expected = derived if is_derived else "random"
        assert row["initialisations of a ladder"] == expected
    examples = [PUBLISHED[name]["model_type"] for name in code_words(row["such as"])]
    assert examples
    assert set(examples) <= set(kinds)


def test_all_models_that_are_known_without_a_download_are_listed() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    listed = text.partition("Without a download, `vl-lst profile`")[2].partition("\n\n")[0]
    assert set(PUBLISHED) <= set(code_words(listed))
