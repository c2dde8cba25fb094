"""Formulas of the docs site as MathML, which browsers show without a script."""

import html
import re

from latex2mathml.converter import convert

__all__ = ["formulas_to_mathml"]

# What the extension `arithmatex` makes of `$...$` and `$$...$$`.
FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<kind>[\[(])(?P<latex>.*?)\\[\])]</(?P=tag)>',
    re.DOTALL,
)


def formulas_to_mathml(page: str) -> str:
    """Return the HTML of a page with its LaTeX formulas converted to MathML."""
    return FORMULA.sub(_mathml, page)


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match["kind"] == "[" else "inline"
    formula = convert(html.unescape(match["latex"]), display=display)
    return f'<{match["tag"]} class="formula">{formula}</{match["tag"]}>'
