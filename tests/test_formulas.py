"""Formulas in docstrings keep the case of their symbols, also at the start of a sentence."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = ("benchmarks", "eval", "feature_extraction", "tasks", "vl_lst")
# A formula at the start: `State + up(...)`, `G * state`, `Sigmoid(...)`.
BEGINS_WITH_FORMULA = re.compile(r"[A-Z]\w* [-+*/=@] \w|[A-Z]\w*\(")
SYMBOL = re.compile(r"(?<![\w'])([A-Za-z])(?![\w'])")
# Products and sums, but not lists of names separated by dashes.
FORMULA = re.compile(r"\w [*@+] [\w(]|\(1 - \w\)")


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node) or ""


def is_spoiled(line: str) -> bool:
    """Return whether a formula starts with a capitalised symbol or mixes cases of one letter."""
    letters = set(SYMBOL.findall(line)) if FORMULA.search(line) else set()
    both = {letter for letter in letters if letter.islower() and letter.upper() in letters}
    return bool(BEGINS_WITH_FORMULA.match(line)) or bool(both - {"a"})


@pytest.mark.parametrize("package", SOURCES)
def test_no_formula_is_spelled_as_a_sentence(package: str) -> None:
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        for text in docstrings(path):
            for line in text.splitlines():
                assert not is_spoiled(line.strip()), f"{path.relative_to(REPOSITORY)}: {line}"


@pytest.mark.parametrize(
    ("line", "spoiled"),
    [
        ("G * state + (1 - g) * rung (LST, section 3.2)", True),
        ("State + up(gelu(down(state))).", True),
        ("Sigmoid(alpha / T).", True),
        ("Return `g * y + (1 - g) * rung`.", False),
        ("A gate is g = sigmoid(alpha / T).", False),
    ],
)
def test_the_check_tells_them_apart(line: str, spoiled: bool) -> None:
    assert is_spoiled(line) == spoiled
