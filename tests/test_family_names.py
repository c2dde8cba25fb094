"""Only `vl_lst/backbones` knows the families of backbones; elsewhere no name of one occurs."""

import re
from pathlib import Path

import pytest

from vl_lst.backbones.families import known_model_types
from vl_lst.backbones.published import PUBLISHED

REPOSITORY = Path(__file__).resolve().parent.parent
# Parts of identifiers, strings, comments and docstrings, in any case; resnet50 is none.
NAMES = (r"t5(?!\d)", "bart", "bert", "gemma", "blip", "pegasus", "minilm", "electra")
FAMILY_NAME = re.compile("|".join(NAMES), re.IGNORECASE)
# What may be said without knowing a family: model IDs, and the name of the paper's code.
ALLOWED = re.compile("|".join([*map(re.escape, sorted(PUBLISHED, key=len, reverse=True)), "VL-T5"]))
# The demo bundles certain models.
BUNDLED = ("vl_lst/demo/", "vl_lst/bundled.py")


def named_families(text: str) -> list[str]:
    """Return the lines that name a family, other than in what is allowed."""
    return [line for line in text.splitlines() if FAMILY_NAME.search(ALLOWED.sub("", line))]


def sources() -> list[Path]:
    """Return the files that may not name a family."""
    excluded = ("vl_lst/backbones/", *BUNDLED)
    return [
        path
        for path in sorted((REPOSITORY / "vl_lst").rglob("*.py"))
        if not path.relative_to(REPOSITORY).as_posix().startswith(excluded)
    ]


def test_no_family_is_named_outside_the_backbones() -> None:
    found = {
        path.relative_to(REPOSITORY).as_posix(): lines
        for path in sources()
        if (lines := named_families(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_the_names_cover_every_model_type() -> None:
    assert [kind for kind in known_model_types() if not FAMILY_NAME.search(kind)] == []


@pytest.mark.parametrize(
    "line",
    [
        "from transformers import T5ForConditionalGeneration",
        "    is_bart = model_type == 'mbart'",
        "# as BERT's first token",
        "backbone: such as t5-base, or another T5",
    ],
)
def test_the_check_can_fail(line: str) -> None:
    assert named_families(line) == [line]


def test_model_ids_and_the_papers_code_may_be_named() -> None:
    text = "such as t5-base or google/flan-t5-base (as VL-T5 does)"
    assert named_families(text) == []
    assert len(sources()) > 100
